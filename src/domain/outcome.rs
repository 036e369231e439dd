//! How an attempt ended. The sender sets the outcome, [`crate::delivery::decide`] draws the verdict from it, and the store
//! keeps its kind. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::domain::moment::UnixMillis;

/// A receiver can ask for a day of silence at most. Longer hints are mistakes (seconds mixed up with milliseconds) or
/// would outlive the event's use.
pub const RETRY_AFTER_CAP: Duration = Duration::from_hours(24);

/// How an attempt ended, with the details that the retry decision needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx answer within the deadline.
    Success,
    /// Any other answer, redirects included.
    Rejected,
    /// 429, or 503 with a `Retry-After`: the receiver asks for time.
    Throttled { retry_after: Option<Duration> },
    /// 410: the receiver wants no more requests of this webhook.
    Gone,
    /// The deadline passed before the answer was complete.
    TimedOut,
    /// No connection could be opened.
    ConnectFailed,
    /// The connection was opened, but the TLS handshake failed.
    TlsFailed,
    /// The name could not be resolved.
    DnsFailed,
    /// The guard refused the address.
    Blocked,
    /// A connection was opened, but no valid HTTP answer came.
    ProtocolError,
    /// The attempt failed inside this process: its task panicked, or the body of its event could not be read.
    Crashed,
}

impl Outcome {
    /// Classifies an answer by its status code alone. `retry_after` counts for 429 and 503 only.
    #[must_use]
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            200..=299 => Self::Success,
            410 => Self::Gone,
            429 => Self::Throttled { retry_after },
            503 if retry_after.is_some() => Self::Throttled { retry_after },
            _ => Self::Rejected,
        }
    }

    #[must_use]
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Success => OutcomeKind::Success,
            Self::Rejected => OutcomeKind::Rejected,
            Self::Throttled { .. } => OutcomeKind::Throttled,
            Self::Gone => OutcomeKind::Gone,
            Self::TimedOut => OutcomeKind::TimedOut,
            Self::ConnectFailed => OutcomeKind::ConnectFailed,
            Self::TlsFailed => OutcomeKind::TlsFailed,
            Self::DnsFailed => OutcomeKind::DnsFailed,
            Self::Blocked => OutcomeKind::Blocked,
            Self::ProtocolError => OutcomeKind::ProtocolError,
            Self::Crashed => OutcomeKind::Crashed,
        }
    }
}

/// An outcome without its details: the number in the rows and the word in the API. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OutcomeKind {
    Success = 0,
    Rejected = 1,
    Throttled = 2,
    Gone = 3,
    TimedOut = 4,
    ConnectFailed = 5,
    TlsFailed = 6,
    DnsFailed = 7,
    Blocked = 8,
    ProtocolError = 9,
    Crashed = 10,
}

impl OutcomeKind {
    /// Every kind, in the order of its code.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Rejected,
        Self::Throttled,
        Self::Gone,
        Self::TimedOut,
        Self::ConnectFailed,
        Self::TlsFailed,
        Self::DnsFailed,
        Self::Blocked,
        Self::ProtocolError,
        Self::Crashed,
    ];

    /// The number in the rows.
    #[must_use]
    pub fn code(self) -> i16 {
        i16::from(self as u8)
    }

    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
            Self::Throttled => "throttled",
            Self::Gone => "gone",
            Self::TimedOut => "timed_out",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailed => "tls_failed",
            Self::DnsFailed => "dns_failed",
            Self::Blocked => "blocked",
            Self::ProtocolError => "protocol_error",
            Self::Crashed => "crashed",
        }
    }

    #[must_use]
    pub fn class(self) -> OutcomeClass {
        match self {
            Self::Success => OutcomeClass::Success,
            Self::Rejected | Self::Throttled | Self::Gone => OutcomeClass::Refused,
            Self::TimedOut => OutcomeClass::TimedOut,
            Self::ConnectFailed | Self::TlsFailed | Self::DnsFailed | Self::ProtocolError => OutcomeClass::Unreachable,
            Self::Blocked | Self::Crashed => OutcomeClass::Internal,
        }
    }
}

/// Where to look for the cause of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeClass {
    Success,
    /// The receiver answered, and not with 2xx.
    Refused,
    /// The deadline passed.
    TimedOut,
    /// There was no HTTP answer: name, connection, TLS or protocol.
    Unreachable,
    /// The receiver was not asked, or the attempt failed inside this process.
    Internal,
}

impl OutcomeClass {
    /// Every class, in the order of its discriminant.
    pub const ALL: [Self; 5] = [Self::Success, Self::Refused, Self::TimedOut, Self::Unreachable, Self::Internal];

