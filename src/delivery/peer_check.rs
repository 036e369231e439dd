//! The last check of the guard: the remote address of a new connection, before anything is sent through it. A layer of
//! the HTTP client's connector. Only vetted addresses are dialled, so this check refuses nothing unless client or
//! resolver are at fault.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Extensions;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpInfo};
use tower::{BoxError, Layer, Service};

use super::guard::{Guard, GuardError};

#[derive(Clone)]
pub(super) struct CheckPeer {
    pub(super) guard: Arc<Guard>,
}

impl<S> Layer<S> for CheckPeer {
    type Service = Vetting<S>;

    fn layer(&self, connector: S) -> Vetting<S> {
        Vetting { connector, guard: self.guard.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Vetting<S> {
    connector: S,
    guard: Arc<Guard>,
}

impl<S, R> Service<R> for Vetting<S>
where
    S: Service<R, Error = BoxError>,
    S::Response: Connection,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (connecting, guard) = (self.connector.call(request), self.guard.clone());
        Box::pin(async move {
            let connection = connecting.await?;
            vet(&guard, &connection)?;
            Ok(connection)
        })
    }
}

/// Refuses a connection without a known remote address, because it may lead anywhere.
fn vet(guard: &Guard, connection: &impl Connection) -> Result<(), GuardError> {
    guard.check_connection(remote_of(&connection.connected()).ok_or(GuardError::Connection)?)
}

/// The address at the other end of a connection.
pub(super) fn remote_of(connected: &Connected) -> Option<SocketAddr> {
    let mut known = Extensions::new();
    connected.get_extras(&mut known);
    known.get::<HttpInfo>().map(HttpInfo::remote_addr)
}
