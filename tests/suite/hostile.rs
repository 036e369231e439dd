//! Targets that the engine must not call although a webhook's owner asks for them: every URL of the case list when it
//! is created, when it is changed and when its row exists already; answers that redirect; and proxies from the
//! environment.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::canary::{Canaries, OPEN, OPENED};
use crate::support::cases::{self, Case, Verdict};
use crate::support::databases::on_both;
use crate::support::hook::plain;
use crate::support::receiver::{Down, Reply};
use crate::support::rows;
use crate::support::world::{World, text};
use test_support::names::{Names, Say};

/// A world whose DNS server answers as the list says. Each public address of the list becomes 127.0.0.2 here, the one
/// address that may be called.
async fn world_of(cases: &[Case]) -> (World, Names) {
    let names = Names::start().await;
    for (name, addresses) in cases.iter().filter_map(|case| case.dns.as_ref()) {
        let here = addresses.iter().map(|ip| if is_public(*ip) { OPEN.into() } else { *ip }).collect();
        names.say(name, Say::Addresses(here));
    }
    let servers = names.address().to_string();
    let settings = [("POSTHASTE_DNS_SERVERS", servers.as_str()), ("POSTHASTE_EGRESS_ALLOW", OPENED)];
    (World::with(&settings).await, names)
}

/// Whether an address of the list is public.
fn is_public(ip: std::net::IpAddr) -> bool {
    ip.to_string().starts_with("93.184.")
}

/// Whether a URL may be saved: it is allowed, or only its name's DNS answer is wrong.
fn may_be_saved(case: &Case) -> bool {
    match case.verdict {
        Verdict::Allow | Verdict::NoFollow => true,
        Verdict::Block => case.dns.as_ref().is_some_and(|(_, addresses)| !addresses.iter().all(|ip| is_public(*ip))),
    }
}

fn once(url: &str) -> Value {
    plain(url, json!({"retryPolicy": {"maxRetries": 0}}))
}

#[tokio::test]
async fn a_hostile_url_is_not_saved_and_a_harmless_one_is() {
    let cases = cases::all();
    let (world, _names) = world_of(&cases).await;

    for case in &cases {
        let answer = world.client().post("/webhooks", &once(&case.url)).await;

        if may_be_saved(case) {
            let saved = text(&answer.expect(201), "url");
            assert!(case.verdict == Verdict::Block || !saved.contains('#'), "{saved}");
        } else {
            assert_eq!(answer.problem(422).pointers(), ["/url"], "{:?}", case.url);
        }
    }
}

#[tokio::test]
async fn a_webhook_is_not_moved_to_a_hostile_url_and_to_a_harmless_one_it_is() {
    let cases = cases::all();
    let (world, _names) = world_of(&cases).await;
    let home = "http://127.0.0.2:9/home";
    let hook = world.client().post("/webhooks", &once(home)).await.expect(201);
    let path = format!("/webhooks/{}", text(&hook, "id"));

    for case in &cases {
        let answer = world.client().patch(&path, &json!({"url": case.url})).await;

        if may_be_saved(case) {
            let saved = answer.expect(200);
            let again = world.client().patch(&path, &json!({"url": saved["url"]})).await.expect(200);
            assert_eq!(again["url"], saved["url"], "a URL that the API shows is accepted unchanged");
            world.client().patch(&path, &json!({"url": home})).await.expect(200);
        } else {
            assert_eq!(answer.problem(422).pointers(), ["/url"], "{:?}", case.url);
            assert_eq!(world.client().get(&path).await.expect(200)["url"], home);
        }
    }
}

on_both!(a_hostile_url_that_is_in_the_database_already_is_blocked_before_anybody_is_called);
async fn a_hostile_url_that_is_in_the_database_already_is_blocked_before_anybody_is_called() {
    let (canaries, open) = Canaries::beside();
    let cases = cases::all();
    let (mut world, _names) = world_of(&cases).await;
    let mut rows = Vec::new();
    for (verdict, url) in urls_to_call(&cases, canaries.port()) {
        let made = world.client().post("/webhooks", &once(&open.url("/placeholder"))).await.expect(201);
        rows.push((verdict, text(&made, "id"), text(&made, "name"), url));
    }
    world.stop().await;
    rows::rewrite_urls(&world, rows.iter().map(|(_, _, name, url)| (name.as_str(), url.as_str())));
    world.restart().await;

    let event = world.publish("message.sent").await;

    assert_eq!(event.matched as usize, rows.len());
    let deliveries = world.all_settled(&event).await;
    for (verdict, id, _, url) in &rows {
        let delivery = deliveries.iter().find(|delivery| delivery["webhookId"] == id.as_str()).expect("a delivery");
        let outcome = text(&delivery["lastAttempt"], "outcome");
        let was_kept = ["blocked", "dns_failed"].contains(&outcome.as_str());
        assert_eq!(was_kept, *verdict == Verdict::Block, "{url:?}: {delivery}");
    }
    canaries.saw_nobody().await;
}

