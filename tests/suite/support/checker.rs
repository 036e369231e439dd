//! Compares the three books after a fault: P (what publishers were promised), R (what receivers saw) and D (what the
//! server says it did), and names every invariant that they break. The comparison is pure and has its own tests below.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde_json::Value;

use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::world::{Event, World, attempts, is_terminal, text};

/// Enough to keep the server busy while the books are read, few enough to leave it a core.
const READERS: usize = 8;

#[derive(Debug, Default, Clone)]
pub(crate) struct Books {
    promises: Vec<Event>,
    requests: Vec<Seen>,
    deliveries: BTreeMap<String, Recorded>,
    /// How often the server was killed.
    crashes: usize,
}

/// A line of book R.
#[derive(Debug, Clone)]
struct Seen {
    delivery: String,
    event: String,
    webhook: String,
    number: u64,
    accepted: bool,
}

/// A line of book D.
#[derive(Debug, Clone)]
struct Recorded {
    event: String,
    webhook: String,
    status: String,
    attempts: Vec<Tried>,
    max_retries: usize,
}

#[derive(Debug, Clone)]
struct Tried {
    number: u64,
    trigger: String,
    /// Whether the receiver's status is recorded.
    answered: bool,
}

/// The contents of a run, for printing: a run in which nothing happened proves nothing.
#[derive(Debug)]
#[expect(dead_code, reason = "read by people, through Debug")]
pub(crate) struct Summary {
    events: usize,
    deliveries: usize,
    requests: usize,
    pub(crate) recoveries: usize,
    crashes: usize,
}

/// Waits until every promised delivery is settled, then compares. I4 is checked for each request that is read.
pub(crate) async fn audit(world: &World, hooks: &[&Hook], promises: Vec<Event>, crashes: usize) -> Summary {
    let listed = settled(world, &promises).await;
    let books = Books { deliveries: BTreeMap::new(), requests: seen_by(hooks), promises, crashes };
    let books = with_deliveries(world, hooks, books, listed).await;
    let violations = books.violations();
    let shown = &violations[..violations.len().min(20)];
    assert!(violations.is_empty(), "{} violations, the first: {shown:#?}", violations.len());
    books.summary()
}

async fn settled(world: &World, promises: &[Event]) -> BTreeMap<String, Value> {
    let all = stream::iter(promises).map(|event| world.all_settled(event)).buffer_unordered(READERS);
    let all: Vec<Vec<Value>> = all.collect().await;
    all.into_iter().flatten().map(|delivery| (text(&delivery, "id"), delivery)).collect()
}

fn seen_by(hooks: &[&Hook]) -> Vec<Seen> {
    let seen = |hook: &Hook| {
        let webhook = hook.id.clone();
        hook.requests().into_iter().map(move |request| Seen {
            delivery: request.header("x-webhook-delivery").to_owned(),
            event: request.header("webhook-id").to_owned(),
            webhook: webhook.clone(),
            number: request.header("x-webhook-attempt").parse().expect("a number"),
            accepted: request.status.is_some_and(|status| (200..300).contains(&status)),
        })
    };
    hooks.iter().flat_map(|hook| seen(hook)).collect()
}

/// Reads the deliveries that are not plain: those with more than one request, and those of no promised event.
async fn with_deliveries(
    world: &World,
    hooks: &[&Hook],
    mut books: Books,
    mut listed: BTreeMap<String, Value>,
) -> Books {
    let mut requests = BTreeMap::<&str, usize>::new();
    for request in &books.requests {
        *requests.entry(&request.delivery).or_default() += 1;
    }
    let plain = |id: &str, delivery: &Value| {
        requests.get(id) == Some(&1) && delivery["status"] == "success" && delivery["lastAttempt"]["number"] == 1
    };
    let known: BTreeSet<&str> = listed.keys().map(String::as_str).chain(requests.keys().copied()).collect();
    let special = known.into_iter().filter(|id| listed.get(*id).is_none_or(|delivery| !plain(id, delivery)));
    let special: Vec<String> = special.map(str::to_owned).collect();
    let read: Vec<Value> = stream::iter(&special).map(|id| ended(world, id)).buffer_unordered(READERS).collect().await;
    listed.extend(read.into_iter().map(|delivery| (text(&delivery, "id"), delivery)));
    books.deliveries = listed.into_iter().map(|(id, delivery)| (id, recorded(hooks, &delivery))).collect();
    books
}

async fn ended(world: &World, id: &str) -> Value {
    fact::until(&format!("{id} ends"), async || Some(world.delivery(id).await).filter(is_terminal)).await
}

