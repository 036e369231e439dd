//! Sends one attempt: guard, token if the webhook needs one, sign, send, classify. Called by endpoints, many at once.
//! One deadline covers an attempt. The sender never retries and never decides what follows from its [`Report`].

mod called;
mod report;
mod request;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::answer::fill;
use super::called_address;
use super::client::{Clients, handshake};
use super::failure::{self, STALLED_HANDSHAKE};
use super::guard::Guard;
use super::hops::{EngineName, Trail};
use super::resolver::DEADLINE;
use super::target::Target;
use super::token::{Asking, Refusal, Token, Tokens};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;

use called::Called;
pub use report::Report;
use report::{Head, Stopwatch};

/// One event for one webhook, ready to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same on every attempt and replay; sent as `webhook-id`.
    pub event_id: String,
    pub event_type: String,
    pub delivery_id: String,
    /// Counts from one.
    pub attempt: u16,
    /// The engines that the event has come through.
    pub trail: Option<Trail>,
    /// The exact bytes that are signed and sent.
    pub body: Bytes,
}

/// Sends attempts. Cheap to clone: connections and tokens are shared.
#[derive(Debug, Clone)]
pub struct Sender {
    clients: Clients,
    tokens: Tokens,
    guard: Arc<Guard>,
    name: EngineName,
}

/// The client whose connections carry a request, and the token to send with it.
struct Channel {
    client: reqwest::Client,
    token: Option<Token>,
}

impl Sender {
    #[must_use]
    pub fn new(clients: Clients, tokens: Tokens, guard: Arc<Guard>, name: EngineName) -> Self {
        Self { clients, tokens, guard, name }
    }

    /// Makes one request and reads its answer within the target's timeout. Dropping the future cancels the request and
    /// closes its connection.
    pub async fn attempt(&self, target: &Target, message: Message) -> Report {
        // Sign before the timer starts: waiting behind other large messages must not count against this receiver.
        let signatures = request::Signatures::of_large(target, &message).await;
        let watch = Stopwatch::start();
        if let Err(refusal) = self.guard.check_literal(&target.url) {
            return Report::unanswered(Outcome::Blocked, refusal.to_string(), &watch);
        }
        let deadline = watch.started() + target.timeout;
        let attempt = handshake::watched(self.send(target, (message, signatures), deadline, &watch));
        DEADLINE.scope(deadline, called_address::tracked(attempt)).await
    }

    async fn send(
        &self,
        target: &Target,
        (message, signatures): (Message, Option<request::Signatures>),
        deadline: Instant,
        watch: &Stopwatch,
    ) -> Report {
        let way = if target.has_credentials() {
            // Boxed: the future is large, and most webhooks have no credentials.
            Box::pin(self.channel(target, deadline)).await
        } else {
            Ok(Channel { client: self.clients.plain(), token: None })
        };
        let Channel { client, token } = match way {
            Ok(way) => way,
            Err(Refusal { outcome, text }) => return Report::unanswered(outcome, text, watch),
        };
        let (name, now) = (&self.name, UnixMillis::now_reference());
        let request = match request::signed(target, message, token.as_ref(), name, signatures, now) {
            Ok(request) => request,
            Err(error) => return Report::unanswered(Outcome::ProtocolError, error.to_string(), watch),
        };
        let called = Called::of(&request, target);
        // A request for a token may have noted another address.
        called_address::note(None);
        let mut report = match timeout_at(deadline, client.execute(request)).await {
            Ok(Ok(response)) => read(response, deadline, watch, target).await,
            Ok(Err(error)) => failed(&error, watch),
            Err(_) if handshake::was_stalled() => {
                Report::unanswered(Outcome::TlsFailed, STALLED_HANDSHAKE.to_owned(), watch)
            }
            Err(_) => Report::unanswered(Outcome::TimedOut, report::too_slow(target.timeout), watch),
        };
        report.request = called.at(called_address::noted(), &report.outcome);
        if let (Some(source), Some(token), Some(401)) = (target.tokens(), &token, report.status) {
            self.tokens.discard(source, token);
        }
        report
    }

    /// The channel for a webhook with TLS options or authentication of its own.
    async fn channel(&self, target: &Target, deadline: Instant) -> Result<Channel, Refusal> {
        let client = match timeout_at(deadline, self.clients.of(target.tls())).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(Refusal { outcome: Outcome::TlsFailed, text: error.to_string() }),
            Err(_) => return Err(Refusal { outcome: Outcome::TimedOut, text: report::too_slow(target.timeout) }),
        };
        let Some(source) = target.tokens() else { return Ok(Channel { client, token: None }) };
        let asking = Asking { client: &client, guard: &self.guard, deadline };
        let token = self.tokens.get(source, &asking).await?;
        Ok(Channel { client, token: Some(token) })
    }
}

fn failed(error: &reqwest::Error, watch: &Stopwatch) -> Report {
    if let Some(address) = failure::address(error) {
        called_address::note(Some(address));
    }
    Report::failed(error, watch)
}

/// Reads the body of the answer until its end, the deadline, or the limit of what is kept. Dropping an unfinished
/// response closes its connection.
async fn read(mut response: reqwest::Response, deadline: Instant, watch: &Stopwatch, target: &Target) -> Report {
    called_address::note(response.remote_addr());
    let head = Head::of(&response, watch);
    let mut body = BytesMut::new();
    let end = timeout_at(deadline, fill(&mut body, &mut response)).await;
    drop(response);
    match end {
        Ok(Ok(()) | Err(_)) => head.judged_by_status(body.freeze(), watch),
        Err(_) => head.timed_out(target.timeout, body.freeze(), watch),
    }
}

#[cfg(test)]
mod tests;
