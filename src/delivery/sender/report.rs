//! What the sender reports about an attempt: the outcome, the times, and as much of the answer as is worth keeping.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use crate::delivery::failure;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, parse_retry_after};
use crate::domain::request::SentRequest;

/// How many headers of an answer are kept, and how many bytes of names and values in total: they are stored with every
/// attempt.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub outcome: Outcome,
    /// The answer's status code, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong, as a text for the webhook's owner; `None` on success.
    pub error: Option<String>,
    /// Microseconds from the start until the answer's head was complete.
    pub head_us: Option<u32>,
    /// Microseconds from the start until the end of the attempt.
    pub duration_us: u32,
    /// What was called; `None` if no request was made.
    pub request: Option<SentRequest>,
    /// In the order received, at most 64 and 16 KiB; a value that is not UTF-8 is shown with replacement characters.
    pub response_headers: Vec<(String, String)>,
    /// At most 64 KiB, as received: compressed bodies stay compressed.
    pub response_body: Bytes,
    /// Nothing was sent, because no file descriptor was left.
    pub out_of_fds: bool,
}

impl Report {
    /// An attempt that ended before there was an answer.
    pub(super) fn unanswered(outcome: Outcome, error: String, watch: &Stopwatch) -> Self {
        Self {
            outcome,
            status: None,
            error: Some(error),
            head_us: None,
            duration_us: watch.micros(),
            request: None,
            response_headers: Vec::new(),
            response_body: Bytes::new(),
            out_of_fds: false,
        }
    }

    /// An attempt that ended with an error of the HTTP client.
    pub(super) fn failed(error: &reqwest::Error, watch: &Stopwatch) -> Self {
        let (outcome, text) = failure::explain(error);
        let out_of_fds = failure::is_lack_of_descriptors(error);
        Self { out_of_fds, ..Self::unanswered(outcome, text, watch) }
    }
}

/// The head of an answer, whose body may still fail.
pub(super) struct Head {
    status: u16,
    outcome: Outcome,
    at_us: u32,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn of(response: &reqwest::Response, watch: &Stopwatch) -> Self {
        let status = response.status().as_u16();
        let hint = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        Self {
            status,
            outcome: Outcome::of_status(
                status,
                hint.and_then(|hint| parse_retry_after(hint, UnixMillis::now_reference())),
            ),
            at_us: watch.micros(),
            headers: kept(response.headers()),
        }
    }

    /// The body is complete, has reached the limit, or broke off. The status code decides alone: a receiver that said
    /// 2xx has the event.
    pub(super) fn judged_by_status(self, body: Bytes, watch: &Stopwatch) -> Report {
        let error = self.verdict_text();
        self.report(error, body, watch)
    }

    /// The deadline passed during the body, whatever the status code was.
    pub(super) fn timed_out(self, timeout: Duration, body: Bytes, watch: &Stopwatch) -> Report {
        let error =
            format!("answered {}, but the body was not complete within {} ms", self.status, timeout.as_millis());
        Self { outcome: Outcome::TimedOut, ..self }.report(Some(error), body, watch)
    }

    /// Why the status code is not a success.
    fn verdict_text(&self) -> Option<String> {
        match self.status {
            200..=299 => None,
            300..=399 => Some(format!("answered {}; redirects are not followed, give the final URL", self.status)),
            410 => Some("answered 410: the receiver is gone".to_owned()),
            429 | 503 => Some(format!("answered {}: the receiver asks for time", self.status)),
            _ => Some(format!("answered {}, expected 2xx", self.status)),
        }
    }

    fn report(self, error: Option<String>, body: Bytes, watch: &Stopwatch) -> Report {
        Report {
            outcome: self.outcome,
            status: Some(self.status),
            error,
            head_us: Some(self.at_us),
            duration_us: watch.micros(),
            request: None,
            response_headers: self.headers,
            response_body: body,
            out_of_fds: false,
        }
    }
}

/// The first headers, up to the limits.
fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut room = MAX_HEADER_BYTES;
    let fitting = headers.iter().take(MAX_HEADERS).map_while(|(name, value)| {
        room = room.checked_sub(name.as_str().len() + value.len())?;
        Some((name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
    });
    fitting.collect()
}

/// The text when the deadline passes before the head of the answer.
pub(super) fn too_slow(timeout: Duration) -> String {
    format!("no answer within {} ms", timeout.as_millis())
}

/// Measures one attempt.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn started(&self) -> Instant {
        self.0
    }

    /// Microseconds since the start, 71 minutes at most.
    fn micros(&self) -> u32 {
        u32::try_from(self.0.elapsed().as_micros()).unwrap_or(u32::MAX)
    }
}
