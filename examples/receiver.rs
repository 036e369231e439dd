//! A webhook receiver: verifies, ignores repetitions, answers at once.
//!
//!     WEBHOOK_SECRET=whsec_… cargo run --example receiver -- 127.0.0.1:9000
//!
//! `LISTEN` may name the address instead. Run it behind a proxy that terminates TLS and limits slow clients.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::signal::unix::{SignalKind, signal};

const TOLERANCE_S: u64 = 300; // Refuses a recorded request that is replayed later.
const BODY_LIMIT: usize = 2 << 20; // By default Posthaste accepts 1 MiB; id and timestamp come on top.
const REMEMBERED: usize = 10_000; // Ids in memory. A restart forgets them: see `handle_once`.

struct Receiver {
    mac: Hmac<Sha256>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen(HashSet<String>, VecDeque<String>); // The last ids, and the order in which they came.

impl Seen {
    /// Replace this: store the event and its id in one transaction, in which a unique id refuses repetitions even after
    /// a restart, and do the work later. Answer 500 if it fails; a 204 ends the retries.
    fn handle_once(&mut self, id: &str, event: &Value) {
        if self.0.contains(id) {
            return;
        }
        println!("handled {id} {}", event["event"].as_str().unwrap_or_default());
        self.0.insert(id.to_owned());
        self.1.push_back(id.to_owned());
        if self.1.len() > REMEMBERED {
            self.0.remove(&self.1.pop_front().unwrap_or_default());
        }
    }
}

/// Checks a request as Standard Webhooks describes it, over the raw body; returns its id.
#[allow(clippy::disallowed_methods, reason = "a receiver has no clock but the system's")]
fn verify<'a>(mac: &Hmac<Sha256>, headers: &'a HeaderMap, body: &[u8]) -> Result<&'a str, &'static str> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).ok_or("a header is missing");
    let (id, timestamp, signatures) =
        (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    let sent: u64 = timestamp.parse().map_err(|_| "webhook-timestamp is not a number")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now.abs_diff(sent) > TOLERANCE_S {
        return Err("webhook-timestamp is too far from the current time");
    }
    let mac = mac.clone().chain_update(format!("{id}.{timestamp}.")).chain_update(body);
    // During a rotation there is one signature for each secret. `verify_slice` compares in constant time.
    let is_ours = |text: &str| STANDARD.decode(text).is_ok_and(|bytes| mac.clone().verify_slice(&bytes).is_ok());
    let mut known = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
    known.any(is_ours).then_some(id).ok_or("no signature in webhook-signature is right")
}

type Refusal = (StatusCode, &'static str);

async fn receive(State(us): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Refusal> {
    let id = verify(&us.mac, &headers, &body).map_err(|reason| (StatusCode::BAD_REQUEST, reason))?;
    let event: Value = serde_json::from_slice(&body).map_err(|_| (StatusCode::BAD_REQUEST, "the body is not JSON"))?;
    us.seen.lock().unwrap_or_else(PoisonError::into_inner).handle_once(id, &event);
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = std::env::var("WEBHOOK_SECRET").unwrap_or_default();
    let key = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let key = key.filter(|key| key.len() >= 16).ok_or("WEBHOOK_SECRET must be the webhook's signing secret")?;
    let receiver = Receiver { mac: Hmac::new_from_slice(&key)?, seen: Mutex::default() };
    let address = std::env::args().nth(1).or_else(|| std::env::var("LISTEN").ok());
    let listener = tokio::net::TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:9000")).await?;
    let app = axum::Router::new().fallback(post(receive)).layer(DefaultBodyLimit::max(BODY_LIMIT));
    let mut stop = signal(SignalKind::terminate())?;
    println!("listening on http://{}", listener.local_addr()?);
    let stopped = async move { _ = stop.recv().await };
    axum::serve(listener, app.with_state(Arc::new(receiver))).with_graceful_shutdown(stopped).await?;
    Ok(())
}
