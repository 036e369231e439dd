//! Accepts and serves the connections of the API. The listener limits how long a request head may take, how long an
//! answer may stay unread and how many connections are open, and decides which connection to close when there are more.
//! The app passes it the router; the listener never looks at routes.

mod activity;
mod activity_io;
mod answer;
mod connection;
mod connections;
mod descriptors;
mod framing;
mod overload_response;
mod streams;
mod strict;
mod tls;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Extensions;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::connections::figures::Figures;
pub use self::descriptors::{Shares, raise_limit};
pub use self::tls::{TlsError, TlsFiles};

use self::connection::Means;
use self::connections::Connections;
use self::connections::figures::Shortage;
use self::descriptors::Spare;
use self::overload_response::{Refusals, refuse};
use self::tls::Certificate;

/// Pause between two `accept` calls while the process is out of file descriptors; without it, the loop would spin.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);

/// The warning about missing file descriptors is logged at most this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// A bound socket that is not served yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    connections: Arc<Connections>,
    certificate: Option<Arc<Certificate>>,
}

/// Why a listener could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: {source}; choose another address with POSTHASTE_LISTEN (--listen) or, for metrics, POSTHASTE_METRICS_LISTEN"
    )]
    Bind { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Listener {
    /// Binds `address`, for at most `most` open connections.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or the TLS files cannot be used.
    pub async fn bind(address: SocketAddr, most: usize, tls: Option<TlsFiles>) -> Result<Self, ListenError> {
        let certificate = tls.map(Certificate::read).transpose()?;
        let failed = |source| ListenError::Bind { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address, connections: Connections::new(most), certificate })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of the listener, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The listener's counters; they stay readable while it serves.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::of(&self.connections)
    }

    /// Serves `router` until [`ServerHandle::stop`]. `is_known` tells from a response's extensions whether its caller
    /// had a valid key: half of the connection slots are kept for such callers.
    ///
    /// # Errors
    ///
    /// When the TLS configuration is rejected.
    pub fn serve(self, router: Router, is_known: fn(&Extensions) -> bool) -> Result<ServerHandle, TlsError> {
        let stopping = CancellationToken::new();
        let tls = self.certificate.as_ref().map(Certificate::acceptor).transpose()?;
        let means = Means::new(router, is_known, tls, stopping.clone());
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        if let Some(certificate) = self.certificate {
            tokio::spawn(certificate.follow(stopping.clone()));
        }
        let acceptor = Acceptor {
            means: Arc::new(means),
            connections: self.connections,
            tasks: tasks.clone(),
            cut: cut.clone(),
            refusals: Refusals::new(),
            spare: Spare::new(),
            said: None,
        };
        let accepting = tokio::spawn(acceptor.accept(self.socket));
        Ok(ServerHandle { stopping, cut, tasks, accepting })
    }
}

/// Stops a listener that is being served.
pub struct ServerHandle {
    stopping: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    accepting: JoinHandle<()>,
}

impl ServerHandle {
    /// Stops accepting and waits until `by` for requests under way, then drops the remaining connections. Returns
    /// whether every connection ended in time.
    pub async fn stop(self, by: Instant) -> bool {
        self.stopping.cancel();
        let ended = async {
            let _ = self.accepting.await;
            self.tasks.close();
            self.tasks.wait().await;
        };
        let in_time = timeout_at(by, ended).await.is_ok();
        self.cut.cancel();
        in_time
    }
}

/// Accepts connections and finds a slot for each.
struct Acceptor {
    means: Arc<Means>,
    connections: Arc<Connections>,
    tasks: TaskTracker,
    cut: CancellationToken,
    refusals: Refusals,
    spare: Spare,
    /// When the warning about missing file descriptors was last logged.
    said: Option<Instant>,
}

impl Acceptor {
    async fn accept(mut self, socket: TcpListener) {
        let stopping = self.means.stopping.clone();
        while let Some(accepted) = stopping.run_until_cancelled(socket.accept()).await {
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "connection closed before it was accepted");
                }
                Err(error) => _ = stopping.run_until_cancelled(self.make_do_without(&socket, &error)).await,
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        match self.connections.admit(peer.ip(), Instant::now()) {
            Some(slot) => {
                // Answers are small; waiting to fill a segment would only add delay.
                let _ = stream.set_nodelay(true);
                let served = connection::serve(stream, peer, self.means.clone(), slot);
                let cut = self.cut.clone();
                self.tasks.spawn(async move { cut.run_until_cancelled(served).await });
            }
            // A TLS peer cannot read an answer before the handshake, and there is no room for a handshake.
            None if self.means.tls.is_some() => drop(stream),
            None => self.refusals.tell(stream),
        }
    }

    /// Closes a dispensable connection, then accepts one waiting connection with the spare descriptor and answers
    /// `503`.
    async fn make_do_without(&mut self, socket: &TcpListener, error: &io::Error) {
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(%error, "connections to the API cannot be accepted; raise `ulimit -n` if files are short");
        }
        self.connections.make_room(Instant::now());
        if self.spare.give_up() {
            let waiting = tokio::time::timeout(NO_DESCRIPTOR, socket.accept()).await;
            if let Ok(Ok((stream, _))) = waiting {
                self.connections.refused.count(Shortage::Descriptors);
                refuse(stream).await;
            }
            self.spare.take_back();
        }
        tokio::time::sleep(NO_DESCRIPTOR).await;
    }
}

/// Other errors concern the whole process: no descriptor, no memory.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests;
