//! Judges whether the server that answers has every transaction that this node has seen. A standby that took over
//! without the last commits, a copy, or a server that was set back to an older state has lost some, and gives their
//! numbers to other transactions. Pure.

use sea_orm::FromQueryResult;

use crate::store::StoreError;

/// The moment at which the server was started, in a column named `started`: costs nothing, and differs between any two
/// servers.
pub(in crate::store) const STARTED: &str = "EXTRACT(EPOCH FROM pg_postmaster_start_time())::text AS started";

/// The columns that [`Server`] is read from. They need no superuser.
pub(in crate::store) const SERVER: &str = "EXTRACT(EPOCH FROM pg_postmaster_start_time())::text AS started, \
    (SELECT system_identifier FROM pg_control_system()) AS system, \
    left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) AS timeline, \
    (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8 AS flushed";

#[derive(Debug, FromQueryResult)]
pub(in crate::store) struct ServerRow {
    started: String,
    system: i64,
    timeline: String,
    flushed: i64,
}

/// The server's identity and log position when it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// The moment at which the server was started, as text.
    pub(super) started: String,
    /// Set by `initdb`; physical copies have the same.
    pub(super) system: i64,
    /// Rises with every promotion.
    pub(super) timeline: u32,
    /// The position up to which the write-ahead log was on disk.
    pub(super) flushed: i64,
}

impl TryFrom<ServerRow> for Server {
    type Error = StoreError;

    fn try_from(ServerRow { started, system, timeline, flushed }: ServerRow) -> Result<Self, StoreError> {
        let timeline = u32::from_str_radix(&timeline, 16).map_err(|error| StoreError::unreadable("timeline", error))?;
        Ok(Self { started, system, timeline, flushed })
    }
}

/// How the server relates to what this node has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// The server has everything that this node has seen.
    Unbroken,
    /// The server may lack transactions that this node has seen.
    Diverged,
    /// The server was left behind by a promotion that this node has seen.
    Superseded,
}

impl Server {
    /// Compares the server as this node knows it with the server that answers `now`. `lease`: the end of this node's
    /// lease as of the last renewal, and its end in the rows of `now`, if the node is there. A server that was only
    /// restarted has at least the log that was on its disk, and the last renewal.
    pub(super) fn continuity(&self, now: &Self, lease: (i64, Option<i64>)) -> Continuity {
        if now.system != self.system {
            return Continuity::Diverged;
        }
        if now.timeline < self.timeline {
            return Continuity::Superseded;
        }
        let (renewed, there) = lease;
        let has_renewal = there.is_some_and(|there| there >= renewed);
        let is_same = now.started == self.started || (now.flushed >= self.flushed && has_renewal);
        if now.timeline == self.timeline && is_same { Continuity::Unbroken } else { Continuity::Diverged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_server_goes_on_and_one_that_lacks_what_was_seen_does_not() {
        let known = Server { started: "1".to_owned(), system: 7, timeline: 2, flushed: 100 };
        let restarted = Server { started: "2".to_owned(), flushed: 120, ..known.clone() };
        let renewed = (50, Some(50));
        let cases = [
            ("the same", known.clone(), renewed, Continuity::Unbroken),
            ("the same, and this node was reaped", known.clone(), (50, None), Continuity::Unbroken),
            ("restarted", restarted.clone(), renewed, Continuity::Unbroken),
            (
                "restarted with less of its log",
                Server { flushed: 99, ..restarted.clone() },
                renewed,
                Continuity::Diverged,
            ),
            ("restarted without the last renewal", restarted.clone(), (50, Some(49)), Continuity::Diverged),
            ("restarted without this node", restarted.clone(), (50, None), Continuity::Diverged),
            ("promoted", Server { timeline: 3, ..restarted.clone() }, renewed, Continuity::Diverged),
            ("left behind", Server { timeline: 1, ..restarted.clone() }, renewed, Continuity::Superseded),
            ("another system", Server { system: 8, timeline: 1, ..restarted }, renewed, Continuity::Diverged),
        ];
        for (what, now, lease, continuity) in cases {
            assert_eq!(known.continuity(&now, lease), continuity, "{what}");
        }
    }
}
