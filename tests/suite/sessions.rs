//! Browser sessions: a cookie that no script can read has the rights of the key that opened it, works for pages of the
//! same host only, and ends with that key.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send};
use crate::support::databases::{On, on_both};
use crate::support::fact;
use crate::support::fleet::Fleet;
use crate::support::world::{World, new_key, text};

/// A browser that shows a page of the server.
struct Browser {
    anyone: Client,
    /// The page's origin.
    origin: String,
    cookie: String,
}

impl Browser {
    /// Logs in with a key.
    async fn of(world: &mut World, key: &Client) -> Self {
        let origin = world.server().url().to_owned();
        let answer = send(key.call(Method::POST, "/session").header("Origin", &origin)).await;
        answer.expect(201);
        Self { anyone: world.anyone(), origin, cookie: cookie_of(&answer).0 }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.anyone.call(method, path).header("Cookie", format!("theme=dark; {}", self.cookie))
    }

    async fn get(&self, path: &str) -> Answer {
        send(self.call(Method::GET, path)).await
    }

    /// Sends a request from the server's own page.
    async fn act(&self, method: Method, path: &str) -> Answer {
        send(self.call(method, path).header("Origin", &self.origin)).await
    }
}

/// The cookie that an answer sets: its name and value, and its attributes.
fn cookie_of(answer: &Answer) -> (String, String) {
    let set = answer.header("set-cookie").expect("a cookie");
    let (pair, attributes) = set.split_once("; ").expect("attributes");
    (pair.to_owned(), attributes.to_owned())
}

fn event(call: RequestBuilder) -> RequestBuilder {
    let body = json!({"event": "message.sent", "data": {}}).to_string();
    call.header("Content-Type", "application/json").body(body)
}

on_both!(a_session_does_what_its_key_does_until_it_is_closed);
async fn a_session_does_what_its_key_does_until_it_is_closed() {
    let mut world = World::start().await;
    let reader = world.caller(&["read"]).await;
    let client = world.client().clone();
    let (browser, weak) = (Browser::of(&mut world, &client).await, Browser::of(&mut world, &reader).await);

    browser.get("/webhooks").await.expect(200);
    let shown = browser.get("/session").await.expect(200);
    assert_eq!(shown["tenantId"], world.tenant.id.as_str());
    assert!(text(&shown, "id").starts_with("ses_") && text(&shown, "keyId").starts_with("key_"), "{shown}");
    assert_eq!(shown["scopes"], json!(["read", "publish", "manage", "operate"]));
    let publish = || event(browser.call(Method::POST, "/events"));
    send(publish().header("Origin", &browser.origin)).await.expect(202);
    send(publish().header("Sec-Fetch-Site", "same-origin")).await.expect(202);
    let refused = send(event(weak.call(Method::POST, "/events")).header("Origin", &weak.origin)).await;
    assert_eq!(refused.problem(403).code(), "missing_scope");
    assert_eq!(browser.act(Method::POST, "/session").await.problem(409).code(), "session_open");
    assert_eq!(client.delete("/session").await.problem(409).code(), "no_session");

    let closed = browser.act(Method::DELETE, "/session").await;
    assert_eq!(closed.status, 204);
    assert!(cookie_of(&closed).1.contains("Max-Age=0"), "{closed:?}");
    assert_eq!(browser.get("/webhooks").await.problem(401).code(), "invalid_key");
    weak.get("/webhooks").await.expect(200);
    client.get("/webhooks").await.expect(200);
    let audit = client.walk("/audit").await;
    let sessions: Vec<&Value> =
        audit.iter().filter(|entry| entry["action"].as_str().is_some_and(|it| it.starts_with("session."))).collect();
    assert_eq!(sessions.len(), 3, "two were opened and one ended: {sessions:?}");
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_it() {
    let mut world = World::start().await;
    let client = world.client().clone();
    let browser = Browser::of(&mut world, &client).await;
    let publish = || event(browser.call(Method::POST, "/events"));
    for (name, value) in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("X-Nothing", "said"),
    ] {
        let answer = send(publish().header(name, value)).await;
        assert_eq!(answer.problem(403).code(), "cross_origin", "{name}: {value}");
    }
    let both = publish().header("Origin", &browser.origin).header("Sec-Fetch-Site", "cross-site");
    assert_eq!(
        send(both).await.problem(403).code(),
        "cross_origin",
        "Sec-Fetch-Site, which pages cannot forge, takes precedence"
    );
    assert!(client.walk("/events").await.is_empty());
    let preflight = browser.anyone.call(Method::OPTIONS, "/events").header("Origin", "http://evil.example");
    let answer = send(preflight.header("Access-Control-Request-Method", "POST")).await;
    assert!(answer.header("access-control-allow-origin").is_none(), "{answer:?}");

    let with_key = event(client.call(Method::POST, "/events")).header("Origin", "http://evil.example");
    send(with_key.header("Cookie", &browser.cookie)).await.expect(202);
}

