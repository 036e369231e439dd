//! Publishers that keep a server busy, and book P: what they were promised. An event without an answer is in doubt. The
//! publisher publishes it again under the same id, which must result in one event, whether or not the first try was
//! committed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::{Client, try_send};
use crate::support::hook::{Hook, quick_retries};
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World};

const PUBLISHERS: usize = 8;

/// Every fourth call of a publisher is a batch.
const BATCH_EVERY: usize = 4;
const BATCH: usize = 5;

/// Pause of a publisher after a call, so that the load lasts as long as the run and its backlog stays small enough for
/// a test to wait for.
const REST_MS: std::ops::Range<u64> = 5..25;

/// The same for a load that continues while a test does something else.
const UNHURRIED_MS: std::ops::Range<u64> = 150..350;

/// The event types of the load; webhooks subscribe to different ones.
pub(crate) const TYPES: [&str; 3] = ["load.wide", "load.some", "other.few"];

#[derive(Default)]
pub(crate) struct Load {
    promises: Mutex<Vec<Event>>,
    doubtful: Mutex<Vec<Value>>,
    published: AtomicUsize,
}

impl Load {
    /// Starts with promises made earlier.
    pub(crate) fn promising(events: Vec<Event>) -> Self {
        Self { promises: Mutex::new(events), ..Self::default() }
    }

    /// Runs all publishers, each for `calls` calls or until a call is not accepted.
    pub(crate) async fn publish(self: &Arc<Self>, client: &Client, calls: usize) {
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            let (load, client) = (Arc::clone(self), client.clone());
            publishers.spawn(async move {
                for call in 1..=calls {
                    let size = if call % BATCH_EVERY == 0 { BATCH } else { 1 };
                    if !load.publish_some(&client, size).await {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(rand::random_range(REST_MS))).await;
                }
            });
        }
        publishers.join_all().await;
    }

    /// Runs all publishers at a slow pace while `meanwhile` runs, to each of these servers in turn. A server that does
    /// not accept an event is skipped.
    pub(crate) async fn publish_to_all<T>(
        self: &Arc<Self>,
        servers: &[Client],
        meanwhile: impl Future<Output = T>,
    ) -> T {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut publishers = JoinSet::new();
        for first in 0..PUBLISHERS {
            let (load, servers, is_over) = (Arc::clone(self), servers.to_vec(), is_over.clone());
            publishers.spawn(async move {
                for call in (0..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    let size = if call % BATCH_EVERY == 0 { BATCH } else { 1 };
                    load.publish_some(&servers[(first + call) % servers.len()], size).await;
                    tokio::time::sleep(Duration::from_millis(rand::random_range(UNHURRIED_MS))).await;
                }
            });
        }
        let done = meanwhile.await;
        is_over.store(true, Ordering::Relaxed);
        publishers.join_all().await;
        done
    }

    /// Publishes a call's events; returns whether the server accepted all of them.
    async fn publish_some(&self, client: &Client, size: usize) -> bool {
        let events: Vec<Value> = (0..size).map(|_| self.next()).collect();
        let answers = publish(client, &events).await;
        let taken = answers.iter().all(Option::is_some);
        for (event, answer) in events.into_iter().zip(answers) {
            match answer {
                Some(promise) => self.promises.lock().expect("no holder panics").push(promise),
                None => self.doubtful.lock().expect("no holder panics").push(event),
            }
        }
        taken
    }

    fn next(&self) -> Value {
        let n = self.published.fetch_add(1, Ordering::Relaxed);
        json!({"event": TYPES[n % TYPES.len()], "data": {"n": n}, "id": format!("load-{n}")})
    }

    /// Publishes events in doubt again; returns how many had been committed the first time.
    pub(crate) async fn settle_doubts(&self, client: &Client) -> usize {
        let doubtful = std::mem::take(&mut *self.doubtful.lock().expect("no holder panics"));
        let mut known = 0;
        for event in doubtful {
            let promise = publish(client, &[event]).await.remove(0).expect("a running server accepts");
            known += usize::from(promise.duplicate);
            self.promises.lock().expect("no holder panics").push(promise);
        }
        known
    }

    pub(crate) fn promises(&self) -> Vec<Event> {
        self.promises.lock().expect("no holder panics").clone()
    }
}

/// Publishes `events`; returns the promise for each, `None` if the server did not answer or did not accept it.
async fn publish(client: &Client, events: &[Value]) -> Vec<Option<Event>> {
    let call = match events {
        [event] => client.json(Method::POST, "/events", event),
        events => client.json(Method::POST, "/events/batch", &json!({"events": events})),
    };
    let nothing = vec![None; events.len()];
    let Ok(answer) = try_send(call).await else { return nothing };
    if answer.status == 503 {
        return nothing;
    }
    let body = answer.expect(202);
    let promise = |body: &Value| body["id"].is_string().then(|| Event::from(body));
    match body["results"].as_array() {
        Some(results) => results.iter().map(promise).collect(),
        None => vec![promise(&body)],
    }
}

/// Webhooks with overlapping event types and a good, a flaky and a slow receiver.
pub(crate) async fn mixed_hooks(world: &World) -> [Hook; 3] {
    let settings = |events: &str| json!({"events": [events], "retryPolicy": quick_retries(20)});
    [
        world.hook(Receiver::ok(), settings("*")).await,
        world.hook(Receiver::fails_every(5), settings("load.*")).await,
        world.hook(Receiver::answers_after(Duration::from_millis(20)), settings("load.wide")).await,
    ]
}