fn recorded(hooks: &[&Hook], delivery: &Value) -> Recorded {
    let webhook = text(delivery, "webhookId");
    let hook = hooks.iter().find(|hook| hook.id == webhook).expect("a webhook of this run");
    let tried = |attempt: &Value| Tried {
        number: attempt["number"].as_u64().expect("a number"),
        trigger: text(attempt, "trigger"),
        answered: attempt["statusCode"].is_number(),
    };
    let attempts = match delivery["attempts"] {
        Value::Array(_) => attempts(delivery).iter().map(tried).collect(),
        // A plain delivery, read from a list: its last attempt is its only one.
        _ => vec![tried(&delivery["lastAttempt"])],
    };
    let max_retries = hook.body["retryPolicy"]["maxRetries"].as_u64().expect("a policy");
    Recorded {
        event: text(delivery, "eventId"),
        webhook,
        status: text(delivery, "status"),
        attempts,
        max_retries: usize::try_from(max_retries).expect("a small number"),
    }
}

impl Books {
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut requests = BTreeMap::<&str, Vec<&Seen>>::new();
        for request in &self.requests {
            requests.entry(&request.delivery).or_default().push(request);
        }
        let mut found = self.broken_promises();
        found.extend(self.strays(&requests));
        for (id, delivery) in &self.deliveries {
            let requests = requests.get(id.as_str()).map_or(&[][..], Vec::as_slice);
            found.extend(self.unexplained(delivery, requests).map(|what| format!("I2 {id}: {what}")));
            found.extend(delivery.unsound(requests).map(|what| format!("I8 {id}: {what}")));
            if delivery.status == "success" && !requests.iter().any(|request| request.accepted) {
                found.push(format!("I1 {id}: success that no receiver knows of"));
            }
        }
        found
    }

    /// I1: every promised event has a delivery for each webhook that it matched.
    fn broken_promises(&self) -> Vec<String> {
        let mut owed = BTreeMap::<&str, BTreeSet<&str>>::new();
        for delivery in self.deliveries.values() {
            owed.entry(&delivery.event).or_default().insert(&delivery.webhook);
        }
        let kept = |event: &Event| owed.get(event.id.as_str()).map_or(0, BTreeSet::len) as u64;
        let broken = self.promises.iter().filter(|event| kept(event) != event.matched);
        broken.map(|event| format!("I1 {}: matched {}, has {}", event.id, event.matched, kept(event))).collect()
    }

    /// No request is sent for an event that was not committed, or to a webhook that the event did not match.
    fn strays(&self, requests: &BTreeMap<&str, Vec<&Seen>>) -> Vec<String> {
        let stray = |request: &&Seen| {
            let delivery = self.deliveries.get(&request.delivery);
            delivery.is_none_or(|known| known.event != request.event || known.webhook != request.webhook)
        };
        requests.values().flatten().copied().filter(stray).map(|request| format!("I2 stray: {request:?}")).collect()
    }

    /// I2: every request is a recorded attempt, or was cut short by a crash and followed by a recovery.
    fn unexplained(&self, delivery: &Recorded, requests: &[&Seen]) -> impl Iterator<Item = String> {
        let (sent, on_record) = (requests.len(), delivery.attempts.len());
        let cut = sent.saturating_sub(on_record);
        let recovered = delivery.attempts.iter().any(|attempt| attempt.trigger == "recovery");
        let answered = delivery.attempts.iter().filter(|attempt| attempt.answered).count();
        let faults = [
            (cut > 0 && !recovered, "more requests than attempts, and none is a recovery"),
            (cut > self.crashes, "more requests cut short than there were crashes"),
            (answered > sent, "answers on record that no receiver gave"),
        ];
        faults.into_iter().filter(|(broken, _)| *broken).map(move |(_, what)| format!("{what}: {sent} of {on_record}"))
    }

    fn summary(&self) -> Summary {
        let recovered = |delivery: &Recorded| delivery.attempts.iter().filter(|a| a.trigger == "recovery").count();
        Summary {
            events: self.promises.len(),
            deliveries: self.deliveries.len(),
            requests: self.requests.len(),
            recoveries: self.deliveries.values().map(recovered).sum(),
            crashes: self.crashes,
        }
    }
}

