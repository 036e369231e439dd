//! Wall-clock moments as the rows and the API know them, and the clock of this process, which does not jump when the
//! system's does. Moments are plain data: pure code takes `now` as an argument.

mod slew;

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use self::slew::{Meaning, Reading, Slew};

/// Milliseconds since 1970-01-01T00:00:00Z; as text RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

/// 9999-12-30T22:00:00.000Z, the last moment that the library makes of milliseconds: it can be written in every time zone.
const LAST: i64 = 253_402_207_200_000;

impl UnixMillis {
    /// By this process's clock: by which everything is waited for and recorded.
    #[must_use]
    pub fn now() -> Self {
        Self(slew().read().at(steady()).div_euclid(1000))
    }

    /// As the rest of the world has it, as far as is known here: for what others compare with clocks of their own. Jumps
    /// when the reference does.
    #[must_use]
    pub fn now_reference() -> Self {
        Self(slew().read().reference_at(steady()).div_euclid(1000))
    }

    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment moved later; stops at the year 9999.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(LAST);
        Self(self.0.saturating_add(wait).min(LAST))
    }

    /// How long until this moment; zero when it has passed.
    #[must_use]
    pub fn since(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(now.0)).unwrap_or(0))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0.clamp(0, LAST)).map_err(|_| fmt::Error)?;
        write!(f, "{moment:.3}")
    }
}

/// How often the system's clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Clocks that are apart by no more are none of anybody's business.
const NOTED_MS: i64 = 1000;

/// The reference is being asked for the time.
#[derive(Debug)]
pub(crate) struct Question {
    asked_at: Duration,
}

impl Question {
    #[must_use]
    pub(crate) fn ask() -> Self {
        Self { asked_at: steady() }
    }

    /// It has answered. The answer was given at some moment since it was asked.
    pub(crate) fn answered(self, said: UnixMillis) {
        let took = steady().saturating_sub(self.asked_at);
        let uncertainty = i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX);
        let reading = Reading { at: self.asked_at + took / 2, said: said.0.saturating_mul(1000), uncertainty };
        let meaning = slew().write().observe(reading);
        match meaning {
            Meaning::InStep => {}
            Meaning::Jumped(by) => {
                let by_ms = by / 1000;
                tracing::warn!(by_ms, "the clock has jumped; if it stays so, it is followed slowly");
            }
            Meaning::Taken(by) => tracing::warn!(by_ms = by / 1000, "the clock has stayed where it jumped to"),
        }
    }
}

/// Takes the system's clock as the reference, for a process whose database has none.
pub(crate) async fn follow_the_system() {
    each_look(|| Question::ask().answered(by_the_system())).await;
}

/// Says when the system's clock is not the reference's: nothing is waited for by it, but logs and certificates go by it.
pub(crate) async fn watch_the_system() {
    let mut said_ms = 0;
    each_look(|| {
        let by_ms = by_the_system().0 - UnixMillis::now_reference().0;
        if (by_ms - said_ms).abs() <= NOTED_MS {
            return;
        }
        said_ms = by_ms;
        if by_ms.abs() > NOTED_MS {
            tracing::warn!(by_ms, "the system's clock is ahead of the database's, which is the one that counts");
        } else {
            tracing::info!("the system's clock is the database's again");
        }
    })
    .await;
}

async fn each_look(mut look: impl FnMut()) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look();
    }
}

/// Set by the system's clock until a reference is heard.
fn slew() -> &'static RwLock<Slew> {
    static SLEW: OnceLock<RwLock<Slew>> = OnceLock::new();
    SLEW.get_or_init(|| RwLock::new(Slew::new(steady(), by_the_system().0 * 1000)))
}

/// The one look at the system's clock. What logs say comes from there, too.
pub(crate) fn by_the_system() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(LAST))
}

/// Since the machine was started. Nobody can set it; on Linux it goes on while the machine sleeps.
fn steady() -> Duration {
    #[cfg(target_os = "linux")]
    let id = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = ClockId::Monotonic;
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

/// A text that is no RFC 3339 moment between 1970 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an RFC 3339 time such as 2026-11-23T08:00:00.000Z")]
pub struct TimeError;

impl std::str::FromStr for UnixMillis {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let millis = match text.parse::<jiff::Timestamp>() {
            Ok(moment) => moment.as_millisecond(),
            Err(_) if is_in_the_last_hours(text) => LAST,
            Err(_) => return Err(TimeError),
        };
        if millis < 0 { Err(TimeError) } else { Ok(Self(millis.min(LAST))) }
    }
}

/// Whether a text is a time that RFC 3339 can write, too late to be written in every time zone. Who gives one means
/// "never".
fn is_in_the_last_hours(text: &str) -> bool {
    let Ok(time) = jiff::fmt::temporal::Pieces::parse(text) else { return false };
    let date = time.date();
    (date.year(), date.month()) == (9999, 12) && date.day() >= 30 && time.time().is_some() && time.offset().is_some()
}

impl Serialize for UnixMillis {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_utc_with_milliseconds() {
        let moment: UnixMillis = "2026-11-23T09:00:00+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-23T08:00:00.000Z");
        assert_eq!("yesterday".parse::<UnixMillis>(), Err(TimeError));
        assert_eq!("-000001-01-01T00:00:00Z".parse::<UnixMillis>(), Err(TimeError));
    }

    #[test]
    fn the_last_times_are_one_and_can_be_written() {
        let last = UnixMillis(LAST);
        assert_eq!(last.to_string(), "9999-12-30T22:00:00.000Z");
        assert_eq!(UnixMillis(0).plus(Duration::MAX), last);
        for late in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999-05:00", "9999-12-30T22:00:01+00:00"] {
            assert_eq!(late.parse(), Ok(last), "{late}");
        }
        assert_eq!("9999-12-30T22:00:00.999Z".parse(), Ok(last));
        for odd in [
            "9999-12-31",
            "9999-12-31T23:59:59",
            "9999-12-31T24:59:59Z",
            "10000-01-01T00:00:00Z",
            "9999-13-31T00:00:00Z",
        ] {
            assert_eq!(odd.parse::<UnixMillis>(), Err(TimeError), "{odd}");
        }
    }
}