/// Every URL of the list that cannot lead off this machine even if it is called: the hostile ones, the same ones at the
/// canaries' port, and harmless names.
fn urls_to_call(cases: &[Case], canaries: u16) -> Vec<(Verdict, String)> {
    let mut urls = BTreeSet::new();
    for case in cases {
        match case.verdict {
            Verdict::Block => {
                urls.extend(
                    [Some(case.url.clone()), case.at_port(canaries)].into_iter().flatten().map(|url| (true, url)),
                );
            }
            Verdict::Allow | Verdict::NoFollow if case.dns.is_some() => {
                urls.insert((false, case.url.clone()));
            }
            Verdict::Allow | Verdict::NoFollow => {}
        }
    }
    let verdict = |is_hostile| if is_hostile { Verdict::Block } else { Verdict::Allow };
    urls.into_iter().map(|(is_hostile, url)| (verdict(is_hostile), url)).collect()
}

/// The redirects of the list: answers point to canaries, and requests go to the receiver's port.
#[tokio::test]
async fn where_an_answer_points_nobody_goes() {
    let cases = cases::with(Verdict::NoFollow);
    let (canaries, _open) = Canaries::beside();
    let (world, _names) = world_of(&cases).await;
    let listed = cases.iter().map(|case| pointing(&case.url, &canaries));
    let others = [301, 303, 300, 305].map(|status| Reply::With(status, "Location", canaries.url("/")));
    let headers = [
        Reply::With(
            200,
            "Alt-Svc",
            format!("http/1.1=\"127.0.0.1:{0}\", h2=\"127.0.0.1:{0}\"; ma=3600", canaries.port()),
        ),
        Reply::With(200, "Link", format!("<{}>; rel=preload", canaries.url("/"))),
        Reply::With(200, "Content-Location", canaries.url("/")),
    ];
    let mut hooks = Vec::new();
    for reply in listed.chain(others).chain(headers) {
        let receiver = Down::at(OPEN).come_up(move |_| reply.clone());
        let url = format!("http://good.example.com:{}/hooks", receiver.port());
        hooks.push(world.hook(receiver, json!({"url": url, "retryPolicy": {"maxRetries": 0}})).await);
    }

    for round in 1..=2 {
        let event = world.publish("message.sent").await;
        for delivery in world.all_settled(&event).await {
            let status = delivery["lastAttempt"]["statusCode"].as_u64().expect("an answer");
            let (status, outcome) = if status == 200 { ("success", "success") } else { ("failed", "rejected") };
            assert_eq!((&delivery["status"], &delivery["lastAttempt"]["outcome"]), (&json!(status), &json!(outcome)));
        }
        assert!(hooks.iter().all(|hook| hook.requests().len() == round), "one request for each event");
    }
    canaries.saw_nobody().await;
}

/// The answer that the path of a listed URL asks its receiver for.
fn pointing(url: &str, canaries: &Canaries) -> Reply {
    let path = url.split_once("example.com/").expect("a path").1;
    match path.split_once("?to=").map(|(status, _)| status.parse()) {
        Some(Ok(status)) => Reply::With(status, "Location", canaries.url("/")),
        None if path == "refresh" => Reply::With(200, "Refresh", format!("0; url={}", canaries.url("/"))),
        Some(Err(_)) | None => panic!("no receiver for {url}"),
    }
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_ignored() {
    let (canaries, receiver) = Canaries::beside_receiver(|_| Reply::Status(200));
    let names = Names::start().await;
    names.say("good.example.com", Say::addresses(&["127.0.0.2"]));
    let (proxy, servers) = (canaries.url(""), names.address().to_string());
    let variables = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let ours = [("POSTHASTE_DNS_SERVERS", servers.as_str()), ("POSTHASTE_EGRESS_ALLOW", OPENED)];
    let settings: Vec<_> = variables.map(|name| (name, proxy.as_str())).into_iter().chain(ours).collect();
    let world = World::with(&settings).await;
    let by_name = json!({"url": format!("http://good.example.com:{}/hooks", receiver.port())});
    let by_address = world.hook(Down::at(OPEN).come_up(|_| Reply::Status(200)), json!({})).await;
    let by_name = world.hook(receiver, by_name).await;

    let event = world.publish("message.sent").await;

    assert!(world.all_settled(&event).await.iter().all(|delivery| delivery["status"] == "success"));
    assert_eq!((by_name.requests().len(), by_address.requests().len()), (1, 1));
    canaries.saw_nobody().await;
}

/// An engine must never send events to its own API, even if the machine's networks are allowed.
#[tokio::test]
async fn the_engine_does_not_call_itself() {
    let mut world = World::start().await;
    let itself = format!("{}/api/v1/events", world.server().url());

    let refused = world.client().post("/webhooks", &once(&itself)).await;

    assert_eq!(refused.problem(422).pointers(), ["/url"]);
}
