//! How the engine follows changes of another node, which a second store on the same database makes.

use parking_lot::Mutex;

use super::*;
use crate::domain::id::WebhookNum;
use crate::engine::stale::Stale;

/// An engine, and the store of another node.
async fn world() -> (World, Store) {
    let world = World::start_in(Home::Database(Database::new())).await;
    let elsewhere = Store::open(world.home.options()).await.unwrap();
    (world, elsewhere)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

impl World {
    fn is_routed_to(&self, webhook: &Webhook) -> bool {
        self.engine.inner.routes.matching(self.tenant.num, "message.sent").contains(&webhook.num)
    }

    /// Publishes until a delivery waits; an endpoint that still sends would let it fail.
    async fn held_delivery(&self, webhook: &Webhook) -> DeliveryId {
        let wait = async {
            loop {
                let [id] = self.publish_to(&[webhook]).await[..] else { panic!("one delivery") };
                loop {
                    match self.status(id).await {
                        Some(Status::Pending) => return id,
                        Some(_) => break,
                        None => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the endpoint hears that it is held")
    }
}

#[tokio::test]
async fn routes_and_a_live_endpoint_follow_what_another_node_does_to_a_webhook() {
    let (world, elsewhere) = world().await;
    let webhook = elsewhere.create_webhook(world.new_webhook(), None, &Author::engine()).await.unwrap();
    until("it is routed to", || world.is_routed_to(&webhook)).await;
    let [first] = world.publish_to(&[&webhook]).await[..] else { panic!("one delivery") };
    world.becomes(first, Status::Failed).await;

    let now = UnixMillis::now();
    let off = elsewhere.update_webhook(&Webhook { is_active: false, ..webhook }, now, &Author::engine()).await.unwrap();
    until("it is routed to no more", || !world.is_routed_to(&off)).await;
    let held = world.held_delivery(&off).await;

    let on = elsewhere.update_webhook(&Webhook { is_active: true, ..off }, now, &Author::engine()).await.unwrap();
    until("it is routed to again", || world.is_routed_to(&on)).await;
    world.becomes(held, Status::Failed).await;

    assert!(elsewhere.pause_webhook(&on, None, now, &Author::engine()).await.unwrap());
    let paused = elsewhere.webhook(world.tenant.num, on.id).await.unwrap().unwrap();
    let held = world.held_delivery(&paused).await;
    let ledger = &world.engine.inner.context.ledger;
    until("it is owed something", || ledger.pending(paused.num) > 0).await;
    elsewhere.delete_webhook(&paused, now, &Author::engine()).await.unwrap();
    until("it is routed to no more", || !world.is_routed_to(&paused)).await;
    until("it is owed nothing", || ledger.backlogged() == 0).await;
    world.becomes(held, Status::Cancelled).await;
    elsewhere.close().await;
    world.stop().await;
}

#[tokio::test]
async fn listeners_are_told_of_changes_to_tenants() {
    let (world, elsewhere) = world().await;
    let webhook = world.webhook().await;
    let told: Arc<Mutex<Vec<Stale>>> = Arc::default();
    let listener = told.clone();
    world.engine.on_stale(move |stale| listener.lock().push(stale));
    let tenant = world.tenant.num;

    let strict = Tenant { allow_undeclared_types: false, ..world.tenant.clone() };
    let strict = elsewhere.update_tenant(&strict, UnixMillis::now(), &Author::engine()).await.unwrap();
    until("a change is told", || *told.lock() == [Stale::Tenant(tenant)]).await;
    elsewhere.delete_tenant(&strict, UnixMillis::now(), &Author::engine()).await.unwrap();
    until("a deletion is told", || told.lock().len() == 2).await;
    assert!(*told.lock() == [Stale::Tenant(tenant); 2] && !world.is_routed_to(&webhook));
    elsewhere.close().await;
    world.stop().await;
}

#[tokio::test]
async fn after_more_than_is_told_everything_is_read_again() {
    let (world, elsewhere) = world().await;
    let live = world.webhook().await;
    let [first] = world.publish_to(&[&live]).await[..] else { panic!("one delivery") };
    world.becomes(first, Status::Failed).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    world.engine.on_stale(move |stale| listener.lock().push(stale));
    let pause = format!("UPDATE webhook SET paused_at = 1, version = version + 1 WHERE num = {}", live.num.0);
    elsewhere.tamper(&pause).await;

    elsewhere.create_webhooks(&[world.new_webhook()]).await.unwrap();

    until("both are routed to", || world.engine.inner.routes.of_tenant(world.tenant.num).len() == 2).await;
    until("it is told", || told.lock().contains(&Stale::Everything)).await;
    world.held_delivery(&live).await;
    elsewhere.close().await;
    world.stop().await;
}

#[tokio::test]
async fn a_change_after_the_database_was_away_is_heard() {
    let (world, elsewhere) = world().await;
    let webhook = world.webhook().await;
    let Home::Database(database) = &world.home else { panic!("a server") };
    database.open_for_all(false);
    assert!(world.engine.store().routes(WebhookNum(0)).await.is_err());
    database.open_for_all(true);
    let change = async {
        loop {
            let off = Webhook { is_active: false, ..webhook.clone() };
            match elsewhere.update_webhook(&off, UnixMillis::now(), &Author::engine()).await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, change).await.unwrap();
    until("it is routed to no more", || !world.is_routed_to(&webhook)).await;
    elsewhere.close().await;
    world.stop().await;
}
