//! Canaries: listeners that the server must never call. Beside them, on the same port of another address, there is an
//! address that it may call. The canaries' count is book C.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::support::receiver::{Down, Receiver, Reply};

/// The one address that the servers of these tests may call: as `POSTHASTE_EGRESS_ALLOW`, and as an address.
pub(crate) const OPENED: &str = "127.0.0.2/32";
pub(crate) const OPEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The addresses of the canaries.
const CLOSED: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

pub(crate) struct Canaries {
    port: u16,
    touched: Arc<AtomicUsize>,
    _serving: Vec<AbortOnDropHandle<()>>,
}

impl Canaries {
    /// Creates canaries and an address on the same port that may be called.
    pub(crate) fn beside() -> (Self, Down) {
        for _ in 0..1_000 {
            let open = Down::at(OPEN);
            let listeners: Vec<TcpListener> = CLOSED.iter().filter_map(|ip| listener(*ip, open.port())).collect();
            if listeners.len() == CLOSED.len() {
                return (Self::on(open.port(), listeners), open);
            }
        }
        panic!("no port is free on all addresses");
    }

    /// Creates canaries and a receiver on the same port that may be called.
    pub(crate) fn beside_receiver(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (Self, Receiver) {
        let (canaries, open) = Self::beside();
        (canaries, open.come_up(script))
    }

    fn on(port: u16, listeners: Vec<TcpListener>) -> Self {
        let touched = Arc::new(AtomicUsize::new(0));
        let serve = |listener| AbortOnDropHandle::new(tokio::spawn(count(listener, touched.clone())));
        let serving = listeners.into_iter().map(serve).collect();
        Self { port, touched, _serving: serving }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A URL of a canary.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Asserts that no canary was called. It then calls each canary, to show that a call is counted: connections are
    /// counted in order, so any earlier one would be counted by now.
    pub(crate) async fn saw_nobody(&self) {
        for ip in CLOSED {
            let mut call = TcpStream::connect(SocketAddr::new(ip, self.port)).await.expect("a canary");
            let _ =
                tokio::time::timeout(Duration::from_secs(30), call.read(&mut [0])).await.expect("the canary hangs up");
        }
        assert_eq!(self.touched.load(Ordering::SeqCst), CLOSED.len(), "a canary was called");
    }
}

fn listener(ip: IpAddr, port: u16) -> Option<TcpListener> {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
    socket.bind(SocketAddr::new(ip, port)).ok()?;
    socket.listen(64).ok()
}

async fn count(listener: TcpListener, touched: Arc<AtomicUsize>) {
    while let Ok((call, _)) = listener.accept().await {
        touched.fetch_add(1, Ordering::SeqCst);
        drop(call);
    }
}
