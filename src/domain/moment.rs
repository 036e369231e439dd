//! Wall-clock moments as rows and the API show them. Pure: code that decides takes `now` as an argument, and only
//! [`crate::clock`] reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z; as text RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

/// 9999-12-30T22:00:00.000Z, the last moment that jiff makes of milliseconds: it can be written in every time zone.
pub(crate) const LAST: i64 = 253_402_207_200_000;

impl UnixMillis {
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment plus `wait`; stops at the year 9999.
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

/// A text that is not an RFC 3339 moment between 1970 and 9999.
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

/// Whether a text is an RFC 3339 time that is too late to be written in every time zone. Such a time means "never".
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
