//! Resolves the names of receivers for the HTTP client and lets it see vetted addresses only. The guard judges, the
//! sender finds these errors again in the client's.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::{Instant, timeout_at};

use super::guard::{Guard, GuardError};

tokio::task_local! {
    /// When the attempt ends that is being made on this task. Set by the sender: the client offers no other way to tell
    /// a resolver.
    pub(super) static DEADLINE: Instant;
}

/// A lookup is given up this long before the attempt ends: too late to connect anyway, and the attempt can be told
/// apart from one whose receiver was too slow.
const GIVE_UP_BEFORE: Duration = Duration::from_millis(20);

/// The system's resolver behind the guard.
#[derive(Debug, Clone)]
pub struct VettedResolver {
    pub guard: Arc<Guard>,
}

impl Resolve for VettedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let found = in_time(look_up(name.as_str())).await?;
            Ok(Box::new(vetted(&guard, found)?.into_iter()) as Addrs)
        })
    }
}

/// Why a name leads to no address that may be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("the name cannot be resolved")]
    Failed,
    #[error("the name has no address")]
    Empty,
    #[error("the name was not resolved in time")]
    TooSlow,
    /// Never says which address: that would map the inside of the operator's network for tenants.
    #[error(transparent)]
    Refused(#[from] GuardError),
}

/// One lookup. The final dot makes the name fully qualified, so that no search list of the system is tried.
async fn look_up(name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    // Port 0 stands for the one in the URL.
    let found = tokio::net::lookup_host((format!("{}.", name.trim_end_matches('.')), 0)).await;
    found.map(Iterator::collect).map_err(|error| {
        tracing::debug!(name, %error, "a receiver's name cannot be resolved");
        ResolveError::Failed
    })
}

/// A lookup that ends before the attempt that asks, if there is one.
pub(super) async fn in_time<F>(lookup: F) -> Result<Vec<SocketAddr>, ResolveError>
where
    F: Future<Output = Result<Vec<SocketAddr>, ResolveError>>,
{
    let Some(give_up) = DEADLINE.try_with(|deadline| deadline.checked_sub(GIVE_UP_BEFORE)).ok().flatten() else {
        return lookup.await;
    };
    timeout_at(give_up, lookup).await.unwrap_or(Err(ResolveError::TooSlow))
}

/// All of the addresses, or none: a name with one address that may not be called is trying something.
fn vetted(guard: &Guard, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ResolveError> {
    if found.is_empty() {
        return Err(ResolveError::Empty);
    }
    let all_may_be_called = found.iter().all(|address| guard.check_address(address.ip()).is_ok());
    all_may_be_called.then_some(found).ok_or(ResolveError::Refused(GuardError::ResolvedAddress))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vet(found: &[&str]) -> Result<usize, ResolveError> {
        let found = found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        vetted(&Guard::new(false, Vec::new()), found).map(|vetted| vetted.len())
    }

    #[test]
    fn a_name_with_public_addresses_keeps_all_of_them() {
        assert_eq!(vet(&["1.1.1.1", "2606:4700:4700::1111"]), Ok(2));
    }

    #[test]
    fn one_refused_address_refuses_the_name() {
        for inner in ["10.0.0.1", "169.254.169.254", "127.0.0.1", "::1", "::ffff:10.0.0.1"] {
            assert_eq!(vet(&["1.1.1.1", inner]), Err(ResolveError::Refused(GuardError::ResolvedAddress)));
        }
    }

    #[test]
    fn a_name_without_addresses_is_no_permission() {
        assert_eq!(vet(&[]), Err(ResolveError::Empty));
    }

    #[test]
    fn a_refusal_shows_no_resolved_address() {
        assert!(!vet(&["10.1.2.3"]).unwrap_err().to_string().contains("10."));
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_cannot_be_resolved() {
        assert_eq!(look_up("no-such-name.invalid").await, Err(ResolveError::Failed));
    }
}
