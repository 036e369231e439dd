//! OAuth 2.0 access tokens for receivers (client credentials). Each webhook has one token: one attempt fetches it while
//! the others wait, and it is kept until shortly before it expires or until a receiver refuses it.
//!
//! Called by the sender. `state` decides when to request a token, `grant` builds the request and reads the answer. A
//! token request is part of the attempt that makes it: same guard, same client, same deadline.

mod grant;
mod state;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::HeaderValue;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::answer::fill;
use super::client::handshake;
use super::failure;
use super::guard::Guard;
use super::lru::{Key, Lru};
use crate::domain::credentials::ClientCredentials;
use crate::domain::outcome::Outcome;

use self::state::{State, Step};

/// How many tokens are kept: 32 MiB of the longest ones.
const MOST_TOKENS: usize = 4096;

/// No token lives longer than this.
const IDLE: Duration = state::LONGEST_LIFE;

/// Why there is no token. The webhook's owner sees the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    pub(super) text: String,
}

/// Where a webhook's tokens come from.
#[derive(Debug)]
pub(super) struct TokenSource {
    pub(super) url: Url,
    pub(super) credentials: ClientCredentials,
    /// The tenant, and a digest of everything that a token depends on, the webhook included.
    pub(super) key: Key,
}

/// A token to send with a request; its number tells it from the webhook's other tokens.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    number: u64,
}

/// What an attempt provides for a token request.
pub(super) struct Asking<'a> {
    pub(super) client: &'a reqwest::Client,
    pub(super) guard: &'a Guard,
    pub(super) deadline: Instant,
}

#[derive(Debug, Default)]
struct Entry {
    state: Mutex<State>,
    /// Held by the attempt that requests a new token.
    asking: tokio::sync::Mutex<()>,
}

/// The tokens of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Mutex<Lru<Arc<Entry>>>>);

impl Default for Tokens {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lru::new(MOST_TOKENS, IDLE))))
    }
}

impl Tokens {
    /// The token to send now. Requests a new one if none is kept, or if the kept one is about to expire.
    pub(super) async fn get(&self, source: &TokenSource, asking: &Asking<'_>) -> Result<Token, Refusal> {
        let entry = self.entry(source);
        let known = match entry.state.lock().step(Instant::now()) {
            Step::Use(token) => return Ok(token),
            Step::Refuse(refusal) => return Err(refusal),
            Step::Ask { meanwhile } => meanwhile,
        };
        let _turn = match known {
            // The token is still valid: use it while another attempt renews it.
            Some(token) => match entry.asking.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(token),
            },
            None => timeout_at(asking.deadline, entry.asking.lock()).await.map_err(|_| too_slow())?,
        };
        let meanwhile = match entry.state.lock().step(Instant::now()) {
            Step::Use(token) => return Ok(token),
            Step::Refuse(refusal) => return Err(refusal),
            Step::Ask { meanwhile } => meanwhile,
        };
        let answer = ask(source, asking, meanwhile.is_some()).await;
        let mut state = entry.state.lock();
        match (state.learn(answer, Instant::now()), meanwhile) {
            (Ok(token), _) | (Err(_), Some(token)) => Ok(token),
            (Err(refusal), None) => Err(refusal),
        }
    }

    /// Drops a token that the receiver has refused; the next attempt requests another one.
    pub(super) fn discard(&self, source: &TokenSource, refused: &Token) {
        self.entry(source).state.lock().discard(refused);
    }

    fn entry(&self, source: &TokenSource) -> Arc<Entry> {
        self.0.lock().get(&source.key, Instant::now())
    }
}

/// Makes one token request. An early renewal may take half of the time that is left, because the old token still
/// serves.
async fn ask(source: &TokenSource, asking: &Asking<'_>, is_early: bool) -> Result<grant::Granted, Refusal> {
    if let Err(refused) = asking.guard.check_literal(&source.url) {
        return Err(Refusal { outcome: Outcome::Blocked, text: of_endpoint(&refused) });
    }
    let now = Instant::now();
    let left = asking.deadline.saturating_duration_since(now);
    let deadline = if is_early { now + left / 2 } else { asking.deadline };
    let request = grant::request(&source.url, &source.credentials);
    match timeout_at(deadline, exchange(asking.client, request)).await {
        Ok(answer) => answer,
        Err(_) if handshake::was_stalled() => {
            Err(Refusal { outcome: Outcome::TlsFailed, text: of_endpoint(&failure::STALLED_HANDSHAKE) })
        }
        Err(_) => Err(too_slow()),
    }
}

async fn exchange(client: &reqwest::Client, request: reqwest::Request) -> Result<grant::Granted, Refusal> {
    let failed = |error: reqwest::Error| {
        let (outcome, text) = failure::explain(&error);
        Refusal { outcome, text: of_endpoint(&text) }
    };
    let mut response = client.execute(request).await.map_err(failed)?;
    let mut body = BytesMut::new();
    fill(&mut body, &mut response).await.map_err(failed)?;
    grant::read(response.status().as_u16(), response.headers(), &body)
}

fn too_slow() -> Refusal {
    Refusal { outcome: Outcome::TimedOut, text: of_endpoint(&"no token within the webhook's time limit") }
}

/// Names the token endpoint as the cause.
fn of_endpoint(text: &impl std::fmt::Display) -> String {
    format!("token endpoint: {text}")
}
