//! Wall-clock moments as the rows and the API know them. Plain data: pure code takes `now` as an argument.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z; as text RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
const LAST: i64 = 253_402_300_799_999;

impl UnixMillis {
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(LAST))
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

/// A text that is no RFC 3339 moment between 1970 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an RFC 3339 time such as 2026-11-23T08:00:00.000Z")]
pub struct TimeError;

impl std::str::FromStr for UnixMillis {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| TimeError)?;
        let millis = moment.as_millisecond();
        (0..=LAST).contains(&millis).then_some(Self(millis)).ok_or(TimeError)
    }
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
}
