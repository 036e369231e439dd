//! Resolves receivers' names for the HTTP client and returns vetted addresses only. `dns` looks the addresses up, the
//! guard checks them, and `failure` finds these errors again inside the client's.

pub mod dns;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::{Instant, timeout_at};

use self::dns::{Dns, MAX_ADDRESSES};
use super::called_address;
use super::guard::{Guard, GuardError};

tokio::task_local! {
    /// The deadline of the attempt on this task. The sender sets it: the HTTP client offers no other way to pass it to
    /// a resolver.
    pub(super) static DEADLINE: Instant;
}

/// A lookup ends this long before its attempt. Connecting would be too late by then, and the outcome stays distinct
/// from that of a receiver that was too slow.
const GIVE_UP_BEFORE: Duration = Duration::from_millis(20);

/// Resolves a name and lets the guard check every address.
#[derive(Debug, Clone)]
pub struct VettedResolver {
    pub guard: Arc<Guard>,
    pub dns: Arc<Dns>,
}

impl Resolve for VettedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { guard, dns } = self.clone();
        Box::pin(async move {
            let found = in_time(dns.addresses(name.as_str())).await?;
            // Port 0 stands for the URL's port.
            let vetted = vetted(&guard, found)?;
            called_address::note(only_one(&vetted).map(|ip| SocketAddr::new(ip, 0)));
            let dialled = vetted.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(dialled) as Addrs)
        })
    }
}

/// Why a name has no address that may be dialled. The webhook's owner sees the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("there is no such name; check the URL's host")]
    NoSuchName,
    #[error("the name has no address, it needs an A or an AAAA record")]
    Empty,
    #[error("the name has more than {MAX_ADDRESSES} addresses, which is more than are accepted")]
    TooMany,
    #[error("the DNS servers cannot resolve the name; check that those of its zone answer")]
    Failed,
    #[error("the name was not resolved in time; check that the DNS servers of its zone answer")]
    TooSlow,
    /// Never names the address: tenants could map the operator's internal network with it.
    #[error(transparent)]
    Refused(#[from] GuardError),
}

/// Runs a lookup that ends before the attempt on this task does. Without an attempt, the lookup has no deadline.
pub(super) async fn in_time<F>(lookup: F) -> Result<Vec<IpAddr>, ResolveError>
where
    F: Future<Output = Result<Vec<IpAddr>, ResolveError>>,
{
    let Some(give_up) = DEADLINE.try_with(|deadline| deadline.checked_sub(GIVE_UP_BEFORE)).ok().flatten() else {
        return lookup.await;
    };
    timeout_at(give_up, lookup).await.unwrap_or(Err(ResolveError::TooSlow))
}

/// Of several addresses, only an open connection tells which one was called.
fn only_one(vetted: &[IpAddr]) -> Option<IpAddr> {
    vetted.first().copied().filter(|_| vetted.len() == 1)
}

/// All addresses, or none: a name with one forbidden address is treated as an attack.
fn vetted(guard: &Guard, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, ResolveError> {
    if found.is_empty() {
        return Err(ResolveError::Empty);
    }
    let all_may_be_called = found.iter().all(|ip| guard.check_address(*ip).is_ok());
    all_may_be_called.then_some(found).ok_or(ResolveError::Refused(GuardError::ResolvedAddress))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vet(found: &[&str]) -> Result<usize, ResolveError> {
        let found = found.iter().map(|ip| ip.parse().unwrap()).collect();
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
}
