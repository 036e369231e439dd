//! Several nodes on one PostgreSQL database. The first node is the world's own server; the others join once the
//! webhooks exist. Every node keeps its address across restarts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::checker::audit;
use crate::support::client::{Client, send};
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::load::Load;
use crate::support::receiver::Receiver;
use crate::support::server::{Env, Server};
use crate::support::world::{World, assert_no_panic, free_port};
use crate::writes;

/// Shards move one by one, and the machine may be busy.
const SHARED_OUT: Duration = Duration::from_secs(60);

pub(crate) struct Fleet {
    /// Declared before the world, so that the processes end before the database is removed.
    others: Vec<Node>,
    pub(crate) world: World,
}

struct Node {
    server: Server,
    env: Env,
    client: Client,
}

impl Fleet {
    /// A fleet of one node, on which webhooks can be created.
    pub(crate) async fn of_one(setting: (&'static str, &str)) -> Self {
        Self::of_one_with(&[setting]).await
    }

    pub(crate) async fn of_one_with(settings: &[(&'static str, &str)]) -> Self {
        let world = World::with(settings).await;
        writes::watch(world.database());
        Self { others: Vec::new(), world }
    }

    /// Lets nodes join until there are `nodes`, and waits until each has its share of the shards.
    pub(crate) async fn grow_to(&mut self, nodes: usize) {
        while self.size() < nodes {
            self.join().await;
        }
        self.is_shared_out().await;
    }

    /// Two nodes, and so many paused webhooks, each with a pending delivery.
    pub(crate) async fn of_two_with_backlogs(webhooks: usize) -> (Self, Vec<Hook>) {
        let mut fleet = Self::of_one(("POSTHASTE_LEASE_MS", "15000")).await;
        let hooks = make_hooks(&fleet, webhooks, |_| (Receiver::ok(), json!({}))).await;
        fleet.grow_to(2).await;
        let client = &fleet.clients()[0];
        for hook in &hooks {
            client.act_once_owned(&hook.path("/pause")).await;
        }
        fleet.world.publish("message.sent").await;
        (fleet, hooks)
    }

    /// Starts one more node.
    pub(crate) async fn join(&mut self) {
        self.join_with([]).await;
    }

    /// Starts one more node with additional variables.
    pub(crate) async fn join_with(&mut self, settings: impl IntoIterator<Item = (&'static str, String)>) {
        let mut env = self.world.env().clone();
        env.insert("POSTHASTE_LISTEN", format!("127.0.0.1:{}", free_port()));
        env.extend(settings);
        let server = Server::start(self.world.dir(), &[], &env).await;
        let client = Client::open(server.url()).with_key(&self.world.tenant.key);
        self.others.push(Node { server, env, client });
    }

    fn size(&self) -> usize {
        1 + self.others.len()
    }

    /// The tenant's clients, one for each node.
    pub(crate) fn clients(&self) -> Vec<Client> {
        let others = self.others.iter().map(|node| node.client.clone());
        [self.world.client().clone()].into_iter().chain(others).collect()
    }

    pub(crate) fn server(&mut self, node: usize) -> &mut Server {
        match node {
            0 => self.world.server(),
            _ => &mut self.others[node - 1].server,
        }
    }

    /// The environment that a node is started with.
    pub(crate) fn env(&mut self, node: usize) -> &mut Env {
        match node {
            0 => self.world.env(),
            _ => &mut self.others[node - 1].env,
        }
    }

    /// Starts an ended node again; to the others it is a new node.
    pub(crate) async fn restart(&mut self, node: usize) {
        if node == 0 {
            return self.world.restart().await;
        }
        let dir = self.world.dir().to_owned();
        let Node { server, env, .. } = &mut self.others[node - 1];
        assert!(!server.lives(), "the node still runs");
        assert_no_panic(env, server);
        *server = Server::start(&dir, &[], env).await;
    }

    /// Stops a node gracefully and expects success.
    pub(crate) async fn stop(&mut self, node: usize) {
        let server = self.server(node);
        server.terminate();
        let status = server.ended().await;
        assert_eq!(status.code(), Some(0), "a graceful stop: {}", server.output().all());
    }

    pub(crate) async fn stop_all(&mut self) {
        for node in 0..self.size() {
            self.stop(node).await;
        }
    }

    /// Waits until every node owns at least half of an equal share of the shards, nothing is owned by others, and all
    /// nodes report that they are ready.
    pub(crate) async fn is_shared_out(&self) {
        let sql = "SELECT CASE WHEN owner IN (SELECT num FROM node) THEN count(*) ELSE 0 END FROM shard GROUP BY owner";
        let mut shares = Vec::new();
        let what = format!("{} nodes share the shards", self.size());
        fact::until_within(SHARED_OUT, &what, async || {
            shares = self.world.database().ask(sql).lines().map(|line| line.parse().expect("a number")).collect();
            let nodes = self.size();
            let is_fair = shares.len() == nodes && shares.iter().all(|share: &usize| *share >= 128 / nodes);
            (is_fair && self.nodes_known() == nodes).then_some(())
        })
        .await;
        for client in self.clients() {
            fact::until("the node is ready", async || {
                let answer = send(client.root(http::Method::GET, "/readyz"));
                (answer.await.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Rows in `node`, including dead nodes that are not reaped yet.
    pub(crate) fn nodes_known(&self) -> usize {
        self.world.database().ask("SELECT count(*) FROM node").trim().parse().expect("a number")
    }

    /// The webhooks whose shards this node owns. `hooks` must be all webhooks of the database, in the order of
    /// creation.
    pub(crate) fn owned_by<'a>(&mut self, node: usize, hooks: &'a [Hook]) -> Vec<&'a Hook> {
        let process = format!("process {} ", self.server(node).id());
        let sql = "SELECT n.name FROM webhook w JOIN shard s ON s.num = w.num & 255 LEFT JOIN node n ON n.num = s.owner \
                   ORDER BY w.num";
        let owners = self.world.database().ask(sql);
        assert_eq!(owners.lines().count(), hooks.len(), "the database has a webhook of another test");
        let of_it = owners.lines().zip(hooks).filter(|(owner, _)| owner.starts_with(&process));
        of_it.map(|(_, hook)| hook).collect()
    }

    /// Checks what must hold after every fault: publishes events in doubt again, waits until all is settled, compares
    /// the books and stops every node.
    pub(crate) async fn account(&mut self, hooks: &[Hook], load: &Load, crashes: usize) {
        let committed = load.settle_doubts(self.world.client()).await;
        let summary = audit(&self.world, &hooks.iter().collect::<Vec<_>>(), load.promises(), crashes).await;
        let writes = writes::audit(self.world.database());
        println!("{summary:?}, {committed} committed without an answer; {writes} writes, each by its shard's owner");
        self.stop_all().await;
        self.world.check_integrity().await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.others.iter().for_each(|node| assert_no_panic(&node.env, &node.server));
        }
    }
}

/// Creates webhooks with these settings, each with its own receiver.
pub(crate) async fn make_hooks(fleet: &Fleet, count: usize, make: impl Fn(usize) -> (Receiver, Value)) -> Vec<Hook> {
    let mut hooks = Vec::with_capacity(count);
    for (receiver, settings) in (0..count).map(make) {
        hooks.push(fleet.world.hook(receiver, settings).await);
    }
    hooks
}
