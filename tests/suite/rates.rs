//! Rate limits of keys and tenants, which callers with wrong keys cannot use up for others. Also the headers for
//! browsers: security headers and CORS.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::client::{Answer, Client, send};
use crate::support::world::World;

fn wish() -> serde_json::Value {
    json!({"event": "message.sent", "data": {}})
}

/// The first number after `name=` in a header.
fn parameter(answer: &Answer, header: &str, name: &str) -> u64 {
    let text = answer.header(header).unwrap_or_else(|| panic!("no {header}: {answer:?}"));
    let (_, rest) = text.split_once(&format!(";{name}=")).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    rest.split([';', ',']).next().and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test]
async fn an_answer_says_what_is_left_of_the_rate() {
    let limits = [("POSTHASTE_KEY_REQUESTS_PER_SECOND", "1"), ("POSTHASTE_KEY_REQUESTS_BURST", "60")];
    let world = World::with(&limits).await;
    let mut left = Vec::new();
    for path in ["/webhooks", "/webhooks/wh_nosuch", "/events?limit=0"] {
        let answer = world.client().get(path).await;
        assert_eq!(answer.header("ratelimit-policy"), Some("\"key\";q=60;w=60"), "{answer:?}");
        assert!(parameter(&answer, "ratelimit", "t") <= 60, "{answer:?}");
        left.push(parameter(&answer, "ratelimit", "r"));
    }
    assert!(left[0] < 60 && left.is_sorted_by(|before, after| before >= after), "{left:?}");
    let refused = loop {
        let answer = world.client().get("/webhooks").await;
        if answer.status == 429 {
            break answer;
        }
        answer.expect(200);
    };
    assert_eq!(parameter(&refused, "ratelimit", "r"), 0);
    for uncounted in
        [world.admin().for_tenant(&world.tenant.id).get("/webhooks").await, world.anyone().get("/webhooks").await]
    {
        assert_eq!(
            (uncounted.header("ratelimit"), uncounted.header("ratelimit-policy")),
            (None, None),
            "{uncounted:?}"
        );
    }
}

/// Returns how many of `calls` publishes are accepted. A refusal must say when to retry.
async fn accepted(client: &Client, calls: usize) -> usize {
    let mut accepted = 0;
    for _ in 0..calls {
        let answer = client.post("/events", &wish()).await;
        match answer.status {
            202 => accepted += 1,
            _ => assert_limited(&answer),
        }
    }
    accepted
}

fn assert_limited(answer: &Answer) {
    assert_eq!(answer.problem(429).code(), "rate_limited");
    let wait: u64 = answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("whole seconds");
    assert!(wait >= 1, "{answer:?}");
}

#[tokio::test]
async fn a_key_and_a_tenant_may_call_so_often_and_others_do_not_notice() {
    let limits = [
        ("POSTHASTE_KEY_REQUESTS_PER_SECOND", "1"),
        ("POSTHASTE_KEY_REQUESTS_BURST", "20"),
        ("POSTHASTE_TENANT_REQUESTS_PER_SECOND", "1"),
        ("POSTHASTE_TENANT_REQUESTS_BURST", "30"),
    ];
    let world = World::with(&limits).await;
    let second_key = world.caller(&["publish"]).await;

    let by_key = accepted(world.client(), 60).await;
    let by_tenant = accepted(&second_key, 60).await;

    // The limit regains one request a second meanwhile.
    assert!((20..50).contains(&by_key), "{by_key}");
    assert!((10..40).contains(&by_tenant), "{by_tenant}");
    world.another_tenant().await.client.post("/events", &wish()).await.expect(202);
    for _ in 0..60 {
        world.admin().for_tenant(&world.tenant.id).get("/webhooks").await.expect(200);
    }
}

#[tokio::test]
async fn nobody_is_limited_unless_it_is_configured() {
    let world = World::start().await;

    assert_eq!(accepted(world.client(), 300).await, 300);
}

/// A well-formed key with a valid checksum that was never issued.
fn unknown_key() -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let id = uuid::Uuid::now_v7();
    let id = data_encoding::BASE32HEX_NOPAD.encode(id.as_bytes()).to_lowercase();
    let secret: String = (0..27).map(|_| char::from(BASE62[rand::random_range(0..62)])).collect();
    let key = format!("phk_{id}_{secret}");
    let digest = Sha256::digest(key.as_bytes());
    let mut left = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) as usize;
    let checksum = std::iter::repeat_with(|| {
        let letter = char::from(BASE62[left % 62]);
        left /= 62;
        letter
    });
    format!("{key}{}", checksum.take(6).collect::<String>())
}