#[tokio::test]
async fn a_session_that_a_sibling_host_has_planted_is_not_used() {
    let mut world = World::start().await;
    let client = world.client().clone();
    let browser = Browser::of(&mut world, &client).await;
    let attacker = world.another_tenant().await;
    let planted = Browser::of(&mut world, &attacker.client).await;
    for both in [format!("{}; {}", planted.cookie, browser.cookie), format!("{}; {}", browser.cookie, planted.cookie)] {
        let call = world.anyone().call(Method::GET, "/session").header("Cookie", both);
        assert_eq!(send(call).await.problem(400).code(), "ambiguous_session");
    }
    let call = world.anyone().call(Method::GET, "/session").header("Cookie", &planted.cookie);
    assert_eq!(send(call.header("Origin", "https://hooks.example")).await.problem(401).code(), "unauthenticated");
}

#[tokio::test]
async fn no_script_reads_the_cookie_and_over_tls_nobody_else_does() {
    let world = World::start().await;
    let open = async |origin: Option<&str>| {
        let call = world.client().call(Method::POST, "/session");
        let answer = send(origin.into_iter().fold(call, |call, origin| call.header("Origin", origin))).await;
        answer.expect(201);
        assert!(!answer.text.contains("phk_"), "the key must be in the cookie only: {answer:?}");
        cookie_of(&answer)
    };
    let (pair, attributes) = open(Some("http://hooks.example")).await;
    assert!(pair.starts_with("posthaste_session=phk_"), "{pair}");
    assert_eq!(attributes, "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict");
    for origin in [Some("https://hooks.example"), None] {
        let (pair, attributes) = open(origin).await;
        assert!(pair.starts_with("__Host-posthaste_session=phk_"), "{pair}");
        assert_eq!(attributes, "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure");
    }
}

on_both!(a_session_ends_with_the_key_that_opened_it);
async fn a_session_ends_with_the_key_that_opened_it() {
    let mut world = World::start().await;
    let keys = format!("/tenants/{}/keys", world.tenant.id);
    let made = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    let by_key = world.anyone().with_key(&text(&made, "key"));
    let browser = Browser::of(&mut world, &by_key).await;
    let listed = world.admin().walk(&keys).await.len();
    browser.get("/webhooks").await.expect(200);
    assert_eq!(world.admin().walk(&keys).await.len(), listed, "a session's key must not be listed");
    let session = text(&browser.get("/session").await.expect(200), "id").replace("ses_", "key_");
    world.admin().delete(&format!("{keys}/{session}")).await.problem(404);

    assert_eq!(world.admin().delete(&format!("{keys}/{}", text(&made, "id"))).await.status, 204);

    assert_eq!(browser.get("/webhooks").await.problem(401).code(), "invalid_key");
}

on_both!(an_admins_session_ends_with_the_admin_key_of_the_configuration);
async fn an_admins_session_ends_with_the_admin_key_of_the_configuration() {
    let mut world = World::start().await;
    let admin = world.admin();
    let browser = Browser::of(&mut world, &admin).await;
    browser.get("/tenants").await.expect(200);
    world.stop().await;
    world.restart().await;
    let again = Browser { anyone: world.anyone(), ..browser };
    again.get("/tenants").await.expect(200);
    world.stop().await;
    world.env().insert("POSTHASTE_ADMIN_KEY", "another-admin-key-of-the-test-suite-0123".to_owned());
    world.restart().await;
    let again = Browser { anyone: world.anyone(), ..again };
    assert_eq!(again.get("/tenants").await.problem(401).code(), "invalid_key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_closed_on_one_node_opens_nothing_on_any() {
    On::Postgres
        .run(async {
            let mut fleet = Fleet::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
            fleet.grow_to(2).await;
            let elsewhere = Client::open(fleet.server(1).url());
            for key in [fleet.world.client().clone(), fleet.world.admin()] {
                let browser = Browser::of(&mut fleet.world, &key).await;
                let there =
                    Browser { anyone: elsewhere.clone(), origin: String::new(), cookie: browser.cookie.clone() };
                there.get("/session").await.expect(200);

                assert_eq!(browser.act(Method::DELETE, "/session").await.status, 204);

                let is_closed = async || (there.get("/session").await.status == 401).then_some(());
                fact::until("the other node refuses the closed session", is_closed).await;
                send(key.call(Method::GET, "/session")).await.expect(200);
            }
            fleet.stop_all().await;
        })
        .await;
}
