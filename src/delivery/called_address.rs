//! The address that the attempt on this task has called, as far as it is known: the HTTP client tells it only with an
//! answer. The resolver and the connector note it, the sender asks.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;

tokio::task_local! {
    static CALLED: Cell<Option<SocketAddr>>;
}

/// Runs an attempt for which addresses are noted.
pub(super) fn tracked<T>(attempt: impl Future<Output = T>) -> impl Future<Output = T> {
    CALLED.scope(Cell::new(None), attempt)
}

/// Replaces what was noted before. Without effect outside of an attempt: a connection may outlive the attempt that
/// began it.
pub(super) fn note(address: Option<SocketAddr>) {
    let _ = CALLED.try_with(|called| called.set(address));
}

pub(super) fn noted() -> Option<SocketAddr> {
    CALLED.try_with(Cell::get).ok().flatten()
}
