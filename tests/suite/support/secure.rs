//! TLS in front of a receiver: the certificate that it presents, and whether it demands one from the client.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::receiver::Receiver;
use test_support::certificates::{Authority, Issued, accept, acceptor};

pub(crate) struct Secure {
    address: SocketAddr,
    pub(crate) receiver: Receiver,
    serving: JoinHandle<()>,
}

impl Secure {
    pub(crate) async fn before(receiver: Receiver, shown: &Issued, clients_of: Option<&Authority>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (acceptor, inner) = (acceptor(shown, clients_of), receiver.address());
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((outer, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Some(mut outer) = accept(&acceptor, outer).await else { return };
                    let mut inner = TcpStream::connect(inner).await.expect("the receiver listens");
                    // Either side may close the connection at any time.
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, receiver, serving }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