/// F35, behind a proxy: valid and wrong keys come from one address.
#[tokio::test]
async fn wrong_keys_by_the_thousand_refuse_no_right_one() {
    let world = World::start().await;
    world.publish("message.sent").await;
    let unused = world.caller(&["read"]).await;
    let (tried, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let goes_on = || tried.load(Ordering::Relaxed) < 3_000 || turns.load(Ordering::Relaxed) < 5;
    let anyone = world.anyone();
    let tries = async || {
        while goes_on() {
            tried.fetch_add(1, Ordering::Relaxed);
            let answer = anyone.with_key(&unknown_key()).get("/webhooks").await;
            assert_eq!(answer.problem(401).code(), "invalid_key");
        }
    };
    let owner = async {
        while goes_on() {
            let name = json!({"name": "Acme & Co"});
            world.admin().patch(&format!("/tenants/{}", world.tenant.id), &name).await.expect(200);
            // The change makes the server forget what it cached about the tenant's keys.
            world.publish("message.sent").await;
            // This key is used for the first time.
            world.caller(&["publish"]).await.post("/events", &wish()).await.expect(202);
            turns.fetch_add(1, Ordering::Relaxed);
        }
        unused.get("/webhooks").await.expect(200);
    };

    tokio::join!(owner, join_all((0..16).map(|_| tries())));
}

#[tokio::test]
async fn a_session_counts_under_the_rate_of_the_key_that_opened_it() {
    let limits = [("POSTHASTE_KEY_REQUESTS_PER_SECOND", "1"), ("POSTHASTE_KEY_REQUESTS_BURST", "20")];
    let world = World::with(&limits).await;
    let mut cookies = Vec::new();
    for _ in 0..5 {
        let answer = world.client().act("/session").await;
        answer.expect(201);
        let cookie = answer.header("set-cookie").and_then(|set| set.split(';').next()).expect("a cookie");
        cookies.push(cookie.to_owned());
    }
    let mut answered = 0;
    for cookie in cookies.iter().cycle().take(100) {
        let answer = send(world.anyone().call(Method::GET, "/webhooks").header("cookie", cookie)).await;
        match answer.status {
            200 => answered += 1,
            _ => assert_limited(&answer),
        }
    }
    // The limit regains one request a second meanwhile.
    assert!((1..40).contains(&answered), "{answered} answers to the sessions of one key");
}

#[tokio::test]
async fn no_answer_is_kept_rendered_or_framed() {
    let world = World::start().await;
    let webhook = json!({"name": "a", "url": "http://127.0.0.1:9/", "events": ["*"]});
    let answers = [
        world.client().post("/webhooks", &webhook).await,
        world.client().get("/webhooks").await,
        world.anyone().get("/webhooks").await,
        world.client().get("/nowhere").await,
        send(world.anyone().root(Method::GET, "/livez")).await,
        send(world.anyone().root(Method::GET, "/openapi.json")).await,
    ];

    for answer in answers {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name} of {answer:?}");
        }
    }
}

async fn preflight(world: &World, origin: &str) -> Answer {
    let call = world.anyone().call(Method::OPTIONS, "/events").header("origin", origin);
    let call = call.header("access-control-request-method", "POST");
    send(call.header("access-control-request-headers", "authorization,content-type")).await
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out() {
    let world = World::start().await;

    let asked = preflight(&world, "https://a.example").await;

    assert_eq!((asked.status, asked.header("allow")), (204, Some("GET,HEAD,POST,OPTIONS")));
    assert_eq!(asked.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn pages_of_an_origin_that_is_configured_may_call_and_no_others() {
    let world = World::with(&[("POSTHASTE_CORS_ORIGINS", "https://a.example,http://localhost:3000")]).await;

    let asked = preflight(&world, "https://a.example").await;
    assert_eq!(asked.status, 200, "{asked:?}");
    assert_eq!(asked.header("access-control-allow-origin"), Some("https://a.example"));
    assert!(asked.header("access-control-allow-methods").is_some_and(|methods| methods.contains("PATCH")));
    assert!(asked.header("access-control-allow-credentials").is_none());
    let plain = world.anyone().call(Method::OPTIONS, "/events").header("origin", "https://a.example");
    assert_eq!(send(plain).await.header("allow"), Some("GET,HEAD,POST,OPTIONS"), "no preflight request");
    for other in ["https://b.example", "null", "https://a.example.evil.example"] {
        assert_eq!(preflight(&world, other).await.header("access-control-allow-origin"), None, "{other}");
    }
    let call = world.client().json(Method::POST, "/events", &wish()).header("origin", "http://localhost:3000");
    let answer = send(call).await;
    answer.expect(202);
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"));
}
