//! A webhook together with its receiver. It remembers every secret that the webhook had; dropping it verifies each
//! request in the receiver's book (I4).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::receiver::{Receiver, Request};
use crate::support::verify::{self, Format};
use crate::support::world::text;

pub(crate) struct Hook {
    pub(crate) id: String,
    /// The answer to the webhook's creation.
    pub(crate) body: Value,
    pub(crate) receiver: Receiver,
    format: Format,
    /// The webhook's secrets, newest first.
    secrets: Mutex<Vec<String>>,
}

impl Hook {
    /// Creates the webhook: for every event and with the default policy, unless `settings` say otherwise.
    pub(crate) async fn create(client: &Client, receiver: Receiver, settings: Value) -> Self {
        let wish = plain(&receiver.url("/hooks"), settings);
        let body = client.post("/webhooks", &wish).await.expect(201);
        let format = match wish["signature"]["format"].as_str() {
            None | Some("hex") => Format::Hex,
            Some("prefixed") => Format::Prefixed,
            Some("timestamped") => Format::Timestamped,
            Some(other) => panic!("no format: {other}"),
        };
        let secrets = Mutex::new(vec![text(&body, "secret")]);
        Self { id: text(&body, "id"), body, receiver, format, secrets }
    }

    /// The path of this webhook, or of an action on it.
    pub(crate) fn path(&self, action: &str) -> String {
        format!("/webhooks/{}{action}", self.id)
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        self.secrets.lock().expect("no holder panics").clone()
    }

    pub(crate) async fn rotate_secret(&self, client: &Client, grace_seconds: u32) {
        let answer = client.post(&self.path("/secret/rotate"), &json!({"graceSeconds": grace_seconds})).await;
        self.rotated_to(&answer.succeeded());
    }

    /// Notes the secret in the answer of a rotation.
    pub(crate) fn rotated_to(&self, answer: &Value) {
        self.secrets.lock().expect("no holder panics").insert(0, text(answer, "secret"));
    }

    /// From now on only the newest secret signs.
    pub(crate) fn forget_older_secrets(&self) {
        self.secrets.lock().expect("no holder panics").truncate(1);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        let requests = self.receiver.requests();
        let secrets = self.secrets();
        for request in &requests {
            if let Err(trouble) = verify::signatures(request, &secrets, self.format) {
                panic!("{trouble}: {request:?}");
            }
        }
        requests
    }

    /// Waits until at least `n` requests are answered.
    pub(crate) async fn saw(&self, n: usize) -> Vec<Request> {
        self.receiver.saw(n).await;
        self.requests()
    }

    /// The statuses that the receiver answered, in order.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.requests().iter().filter_map(|request| request.status).collect()
    }

    /// Ids of the accepted events; an event that was accepted twice is listed twice.
    pub(crate) fn accepted_events(&self) -> Vec<String> {
        let requests = self.requests();
        let accepted = requests.iter().filter(|r| r.status.is_some_and(|status| (200..300).contains(&status)));
        accepted.map(|request| request.header("webhook-id").to_owned()).collect()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.requests();
        }
    }
}

/// The body that creates a webhook at `url`; `settings` override the plain ones.
pub(crate) fn plain(url: &str, settings: Value) -> Value {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let name = format!("webhook {}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut wish = json!({"name": name, "url": url, "events": ["*"]});
    let Value::Object(settings) = settings else { panic!("settings are an object") };
    wish.as_object_mut().expect("an object").extend(settings);
    wish
}

/// A retry policy with the same short wait before each of `retries` retries.
pub(crate) fn quick_retries(retries: usize) -> Value {
    json!({"maxRetries": retries, "backoffStrategy": "schedule", "scheduleSeconds": vec![1; retries]})
}
