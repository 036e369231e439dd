//! Checks a PostgreSQL server before anything is promised on it. Runs when the database is opened.

use std::time::Instant;

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement};

use crate::clock::{self, Question};
use crate::domain::moment::UnixMillis;
use crate::store::OpenError;

/// The oldest version that is tested.
const OLDEST: i32 = 150_000;

/// Clock skew that is logged. Retries and leases count in seconds: nobody notices less.
const SKEW_NOTED_MS: i64 = 1000;

/// Clock skew that is refused. With it, times in answers and logs mislead, and receivers soon refuse signatures for
/// their age.
const SKEW_REFUSED_MS: i64 = 30_000;

const FORCE: &str = "POSTHASTE_FORCE_UNSAFE_DATABASE=true";

const FACTS: &str = "SELECT current_setting('server_version_num')::int4 AS version, \
    current_setting('server_version') AS version_text, current_setting('fsync') AS fsync, \
    current_setting('synchronous_commit') AS synchronous_commit, pg_is_in_recovery() AS is_standby, \
    (SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()) AS encoding, \
    (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::int8 AS clock";

#[derive(Debug, Clone, FromQueryResult)]
struct Facts {
    version: i32,
    version_text: String,
    fsync: String,
    synchronous_commit: String,
    is_standby: bool,
    encoding: String,
    clock: i64,
}

pub(super) async fn run<C: ConnectionTrait>(on: &C, force: bool) -> Result<(), OpenError> {
    let facts = || Facts::find_by_statement(Statement::from_string(DbBackend::Postgres, FACTS)).one(on);
    // The first query prepares the statement; the second is short enough to compare clocks by.
    facts().await?;
    let (began, question) = (Instant::now(), Question::ask());
    let Some(facts) = facts().await? else { return Ok(()) };
    let (took, now) = (i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX), clock::by_the_system());
    for warning in judge(&facts, skew(facts.clock, now, took), force)? {
        tracing::warn!("{warning}");
    }
    question.answered(UnixMillis(facts.clock));
    Ok(())
}

/// How far the server's clock is ahead of ours: the least difference that fits an answer which took this long.
fn skew(server: i64, now: UnixMillis, took_ms: i64) -> i64 {
    let (earliest, latest) = (server - now.0, server + took_ms - now.0);
    if earliest > 0 { earliest } else { latest.min(0) }
}

fn refused<T>(why: String) -> Result<T, OpenError> {
    Err(OpenError::Setting(why))
}

/// Returns what to warn of, or why not to start.
fn judge(facts: &Facts, skew_ms: i64, force: bool) -> Result<Vec<String>, OpenError> {
    let Facts { version, version_text, fsync, synchronous_commit, is_standby, encoding, clock: _ } = facts;
    if *version < OLDEST {
        return refused(format!("database: PostgreSQL {version_text} is not accepted; expected 15 or newer"));
    }
    if *is_standby {
        return refused("database: the server is a standby, which takes no writes; expected the primary".to_owned());
    }
    if encoding != "UTF8" {
        return refused(format!("database: the encoding {encoding} is not accepted; expected UTF8"));
    }
    let mut warnings = Vec::new();
    let mut unsafe_setting = |name: &str, was: &str, accepted: &str| {
        let why = format!("database: {name} = {was} may lose what was accepted; expected {accepted}");
        if force {
            warnings.push(why);
            return Ok(());
        }
        refused(format!("{why}, or {FORCE}"))
    };
    if fsync == "off" {
        unsafe_setting("fsync", fsync, "on")?;
    }
    if synchronous_commit == "off" {
        unsafe_setting("synchronous_commit", synchronous_commit, "on, local, remote_write or remote_apply")?;
    }
    if skew_ms.abs() >= SKEW_NOTED_MS {
        let ahead = if skew_ms > 0 { "ahead of" } else { "behind" };
        let why = format!("database: its clock is {} ms {ahead} this machine's", skew_ms.abs());
        if skew_ms.abs() >= SKEW_REFUSED_MS && !force {
            return refused(format!("{why}; expected less than {SKEW_REFUSED_MS} ms, or {FORCE}"));
        }
        warnings.push(why);
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Facts {
        Facts {
            version: 150_004,
            version_text: "15.4".to_owned(),
            fsync: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            is_standby: false,
            encoding: "UTF8".to_owned(),
            clock: 0,
        }
    }

    #[test]
    fn a_sound_server_is_taken_without_a_word() {
        assert_eq!(judge(&sound(), 999, false).unwrap(), Vec::<String>::new());
        let local = Facts { synchronous_commit: "local".to_owned(), ..sound() };
        assert_eq!(judge(&local, -999, false).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_relied_on_is_refused_by_name_and_may_be_forced_where_it_works_at_all() {
        let off = || "off".to_owned();
        let old = Facts { version: 140_012, version_text: "14.12".to_owned(), ..sound() };
        for (facts, skew, said, can_be_forced) in [
            (old, 0, "PostgreSQL 14.12 is not accepted; expected 15 or newer", false),
            (Facts { is_standby: true, ..sound() }, 0, "expected the primary", false),
            (Facts { encoding: "LATIN1".to_owned(), ..sound() }, 0, "LATIN1 is not accepted; expected UTF8", false),
            (Facts { fsync: off(), ..sound() }, 0, "fsync = off may lose what was accepted; expected on", true),
            (Facts { synchronous_commit: off(), ..sound() }, 0, "synchronous_commit = off", true),
            (sound(), 30_000, "its clock is 30000 ms ahead of this machine's; expected less than 30000 ms", true),
            (sound(), -31_000, "its clock is 31000 ms behind this machine's", true),
        ] {
            let refused = judge(&facts, skew, false).unwrap_err();
            assert!(refused.is_configuration() && refused.to_string().contains(said), "{refused}");
            assert_eq!(judge(&facts, skew, true).is_ok_and(|warnings| warnings.len() == 1), can_be_forced, "{said}");
        }
    }

    #[test]
    fn a_clock_that_is_a_little_off_is_mentioned() {
        assert_eq!(judge(&sound(), 1000, false).unwrap(), ["database: its clock is 1000 ms ahead of this machine's"]);
    }

    #[test]
    fn an_answer_that_took_long_is_no_difference_of_clocks() {
        let now = UnixMillis(100_000);
        assert_eq!(skew(95_000, now, 6_000), 0, "it may have been written five seconds ago");
        assert_eq!(skew(95_000, now, 1_000), -4_000);
        assert_eq!(skew(103_000, now, 6_000), 3_000);
    }
}
