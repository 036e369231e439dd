//! Listeners that nobody may ever call, and beside them, on the same port of another address, one that may be: book C.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::receiver::{Down, Receiver, Reply};

/// The one address that the servers of these tests may call, as `POSTHASTE_EGRESS_ALLOW` and by itself.
pub(crate) const OPENED: &str = "127.0.0.2/32";
pub(crate) const OPEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Where the canaries sit.
const CLOSED: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

pub(crate) struct Canaries {
    port: u16,
    touched: Arc<AtomicUsize>,
    _serving: Vec<AbortOnDropHandle<()>>,
}

impl Canaries {
    /// Canaries, and an address on the same port that may be called.
    pub(crate) fn beside() -> (Self, Down) {
        for _ in 0..1_000 {
            let open = Down::at(OPEN);
            let listeners: Vec<TcpListener> = CLOSED.iter().filter_map(|ip| listener(*ip, open.port())).collect();
            if listeners.len() == CLOSED.len() {
                return (Self::on(open.port(), listeners), open);
            }
        }
        panic!("no port that is free everywhere");
    }

    /// Canaries, and a receiver on the same port that may be called.
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

    /// Where nobody may go.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Nobody has called. Calls each of them to show that this would have been noticed: they count in order, so that
    /// whoever came before would have been counted by now.
    pub(crate) async fn saw_nobody(&self) {
        for ip in CLOSED {
            let mut call = TcpStream::connect(SocketAddr::new(ip, self.port)).await.expect("a canary");
            let _ = tokio::time::timeout(Duration::from_secs(30), call.read(&mut [0])).await.expect("it hangs up");
        }
        assert_eq!(self.touched.load(Ordering::SeqCst), CLOSED.len(), "somebody has called a canary");
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