    /// The word in the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Internal => "internal",
        }
    }
}

/// Reads a `Retry-After` header (RFC 9110, 10.2.3): whole seconds or an HTTP date.
///
/// A date in the past is a wait of zero. Longer waits are cut to [`RETRY_AFTER_CAP`]. Any other text is no hint.
#[must_use]
pub fn parse_retry_after(value: &str, now: UnixMillis) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(RETRY_AFTER_CAP, Duration::from_secs)
    } else {
        until(httpdate::parse_http_date(value).ok()?, now)
    };
    Some(wait.min(RETRY_AFTER_CAP))
}

fn until(date: std::time::SystemTime, now: UnixMillis) -> Duration {
    let date = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(0).plus(date).since(now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: UnixMillis = UnixMillis(1_795_521_600_000); // Tue, 24 Nov 2026 12:00:00 GMT

    #[test]
    fn a_status_code_decides_the_outcome() {
        let hint = Some(Duration::from_secs(7));
        for status in [200, 201, 204, 299] {
            assert_eq!(Outcome::of_status(status, hint), Outcome::Success);
        }
        for status in [100, 199, 300, 301, 302, 307, 308, 400, 404, 408, 409, 411, 428, 430, 500, 502, 504, 999] {
            assert_eq!(Outcome::of_status(status, hint), Outcome::Rejected);
        }
        for status in [429, 503] {
            assert_eq!(Outcome::of_status(status, hint), Outcome::Throttled { retry_after: hint });
        }
        assert_eq!(Outcome::of_status(429, None), Outcome::Throttled { retry_after: None });
        assert_eq!(Outcome::of_status(503, None), Outcome::Rejected);
        assert_eq!(Outcome::of_status(410, hint), Outcome::Gone);
    }

    #[test]
    fn every_kind_keeps_its_code_and_its_word() {
        for (place, kind) in OutcomeKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(kind.code()), Ok(place));
            assert_eq!(OutcomeKind::from_code(kind.code()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert_eq!(OutcomeKind::from_code(-1), None);
        assert_eq!(OutcomeKind::from_code(11), None);
    }

    #[test]
    fn every_class_stands_at_its_place() {
        for (place, class) in OutcomeClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, place);
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let seconds = |value| parse_retry_after(value, NOON).map(|wait| wait.as_secs());
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("Tue, 24 Nov 2026 12:00:30 GMT"), Some(30));
        assert_eq!(seconds("Tuesday, 24-Nov-26 12:00:30 GMT"), Some(30));
    }

    #[test]
    fn a_date_in_the_past_is_no_wait() {
        for past in ["Tue, 24 Nov 2026 11:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(parse_retry_after(past, NOON), Some(Duration::ZERO));
        }
    }

    #[test]
    fn a_huge_hint_is_capped_at_a_day() {
        for huge in ["86401", "99999999999999999999999999", "Tue, 24 Nov 2037 12:00:30 GMT"] {
            assert_eq!(parse_retry_after(huge, NOON), Some(RETRY_AFTER_CAP));
        }
    }

    #[test]
    fn junk_is_no_hint() {
        for junk in ["", "  ", "-1", "+1", "1.5", "1e3", "soon", "12:00", "Tue, 99 Nov 2026 12:00:30 GMT", "٣"] {
            assert_eq!(parse_retry_after(junk, NOON), None, "{junk:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_receiver_writes_it_asks_for_a_day_at_most(hint in ".*", now in 0..=4_102_444_800_000_i64) {
            if let Some(wait) = parse_retry_after(&hint, UnixMillis(now)) {
                prop_assert!(wait <= RETRY_AFTER_CAP);
            }
        }

        #[test]
        fn seconds_are_taken_at_their_word(seconds: u64) {
            let asked = Duration::from_secs(seconds).min(RETRY_AFTER_CAP);
            prop_assert_eq!(parse_retry_after(&seconds.to_string(), NOON), Some(asked));
        }

        #[test]
        fn a_date_is_the_time_until_then(ahead in -86_400..=2 * 86_400_i64) {
            let moment = std::time::UNIX_EPOCH + Duration::from_millis(NOON.0.unsigned_abs());
            let offset = Duration::from_secs(ahead.unsigned_abs());
            let date = if ahead < 0 { moment - offset } else { moment + offset };
            let asked = Duration::from_secs(ahead.max(0).unsigned_abs()).min(RETRY_AFTER_CAP);
            prop_assert_eq!(parse_retry_after(&httpdate::fmt_http_date(date), NOON), Some(asked));
        }
    }
}
