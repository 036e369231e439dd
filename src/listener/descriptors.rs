//! Shares the process's file descriptors between connections to the API and requests to receivers. A process without
//! free descriptors can neither accept a connection, nor call a receiver, nor reach its database; so both kinds are
//! kept below the limit. The app calls this at the start.

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the database, the log, the threads and their event queues.
const RESERVED: usize = 64;

/// Raises the soft limit of open files to the hard limit; returns the limit that then applies.
#[must_use]
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Floors, below which the server could not work at all.
const LEAST_REQUESTS: usize = 2;
const LEAST_CONNECTIONS: usize = 8;

/// How many of each kind there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections to the API.
    pub connections: usize,
    /// Requests to receivers. Each counts two descriptors: one for the request and one for a connection that is kept
    /// idle.
    pub requests: usize,
}

impl Shares {
    /// Cuts `wanted` down to `limit`: requests to receivers get at most a quarter of the free descriptors, connections
    /// to the API what is left.
    #[must_use]
    pub fn of(limit: usize, wanted: Self) -> Self {
        let free = limit.saturating_sub(RESERVED);
        let requests = wanted.requests.min(free / 4).max(LEAST_REQUESTS);
        let connections = wanted.connections.min(free.saturating_sub(2 * requests)).max(LEAST_CONNECTIONS);
        Self { connections, requests }
    }
}

/// A descriptor held in reserve. When no other is free, the acceptor gives it up, accepts one connection with it and
/// answers `503`.
pub(super) struct Spare(Option<File>);

impl Spare {
    pub(super) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Returns whether there was a spare descriptor.
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
