//! Custom headers: sent as given, and shown only if their owner declares that they are not secret.

use serde_json::json;

use crate::support::databases::on_both;
use crate::support::hook::plain;
use crate::support::receiver::Receiver;
use crate::support::world::{World, text};

/// Header names from which one cannot reliably tell that the value is a credential.
const CREDENTIALS: [&str; 15] = [
    "X-Session",
    "X-Auth",
    "X-Passphrase",
    "X-Password",
    "X-Credential",
    "X-Signature-Hmac",
    "X-Vault",
    "X-Pat",
    "DD-API",
    "X-Access",
    "X-Sid",
    "X-Jwt",
    "X-Bearer",
    "X-Pin",
    "X-Login",
];

on_both!(the_value_of_a_header_is_hidden_unless_it_is_said_to_be_public);
async fn the_value_of_a_header_is_hidden_unless_it_is_said_to_be_public() {
    let world = World::start().await;
    let receiver = Receiver::ok();
    let mut headers = json!({"X-Team": "billing", "Accept": "text/plain"});
    for name in CREDENTIALS {
        headers[name] = format!("planted in {name}").into();
    }
    let settings = json!({"headers": headers, "publicHeaders": ["x-team"]});
    let created = world.client().post("/webhooks", &plain(&receiver.url("/"), settings)).await.expect(201);
    let path = format!("/webhooks/{}", text(&created, "id"));

    let shown = world.client().get(&path).await.expect(200);

    assert!(!created.to_string().contains("planted") && !shown.to_string().contains("planted"), "{shown}");
    assert!(CREDENTIALS.iter().all(|name| shown["headers"][name] == "[redacted]"), "{shown}");
    assert_eq!((&shown["headers"]["X-Team"], &shown["headers"]["Accept"]), (&json!("billing"), &json!("text/plain")));
    let back = json!({"headers": shown["headers"], "publicHeaders": shown["publicHeaders"]});
    assert_eq!(world.client().patch(&path, &back).await.expect(200)["headers"], shown["headers"]);
    world.client().post(&format!("{path}/test"), &json!({})).await.expect(200);
    let request = &receiver.requests()[0];
    assert!(CREDENTIALS.iter().all(|name| request.header(name) == format!("planted in {name}")), "{request:?}");
    assert_eq!((request.header("X-Team"), request.header("Accept")), ("billing", "text/plain"));
}

#[tokio::test]
async fn nobody_learns_a_hidden_value_by_declaring_it_public() {
    let world = World::start().await;
    let settings = json!({"headers": {"X-Session": "planted", "X-Team": "a"}});
    let created = world.client().post("/webhooks", &plain("https://example.com/", settings)).await.expect(201);
    let path = format!("/webhooks/{}", text(&created, "id"));

    for headers in [json!({}), json!({"X-Session": "[redacted]"})] {
        let change = json!({"publicHeaders": ["X-Session"], "headers": headers});
        let problem = world.client().patch(&path, &change).await.problem(422);
        assert_eq!(problem.pointers(), ["/headers/X-Session"]);
    }
    for odd in [json!(["X-Other"]), json!(["X-Team", "x-team"]), json!("X-Team"), json!([1])] {
        let change = json!({"publicHeaders": odd, "headers": {"X-Team": "b"}});
        let problem = world.client().patch(&path, &change).await.problem(422);
        assert!(problem.pointers()[0].starts_with("/publicHeaders"), "{problem:?}");
    }

    let anew = json!({"publicHeaders": ["X-Session"], "headers": {"X-Session": "not planted"}});
    assert_eq!(world.client().patch(&path, &anew).await.expect(200)["headers"]["X-Session"], "not planted");
    let gone = world.client().patch(&path, &json!({"headers": {"X-Session": null}})).await.expect(200);
    assert_eq!((&gone["publicHeaders"], &gone["headers"]), (&json!([]), &json!({"X-Team": "[redacted]"})));
    let problem = world.client().patch(&path, &json!({"headers": {"X-New": "[redacted]"}})).await.problem(422);
    assert_eq!(problem.pointers(), ["/headers/X-New"]);
}
