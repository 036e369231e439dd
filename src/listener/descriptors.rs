//! How many files and sockets this process may have open, and how they are shared out. A process that has none left can
//! neither accept, nor call a receiver, nor reach its database; so what can be bounded is bounded below that.

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the database, the log, the threads and what they wait with.
const RESERVED: usize = 64;

/// Raises the limit to the most that this process may set itself; answers it.
#[must_use]
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// With fewer nothing goes on.
const LEAST_REQUESTS: usize = 2;
const LEAST_CONNECTIONS: usize = 8;

/// What needs descriptors by the hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections to the API.
    pub connections: usize,
    /// Requests to receivers at once. Whoever gets all that were wanted has room to keep connections, too.
    pub requests: usize,
}

impl Shares {
    /// What may be had of what is wanted: requests to receivers at most a quarter, and connections to the API what is
    /// left.
    #[must_use]
    pub fn of(limit: usize, wanted: Self) -> Self {
        let free = limit.saturating_sub(RESERVED);
        let requests = wanted.requests.min(free / 4).max(LEAST_REQUESTS);
        let connections = wanted.connections.min(free.saturating_sub(2 * requests)).max(LEAST_CONNECTIONS);
        Self { connections, requests }
    }
}

/// A descriptor that is kept for the moment when there is no other: given up, it lets one connection be accepted and
/// told to come again.
pub(super) struct Spare(Option<File>);

impl Spare {
    pub(super) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Answers whether there was one.
    pub(super) fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }

    pub(super) fn take_back(&mut self) {
        if self.0.is_none() {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Shares = Shares { connections: 16_384, requests: 1_024 };

    #[test]
    fn what_is_shared_out_leaves_something_for_the_rest() {
        assert_eq!(Shares::of(256, WANTED), Shares { connections: 96, requests: 48 });
        assert_eq!(Shares::of(1_024, WANTED), Shares { connections: 480, requests: 240 });
        assert_eq!(Shares::of(20_000, WANTED), WANTED);
        for limit in 128..4_096 {
            let Shares { connections, requests } = Shares::of(limit, WANTED);
            assert!(connections + 2 * requests + RESERVED <= limit, "{limit}");
        }
        assert_eq!(Shares::of(0, WANTED), Shares { connections: LEAST_CONNECTIONS, requests: LEAST_REQUESTS });
    }
}
