//! DNS answers for a receiver's name, and what the engine does with them. The engine may call only 127.0.0.2; canaries
//! listen on the same port of other addresses.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::canary::{Canaries, OPENED};
use crate::support::hook::{Hook, plain, quick_retries};
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::{World, attempts, each_attempt, text};
use test_support::names::{Names, Say};

/// More addresses than the engine accepts in one answer.
const FLOOD: usize = 1_000;

/// The webhooks' timeout, and the precision with which it must be kept.
const TIME_LIMIT: Duration = Duration::from_secs(3);
const TOLERANCE: Duration = Duration::from_millis(500);

/// A world whose server asks `names`, and a receiver at the allowed address.
struct Scene {
    names: Names,
    canaries: Canaries,
    receiver: Option<Receiver>,
    world: World,
}

impl Scene {
    async fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let names = Names::start().await;
        let (canaries, receiver) = Canaries::beside_receiver(script);
        let servers = names.address().to_string();
        let settings = [("POSTHASTE_DNS_SERVERS", servers.as_str()), ("POSTHASTE_EGRESS_ALLOW", OPENED)];
        let world = World::with(&settings).await;
        Self { names, canaries, receiver: Some(receiver), world }
    }

    async fn accepting() -> Self {
        Self::start(|_| Reply::Status(200)).await
    }

    /// The body that creates a webhook at this name and the receiver's port, with one try unless `settings` say
    /// otherwise.
    fn wish(&self, name: &str, mut settings: Value) -> Value {
        settings["url"] = json!(format!("http://{name}:{}/hooks", self.canaries.port()));
        if settings["retryPolicy"].is_null() {
            settings["retryPolicy"] = json!({"maxRetries": 0});
        }
        settings
    }

    /// Creates the receiver's webhook under this name.
    async fn hook(&mut self, name: &str, settings: Value) -> Hook {
        let receiver = self.receiver.take().expect("one webhook of the receiver");
        let wish = self.wish(name, settings);
        self.world.hook(receiver, wish).await
    }

    /// Publishes an event for a webhook at this name; returns its one attempt.
    async fn attempt_at(&self, name: &str, settings: Value) -> Value {
        let wish = plain("", self.wish(name, settings));
        let id = text(&self.world.client().post("/webhooks", &wish).await.expect(201), "id");
        let event = self.world.publish("message.sent").await;
        let delivery = self.world.settled(&event).await;
        self.world.client().delete(&format!("/webhooks/{id}")).await.expect(204);
        attempts(&delivery)[0].clone()
    }

    /// Asserts that neither the receiver nor a canary was called.
    async fn saw_nobody(&self) {
        assert_eq!(self.receiver.as_ref().expect("a receiver without a webhook").requests().len(), 0);
        self.canaries.saw_nobody().await;
    }
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_a_connection_at_the_servers_that_were_named() {
    let mut scene = Scene::accepting().await;
    scene.names.say("good.example.com", Say::addresses(&["127.0.0.2"]));
    let hook = scene.hook("good.example.com", json!({})).await;

    for round in 1..=3 {
        let event = scene.world.publish("message.sent").await;
        assert_eq!(scene.world.settled(&event).await["status"], "success");
        hook.saw(round).await;
    }

    assert_eq!(scene.names.lookups("good.example.com"), (1, 1));
    let requests = hook.requests();
    assert_eq!(requests[0].header("host"), format!("good.example.com:{}", scene.canaries.port()));
    scene.canaries.saw_nobody().await;
}

#[tokio::test]
async fn the_log_says_why_a_name_could_not_be_resolved() {
    let scene = Scene::accepting().await;
    scene.names.say("broken.example.com", Say::Failure);
    scene.names.say("empty.example.com", Say::addresses(&[]));
    scene.names.say("silent.example.com", Say::Nothing);
    scene.names.say("crowd.example.com", Say::Addresses(vec!["127.0.0.2".parse().expect("an address"); FLOOD]));
    let cases = [
        ("missing.example.com", "there is no such name"),
        ("broken.example.com", "the DNS servers cannot resolve the name"),
        ("empty.example.com", "the name has no address"),
        ("silent.example.com", "the name was not resolved in time"),
        ("crowd.example.com", "the name has more than 64 addresses"),
    ];

    for (name, why) in cases {
        let attempt = scene.attempt_at(name, json!({"timeoutMs": 2000})).await;

        assert_eq!((&attempt["outcome"], &attempt["statusCode"]), (&json!("dns_failed"), &json!(null)), "{attempt}");
        assert!(text(&attempt, "error").starts_with(why), "{name}: {attempt}");
    }
    assert!(scene.names.was_asked_by_tcp("crowd.example.com"), "a thousand addresses do not fit into a datagram");
    scene.saw_nobody().await;
}

