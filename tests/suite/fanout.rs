//! One event, many webhooks.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::databases::on_both;
use crate::hook::plain;
use crate::receiver::Receiver;
use crate::verify::{self, Format};
use crate::world::{World, text};

const WEBHOOKS: usize = 300;

on_both!(an_event_for_three_hundred_webhooks_reaches_each_exactly_once);
async fn an_event_for_three_hundred_webhooks_reaches_each_exactly_once() {
    let world = World::start().await;
    let receiver = Receiver::ok();
    let create = async |n: usize| {
        let path = format!("/hooks/{n}");
        let wish = plain(&receiver.url(&path), json!({}));
        (path, text(&world.client().post("/webhooks", &wish).await.expect(201), "secret"))
    };
    let secrets = stream::iter(0..WEBHOOKS).map(create).buffer_unordered(8);
    let secrets: BTreeMap<String, String> = secrets.collect().await;

    let event = world.publish("message.sent").await;

    assert_eq!(event.matched, WEBHOOKS as u64);
    let deliveries = world.all_settled(&event).await;
    assert!(deliveries.iter().all(|delivery| delivery["status"] == "success"));
    let requests = receiver.requests();
    let mut paths: Vec<&String> = requests.iter().map(|request| &request.path).collect();
    paths.sort();
    assert_eq!(paths, secrets.keys().collect::<Vec<_>>(), "each path once");
    for request in &requests {
        let secret = [secrets[&request.path].clone()];
        assert_eq!(verify::signatures(request, &secret, Format::Hex), Ok(()));
    }
    assert_eq!(receiver.accepted(), WEBHOOKS);
}
