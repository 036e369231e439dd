//! Sends one attempt: guard, sign, send, classify. Called by endpoints, many at once. Knows one deadline per attempt
//! and no retries; what its [`Report`] leads to is decided elsewhere.

mod report;
mod request;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::guard::Guard;
use super::outcome::Outcome;
use super::resolver::DEADLINE;
use super::target::Target;
use crate::clock::UnixMillis;

pub use report::Report;
use report::{Head, Stopwatch};

/// What is kept of an answer's body. Enough for any error page; more is not read.
const MAX_BODY: usize = 64 * 1024;

/// One event for one webhook, ready to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same on every attempt and replay; sent as `webhook-id`.
    pub event_id: String,
    pub event_type: String,
    pub delivery_id: String,
    /// Counts from one.
    pub attempt: u16,
    /// The exact bytes that are signed and sent.
    pub body: Bytes,
}

/// Sends attempts. Cheap to clone: the client's connections are shared.
#[derive(Debug, Clone)]
pub struct Sender {
    client: reqwest::Client,
    guard: Arc<Guard>,
}

impl Sender {
    #[must_use]
    pub fn new(client: reqwest::Client, guard: Arc<Guard>) -> Self {
        Self { client, guard }
    }

    /// Makes one request and reads its answer, within the target's timeout from now. Dropping the future gives up the
    /// request and closes its connection.
    pub async fn attempt(&self, target: &Target, message: Message) -> Report {
        let watch = Stopwatch::start();
        if let Err(refusal) = self.guard.check_literal(&target.url) {
            return Report::unanswered(Outcome::Blocked, refusal.to_string(), &watch);
        }
        let request = match request::signed(target, message, UnixMillis::now_outside()) {
            Ok(request) => request,
            Err(error) => return Report::unanswered(Outcome::ProtocolError, error.to_string(), &watch),
        };
        let deadline = watch.started() + target.timeout;
        match timeout_at(deadline, DEADLINE.scope(deadline, self.client.execute(request))).await {
            Ok(Ok(response)) => read(response, deadline, &watch, target).await,
            Ok(Err(error)) => Report::failed(&error, &watch),
            Err(_) => Report::unanswered(Outcome::TimedOut, report::too_slow(target.timeout), &watch),
        }
    }
}

/// Reads the answer's body until its end, the deadline or [`MAX_BODY`]. Dropping a response that has more to say
/// closes its connection.
async fn read(mut response: reqwest::Response, deadline: Instant, watch: &Stopwatch, target: &Target) -> Report {
    let head = Head::of(&response, watch);
    let mut body = BytesMut::new();
    let end = timeout_at(deadline, fill(&mut body, &mut response)).await;
    drop(response);
    match end {
        Ok(Ok(()) | Err(_)) => head.judged_by_status(body.freeze(), watch),
        Err(_) => head.timed_out(target.timeout, body.freeze(), watch),
    }
}

async fn fill(body: &mut BytesMut, response: &mut reqwest::Response) -> Result<(), reqwest::Error> {
    while body.len() < MAX_BODY {
        let Some(chunk) = response.chunk().await? else { break };
        let room = MAX_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