/// The attempt's deadline ends the lookup, and waiting for one name does not delay another.
#[tokio::test]
async fn a_name_of_which_nothing_is_said_costs_the_time_limit_and_nobody_else_anything() {
    let mut scene = Scene::accepting().await;
    scene.names.say("silent.example.com", Say::Nothing);
    scene.names.say("good.example.com", Say::addresses(&["127.0.0.2"]));
    let silent = plain("", scene.wish("silent.example.com", json!({"timeoutMs": TIME_LIMIT.as_millis() as u64})));
    let silent = text(&scene.world.client().post("/webhooks", &silent).await.expect(201), "id");
    let good = scene.hook("good.example.com", json!({})).await;

    let event = scene.world.publish("message.sent").await;

    for delivery in scene.world.all_settled(&event).await {
        let took = Duration::from_millis(delivery["lastAttempt"]["durationMs"].as_u64().expect("a duration"));
        if delivery["webhookId"] == silent.as_str() {
            assert!((TIME_LIMIT - TOLERANCE..=TIME_LIMIT + TOLERANCE).contains(&took), "{delivery}");
        } else {
            assert_eq!(delivery["status"], "success", "{delivery}");
            assert!(took < TIME_LIMIT - TOLERANCE, "the attempt had to wait for the other name: {delivery}");
        }
    }
    assert_eq!(good.requests().len(), 1);
}

#[tokio::test]
async fn a_name_with_one_address_that_may_not_be_called_is_refused_as_a_whole() {
    let scene = Scene::accepting().await;
    let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().expect("an address")).collect::<Vec<IpAddr>>();
    scene.names.say("inner.example.com", Say::addresses(&["127.0.0.1"]));
    scene.names.say("both.example.com", Say::addresses(&["127.0.0.2", "127.0.0.1"]));
    scene.names.say("six.example.com", Say::addresses(&["127.0.0.2", "::1"]));
    scene.names.say("mapped.example.com", Say::addresses(&["127.0.0.2", "::ffff:127.0.0.2"]));
    scene.names.say("metadata.example.com", Say::addresses(&["127.0.0.2", "169.254.169.254"]));
    scene.names.say("alias.example.com", Say::Alias("inside.example.com", ips(&["127.0.0.1"])));
    scene.names.say("private.example.com", Say::Alias("db.internal", ips(&["127.0.0.2", "10.0.0.1"])));
    scene.names.say("last.example.com", Say::Addresses(ips(&[&["127.0.0.2"; 40][..], &["127.0.0.1"]].concat())));

    for name in ["inner", "both", "six", "mapped", "metadata", "alias", "private", "last"] {
        let attempt = scene.attempt_at(&format!("{name}.example.com"), json!({})).await;

        assert_eq!(attempt["outcome"], "blocked", "{name}: {attempt}");
        let told = text(&attempt, "error");
        assert_eq!(told, "the name resolves to an address that may not be called", "the error says why");
    }
    scene.saw_nobody().await;
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_a_datagram_is_fetched_by_tcp() {
    let mut scene = Scene::accepting().await;
    let many = vec!["127.0.0.2".parse().expect("an address"); 60];
    scene.names.say("many.example.com", Say::Addresses(many));
    let hook = scene.hook("many.example.com", json!({})).await;

    let event = scene.world.publish("message.sent").await;

    assert_eq!(scene.world.settled(&event).await["status"], "success");
    assert!(scene.names.was_asked_by_tcp("many.example.com"));
    assert_eq!(hook.requests().len(), 1);
}

/// If the engine looked the name up once to check and once more to dial, each attempt would dial the other answer.
#[tokio::test]
async fn a_name_that_changes_its_answer_is_judged_by_the_answer_that_is_dialled() {
    let mut scene = Scene::start(|_| Reply::With(500, "Connection", "close".to_owned())).await;
    let (good, bad) = (Say::addresses(&["127.0.0.2"]), Say::addresses(&["127.0.0.1"]));
    let says = vec![good.clone(), bad.clone(), good, bad];
    scene.names.say_in_turn("rebinding.example.com", says);
    let hook = scene.hook("rebinding.example.com", json!({"retryPolicy": quick_retries(3)})).await;

    let event = scene.world.publish("message.sent").await;

    let delivery = scene.world.settled(&event).await;
    assert_eq!(each_attempt(&delivery, "outcome"), ["rejected", "blocked", "rejected", "blocked"]);
    assert_eq!(scene.names.lookups("rebinding.example.com"), (4, 4));
    assert_eq!(hook.requests().len(), 2);
    scene.canaries.saw_nobody().await;
}

#[tokio::test]
async fn a_name_is_asked_for_as_it_is_and_a_host_without_a_dot_is_not_asked_for() {
    let scene = Scene::accepting().await;
    let wish = plain("", scene.wish("intranet", json!({})));

    scene.world.client().post("/webhooks", &wish).await.problem(422);
    scene.attempt_at("missing.example.com", json!({})).await;

    assert_eq!(scene.names.known().into_iter().collect::<Vec<_>>(), ["missing.example.com"]);
}
