//! PgBouncer between a server and its PostgreSQL: pool modes that work, and those that are refused at the start.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::support::client::try_send;
use crate::support::databases::On;
use crate::support::fact;
use crate::support::receiver::Receiver;
use crate::support::server;
use crate::support::world::{World, free_port};
use test_support::cluster::{self, Database};

/// Time to reconnect and to renew the lease of three seconds, on a busy machine.
const BACK: Duration = Duration::from_secs(30);

/// Runs PgBouncer until the shell's input ends; the kernel closes it when the test process is gone.
const WATCH: &str = r#"
trap '' INT TERM HUP
PATH=$PATH:/usr/sbin pgbouncer "$1" >"$1.log" 2>&1 </dev/null &
pooler=$!
cat >/dev/null
kill -KILL $pooler 2>/dev/null
wait $pooler
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A server session for each connection.
    Session,
    /// A server session for each transaction; PgBouncer keeps the prepared statements of each connection apart.
    Transaction,
    /// The same without support for prepared statements.
    TransactionWithoutStatements,
}

impl Mode {
    /// The mode that works with the installed PgBouncer and shares the most.
    fn best() -> Self {
        if knows_statements() { Self::Transaction } else { Self::Session }
    }
}

/// Whether this PgBouncer supports prepared statements, as versions from 1.21 on do.
fn knows_statements() -> bool {
    let said = Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin pgbouncer --version"]).output().expect("a shell");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said.split_whitespace().nth(1).unwrap_or_else(|| panic!("no PgBouncer; scripts/test installs it"));
    let mut numbers = version.split('.').filter_map(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(1), Some(21))
}

/// A running PgBouncer, which ends with the test.
struct Pooler {
    dir: TempDir,
    port: u16,
    running: Option<(Child, ChildStdin)>,
}

impl Pooler {
    async fn start(database: &Database, mode: Mode) -> Self {
        let (dir, port) = (TempDir::with_prefix("posthaste-pooler-").expect("a directory"), free_port());
        let mut settings = format!(
            "[databases]\n* = host={} user=posthaste\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\ndefault_pool_size = 40\nmax_client_conn = 200\n",
            database.host().display()
        );
        let pool_mode = if mode == Mode::Session { "session" } else { "transaction" };
        writeln!(settings, "pool_mode = {pool_mode}").expect("a text grows");
        if knows_statements() {
            let kept = if mode == Mode::Transaction { 256 } else { 0 };
            writeln!(settings, "max_prepared_statements = {kept}").expect("a text grows");
        }
        fs::write(dir.path().join("pooler.ini"), settings).expect("a file");
        if let Some((user, group)) = cluster::owner() {
            chown(dir.path(), Some(user), Some(group)).expect("root may give a directory away");
        }
        let mut pooler = Self { dir, port, running: None };
        pooler.run().await;
        pooler
    }

    async fn run(&mut self) {
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(self.dir.path().join("pooler.ini")).process_group(0);
        if let Some((user, group)) = cluster::owner() {
            watch.uid(user).gid(group);
        }
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watch = watch.spawn().expect("a shell");
        let life = watch.stdin.take().expect("an input");
        self.running = Some((watch, life));
        let address = ("127.0.0.1", self.port);
        fact::until("the pooler listens", async || tokio::net::TcpStream::connect(address).await.ok()).await;
    }

    /// Kills PgBouncer and with it all connections.
    fn kill(&mut self) {
        let Some((mut watch, life)) = self.running.take() else { return };
        drop(life);
        watch.wait().expect("a child that ends");
    }

    fn url(&self, database: &Database) -> String {
        format!("postgres://posthaste@127.0.0.1:{}/{}?sslmode=disable", self.port, database.name())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A world whose server connects through a pooler.
async fn behind(mode: Mode) -> (World, Pooler) {
    let mut world = World::start().await;
    world.stop().await;
    let pooler = Pooler::start(world.database(), mode).await;
    let url = pooler.url(world.database());
    world.env().insert("POSTHASTE_DATABASE_URL", url);
    (world, pooler)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_ends_and_comes_back_costs_time_and_no_event() {
    On::Postgres
        .run(async {
            let (mut world, mut pooler) = behind(Mode::best()).await;
            world.restart().await;
            let hook = world.hook(Receiver::answers_after(Duration::from_millis(20)), json!({})).await;
            let mut promised = Vec::new();
            for _ in 0..50 {
                promised.push(world.publish("message.sent").await.id);
            }

            pooler.kill();
            assert_eq!(accepted(&world).await, None, "there is no database");
            pooler.run().await;

            let again = fact::until_within(BACK, "a publish is accepted", async || accepted(&world).await).await;
            promised.push(again);
            for event in &promised {
                let arrived = async || {
                    let seen = hook.requests();
                    seen.iter().any(|request| request.header("webhook-id") == event).then_some(())
                };
                fact::until_within(BACK, "the event is delivered", arrived).await;
            }
            world.stop().await;
        })
        .await;
}

#[tokio::test]
async fn a_pooler_that_mixes_up_statements_is_refused_at_the_start() {
    On::Postgres
        .run(async {
            let (mut world, _pooler) = behind(Mode::TransactionWithoutStatements).await;
            let env = world.env().clone();

            let (status, output) = server::run(world.dir(), &["serve"], &env).await;

            let said = output.stderr();
            assert_eq!(status.code(), Some(2), "{said}");
            assert!(said.contains("a pooler that mixes up prepared statements; expected PgBouncer 1.21"), "{said}");
        })
        .await;
}

/// Publishes an event; returns its id if the event was accepted.
async fn accepted(world: &World) -> Option<String> {
    let body = json!({"event": "message.sent", "data": {}});
    let answer = try_send(world.client().json(Method::POST, "/events", &body)).await.expect("an answer");
    (answer.status == 202).then(|| answer.json()["id"].as_str().expect("an id").to_owned())
}
