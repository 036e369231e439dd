//! One running server with a tenant, and the operations that a test needs: create a webhook, publish, wait for results,
//! stop, kill, restart. Dropping a world ends the process and fails the test if the server reported a panic.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Answer, Client};
use crate::support::databases::{self, On};
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::server::{self, Env, Server};
use test_support::cluster::Database;
use test_support::proxy::Proxy;

pub(crate) const ADMIN_KEY: &str = "admin-key-of-the-test-suite-0123456789";
const ALL_SCOPES: [&str; 4] = ["read", "publish", "manage", "operate"];

/// Below the kernel's range for outgoing connections, so that a restarted server can bind its port again.
const OWN_PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Longer than the longest schedule that a test waits for.
const SETTLED: Duration = Duration::from_secs(60);

pub(crate) struct World {
    /// Declared before the directory, so that the process ends before its files are removed.
    server: Server,
    env: Env,
    pub(crate) tenant: Tenant,
    dir: TempDir,
    /// The PostgreSQL database; `None` for a SQLite file in the directory.
    database: Option<Database>,
}

/// A tenant and a client whose key has every scope.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) client: Client,
}

/// The promise to a publisher: a line of book P.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) matched: u64,
    pub(crate) duplicate: bool,
}

impl Event {
    pub(crate) fn from(body: &Value) -> Self {
        Self {
            id: text(body, "id"),
            timestamp: text(body, "timestamp"),
            matched: body["matched"].as_u64().unwrap_or_else(|| panic!("no `matched`: {body}")),
            duplicate: body["duplicate"].as_bool().unwrap_or_else(|| panic!("no `duplicate`: {body}")),
        }
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A world and one webhook for every event.
    pub(crate) async fn with_webhook(receiver: Receiver) -> (Self, Hook) {
        let world = Self::start().await;
        let hook = world.hook(receiver, json!({})).await;
        (world, hook)
    }

    /// A world whose server gets these variables in addition to the usual ones, or instead of them.
    pub(crate) async fn with(settings: &[(&'static str, &str)]) -> Self {
        let dir = TempDir::with_prefix("posthaste-").expect("a directory");
        let mut env = sober_env(dir.path());
        let database = (On::this_test() == On::Postgres).then(Database::new);
        env.extend(database.iter().flat_map(databases::variables));
        env.extend(settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let server = Server::start(dir.path(), &[], &env).await;
        let tenant = new_tenant(&Client::open(server.url()).with_key(ADMIN_KEY), "Acme").await;
        Self { server, env, tenant, dir, database }
    }

    /// The server's base URL.
    pub(crate) fn url(&self) -> &str {
        self.server.url()
    }

    /// A client without a key.
    pub(crate) fn anyone(&self) -> Client {
        Client::open(self.server.url())
    }

    pub(crate) fn admin(&self) -> Client {
        self.anyone().with_key(ADMIN_KEY)
    }

    /// The tenant's client.
    pub(crate) fn client(&self) -> &Client {
        &self.tenant.client
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// The PostgreSQL database; panics on SQLite.
    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().expect("a test on PostgreSQL")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn env(&mut self) -> &mut Env {
        &mut self.env
    }

    pub(crate) async fn another_tenant(&self) -> Tenant {
        new_tenant(&self.admin(), "Bolt").await
    }

    /// A client of the tenant whose key has only these scopes.
    pub(crate) async fn caller(&self, scopes: &[&str]) -> Client {
        let key = new_key(&self.admin(), &self.tenant.id, scopes).await;
        self.anyone().with_key(&text(&key, "key"))
    }

    /// Creates a webhook of the tenant that calls `receiver`; `settings` override the plain ones.
    pub(crate) async fn hook(&self, receiver: Receiver, settings: Value) -> Hook {
        Hook::create(self.client(), receiver, settings).await
    }

    pub(crate) async fn publish(&self, event: &str) -> Event {
        self.publish_with(&json!({"event": event, "data": {"hello": "world"}})).await
    }

    pub(crate) async fn publish_with(&self, body: &Value) -> Event {
        Event::from(&self.client().post("/events", body).await.expect(202))
    }

    /// The deliveries of an event, one for each webhook that it matched.
    pub(crate) async fn deliveries_of(&self, event: &str) -> Vec<Value> {
        self.client().walk(&format!("/events/{event}/deliveries")).await
    }

    /// Waits until the one delivery of an event satisfies `fact`; returns the delivery with its attempts.
    pub(crate) async fn delivery_when(&self, event: &Event, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
        fact::until_within(SETTLED, what, async || {
            let [delivery] = &self.deliveries_of(&event.id).await[..] else { return None };
            let delivery = self.delivery(&text(delivery, "id")).await;
            fact(&delivery).then_some(delivery)
        })
        .await
    }

    /// Waits until the one delivery of an event is settled; returns the delivery with its attempts.
    pub(crate) async fn settled(&self, event: &Event) -> Value {
        self.delivery_when(event, "the delivery ends", is_terminal).await
    }

    /// Waits until every delivery of an event is settled.
    pub(crate) async fn all_settled(&self, event: &Event) -> Vec<Value> {
        let what = format!("{} deliveries of {} end", event.matched, event.id);
        fact::until_within(SETTLED, &what, async || {
            let deliveries = self.deliveries_of(&event.id).await;
            let all = deliveries.len() as u64 == event.matched && deliveries.iter().all(is_terminal);
            all.then_some(deliveries)
        })
        .await
    }

    pub(crate) async fn delivery(&self, id: &str) -> Value {
        self.client().get(&format!("/deliveries/{id}")).await.expect(200)
    }

    /// Stops the server gracefully and expects success.
    pub(crate) async fn stop(&mut self) {
        self.server.terminate();
        let status = self.server.ended().await;
        assert_eq!(status.code(), Some(0), "a graceful stop: {}", self.server.output().all());
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.server.ended().await
    }

    /// Stops the server and puts a proxy between it and PostgreSQL for the next start.
    pub(crate) async fn stop_before_a_proxy(&mut self) -> Proxy {
        let proxy = Proxy::new(Database::socket());
        let url = self.database().url_at(proxy.dir());
        self.stop().await;
        self.env().insert("POSTHASTE_DATABASE_URL", url);
        proxy
    }

    /// Starts the ended server again with the same database, port and tenant.
    pub(crate) async fn restart(&mut self) {
        assert!(!self.server.lives(), "the server still runs");
        let fresh = Server::start(self.dir.path(), &[], &self.env).await;
        self.replace(fresh);
    }

    fn replace(&mut self, fresh: Server) {
        assert_no_panic(&self.env, &self.server);
        self.server = fresh;
    }

    /// Runs `posthaste check` on the database, after the server has ended.
    pub(crate) async fn check_integrity(&self) {
        let mut env = self.env.clone();
        env.retain(|name, _| ["POSTHASTE_DATABASE_URL", "POSTHASTE_MASTER_KEY"].contains(name));
        let (status, output) = server::run(self.dir.path(), &["check"], &env).await;
        let all = output.all();
        assert!(status.success() && all.contains("integrity: ok"), "{status}: {all}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_no_panic(&self.env, &self.server);
        }
    }
}

pub(crate) fn assert_no_panic(env: &Env, server: &Server) {
    let wanted = env.get("POSTHASTE_FAULT").is_some_and(|fault| fault.starts_with("panic"));
    let all = server.output().all();
    assert!(wanted || !all.contains("panicked at"), "the server panicked: {all}");
}

/// The environment of a server that may call receivers on this machine.
pub(crate) fn sober_env(dir: &Path) -> Env {
    Env::from([
        ("POSTHASTE_DATABASE_URL", format!("sqlite://{}", dir.join("p.db").display())),
        ("POSTHASTE_LISTEN", format!("127.0.0.1:{}", free_port())),
        ("POSTHASTE_ADMIN_KEY", ADMIN_KEY.to_owned()),
        ("POSTHASTE_ALLOW_HTTP", "true".to_owned()),
        ("POSTHASTE_EGRESS_ALLOW", "127.0.0.0/8".to_owned()),
        ("POSTHASTE_LOG", "warn".to_owned()),
    ])
}

pub(crate) fn free_port() -> u16 {
    std::iter::repeat_with(|| rand::random_range(OWN_PORTS))
        .take(1_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

async fn new_tenant(admin: &Client, name: &str) -> Tenant {
    let tenant = admin.post("/tenants", &json!({"name": name})).await.expect(201);
    let id = text(&tenant, "id");
    let key = text(&new_key(admin, &id, &ALL_SCOPES).await, "key");
    Tenant { client: admin.with_key(&key), id, key }
}

pub(crate) async fn new_key(admin: &Client, tenant: &str, scopes: &[&str]) -> Value {
    let wish = json!({"name": format!("key for {}", scopes.join(" and ")), "scopes": scopes});
    admin.post(&format!("/tenants/{tenant}/keys"), &wish).await.expect(201)
}

/// Creates an admin key; returns its id.
pub(crate) async fn new_admin_key(world: &World) -> String {
    text(&world.admin().post("/admin-keys", &json!({"name": "another"})).await.expect(201), "id")
}

/// Opens a session with this client's key; returns the session's id.
pub(crate) async fn new_session(client: &Client) -> String {
    text(&client.act("/session").await.expect(201), "id")
}

/// The text in field `field`; panics if there is none.
pub(crate) fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_else(|| panic!("no text in `{field}`: {body}")).to_owned()
}

pub(crate) fn is_terminal(delivery: &Value) -> bool {
    match delivery["status"].as_str() {
        Some("success" | "failed" | "cancelled") => true,
        Some("pending") => false,
        _ => panic!("a delivery without a known status: {delivery}"),
    }
}

/// The attempts of a delivery that was read by its id, oldest first.
pub(crate) fn attempts(delivery: &Value) -> &[Value] {
    delivery["attempts"].as_array().unwrap_or_else(|| panic!("no list of attempts: {delivery}"))
}

/// One field of every attempt, in order.
pub(crate) fn each_attempt<'a>(delivery: &'a Value, field: &str) -> Vec<&'a Value> {
    attempts(delivery).iter().map(|attempt| &attempt[field]).collect()
}

/// The `id` in an answer.
pub(crate) fn id_of(answer: &Answer) -> String {
    text(&answer.json(), "id")
}