impl Recorded {
    /// I8: attempt numbers strictly rise, and there are no more attempts than the policy grants.
    fn unsound(&self, requests: &[&Seen]) -> impl Iterator<Item = String> {
        let granted = self.max_retries + 1;
        let by_hand = |attempt: &&Tried| matches!(attempt.trigger.as_str(), "manual" | "test");
        let automatic = self.attempts.len() - self.attempts.iter().filter(by_hand).count();
        let rising = self.attempts.windows(2).all(|pair| pair[0].number < pair[1].number);
        let faults = [
            (!rising, "numbers do not rise"),
            (automatic > granted, "more attempts than the policy grants"),
            (!requests.iter().map(|request| request.number).is_sorted(), "requests arrived out of order"),
        ];
        faults.into_iter().filter(|(broken, _)| *broken).map(|(_, what)| format!("{what}: {:?}", self.attempts))
    }
}

/// Books with one promised event, one webhook, one good request and one recorded attempt.
fn sound() -> Books {
    let tried = |number, trigger: &str| Tried { number, trigger: trigger.to_owned(), answered: true };
    let [delivery, event, webhook] = ["dlv_1", "evt_1", "wh_1"].map(str::to_owned);
    let promise = Event { id: event.clone(), timestamp: String::new(), matched: 1, duplicate: false };
    let request =
        Seen { delivery: delivery.clone(), event: event.clone(), webhook: webhook.clone(), number: 1, accepted: true };
    let attempts = vec![tried(1, "scheduled")];
    let recorded = Recorded { event, webhook, status: "success".to_owned(), attempts, max_retries: 1 };
    Books {
        promises: vec![promise],
        requests: vec![request],
        deliveries: BTreeMap::from([(delivery, recorded)]),
        crashes: 1,
    }
}

/// What the checker finds after `bend` has falsified sound books.
fn found_after(bend: impl Fn(&mut Books, &mut Recorded)) -> String {
    let mut books = sound();
    let mut delivery = books.deliveries["dlv_1"].clone();
    bend(&mut books, &mut delivery);
    if books.deliveries.contains_key("dlv_1") {
        books.deliveries.insert("dlv_1".to_owned(), delivery);
    }
    books.violations().join("; ")
}

#[test]
fn the_checker_is_content_with_sound_books() {
    assert_eq!(found_after(|_, _| {}), "");
    let recovered = found_after(|books, delivery| {
        books.requests.push(books.requests[0].clone());
        delivery.attempts[0].trigger = "recovery".to_owned();
    });
    assert_eq!(recovered, "");
}

#[test]
fn the_checker_notices_a_lost_delivery_and_an_invented_success() {
    let lost = found_after(|books, _| {
        books.deliveries.clear();
        books.requests.clear();
    });
    assert!(lost.contains("I1 evt_1: matched 1, has 0"), "{lost}");
    let invented = found_after(|books, _| books.requests[0].accepted = false);
    assert!(invented.contains("I1 dlv_1: success that no receiver knows of"), "{invented}");
}

#[test]
fn the_checker_notices_unexplained_requests() {
    let duplicate = found_after(|books, _| books.requests.push(books.requests[0].clone()));
    assert!(duplicate.contains("none is a recovery"), "{duplicate}");
    let often = found_after(|books, delivery| {
        books.requests = vec![books.requests[0].clone(); 4];
        delivery.attempts[0].trigger = "recovery".to_owned();
    });
    assert!(often.contains("than there were crashes"), "{often}");
    let uncommitted = found_after(|books, _| books.requests[0].delivery = "dlv_2".to_owned());
    assert!(uncommitted.contains("I2 stray"), "{uncommitted}");
    let misled = found_after(|books, _| books.requests[0].webhook = "wh_2".to_owned());
    assert!(misled.contains("I2 stray"), "{misled}");
    let unseen = found_after(|books, _| books.requests.clear());
    assert!(unseen.contains("answers on record that no receiver gave"), "{unseen}");
}

#[test]
fn the_checker_notices_attempts_that_do_not_add_up() {
    let repeated = found_after(|_, delivery| delivery.attempts.push(delivery.attempts[0].clone()));
    assert!(repeated.contains("numbers do not rise"), "{repeated}");
    let greedy = found_after(|_, delivery| delivery.max_retries = 0);
    assert!(greedy.is_empty(), "{greedy}");
    let greedy = found_after(|_, delivery| {
        delivery.max_retries = 0;
        delivery.attempts.push(Tried { number: 2, ..delivery.attempts[0].clone() });
    });
    assert!(greedy.contains("more attempts than the policy grants"), "{greedy}");
    let shuffled = found_after(|books, _| {
        let mut later = books.requests[0].clone();
        later.number = 2;
        books.requests.insert(0, later);
    });
    assert!(shuffled.contains("out of order"), "{shuffled}");
}
