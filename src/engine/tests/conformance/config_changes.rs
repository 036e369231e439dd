//! Config changes that have become visible since a position.

use super::database::{Database, LONG, On};
use super::{on_all, on_clusters};

use crate::domain::moment::UnixMillis;
use crate::store::config_changes::Change;

on_clusters!(changes_of_webhooks_are_found_once_after_a_position);
async fn changes_of_webhooks_are_found_once_after_a_position(on: On) {
    let database = Database::new(on).await;
    database.webhook().await;
    let start = database.engine.position().await.unwrap();
    let none = database.engine.changes_since(&start).await.unwrap();
    assert_eq!(none.changes, []);

    let (first, second) = (database.webhook().await, database.webhook().await);
    database.set_paused(first, true).await;
    database.switch_off(second).await;
    let changed = database.engine.changes_since(&none.position).await.unwrap();
    assert_eq!(changed.changes, [first, second, first, second].map(Change::Webhook));
    database.rotate_secret(first, UnixMillis::now().plus(LONG)).await;
    database.delete_webhook(second).await;
    let later = database.engine.changes_since(&changed.position).await.unwrap();
    assert_eq!(later.changes, [first, second].map(Change::Webhook));
    assert_eq!(database.engine.changes_since(&later.position).await.unwrap().changes, []);
    let all = database.engine.changes_since(&start).await.unwrap().changes;
    assert_eq!(all.len(), 6, "a node that was away finds everything since");
}

on_all!(a_process_that_has_the_database_alone_follows_nothing);
async fn a_process_that_has_the_database_alone_follows_nothing(on: On) {
    let database = Database::new(on).await;
    let start = database.engine.position().await.unwrap();
    database.webhook().await;
    let changes = database.engine.changes_since(&start).await.unwrap().changes;
    assert_eq!(changes.is_empty(), !database.cluster.is_clustered());
}
