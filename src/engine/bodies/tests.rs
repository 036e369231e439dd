//! Bodies read from the store and shared by requests.

use serde_json::value::RawValue;

use super::*;
use crate::domain::id::WebhookNum;
use crate::engine::tests::store_with_tenant;
use crate::journal::{Draft, Published};
use crate::store::Store;
use crate::store::leases::ShardSet;

fn db_of(store: &Store) -> Arc<dyn EngineDb> {
    Arc::new(store.clone())
}

/// Publishes events with bodies of these sizes to a new database, and reads them back.
async fn publish(store: &Store, tenant: TenantNum, sizes: &[usize]) -> Vec<Arc<Event>> {
    let journal = store.start_journal(&ShardSet::everything()).await.0.journal;
    let draft = |size: &usize| Draft {
        tenant,
        kind: "a".into(),
        occurred_at: None,
        data: RawValue::from_string(format!("\"{}\"", "x".repeat(*size))).unwrap(),
        caller: None,
        trail: None,
        targets: Arc::new([WebhookNum(1)]),
        is_ordered: false,
    };
    let published = journal.publish(sizes.iter().map(draft).collect(), None).await.unwrap().published;
    assert!(published.iter().all(|published| matches!(published, Published::Accepted(_))), "{published:?}");
    let page = store.fanouts(EventSeq::ZERO, 100).await.unwrap();
    page.fanouts.into_iter().map(|fanout| fanout.event).collect()
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_share_one_body() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tenant) = store_with_tenant(&directory).await;
    let [event]: [Arc<Event>; 1] = publish(&store, tenant.num, &[200_000]).await.try_into().unwrap();
    let bodies = Bodies::new(&Host::live(), &db_of(&store), 1 << 20);
    let (first, second) = tokio::join!(bodies.of(&event), bodies.of(&event));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.len() > 200_000 && first.as_ptr() == second.as_ptr());
    drop((first, second));
    assert_eq!(bodies.slot(event.seq).lock().await.strong_count(), 0, "nobody has it any more");
}

#[tokio::test]
async fn a_body_for_which_there_is_no_room_waits_until_another_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tenant) = store_with_tenant(&directory).await;
    let events = publish(&store, tenant.num, &[200_000, 300_000]).await;
    let bodies = Bodies::new(&Host::live(), &db_of(&store), 400_000);
    let first = bodies.of(&events[0]).await.unwrap();
    let mut second = std::pin::pin!(bodies.of(&events[1]));
    assert!(tokio::time::timeout(PATIENCE / 10, &mut second).await.is_err());
    drop(first);
    assert!(second.await.unwrap().len() > 300_000, "as soon as it can, and larger than half of the room");
}

/// Two fan-out rows of an event that was just published.
fn published(tenant: TenantNum, bytes: usize) -> [Fanout; 2] {
    let body = Body::InMemory(Bytes::from(vec![b'x'; bytes]));
    let event = Event { seq: EventSeq(7), tenant, kind: "a".to_owned(), body, trail: None };
    [0, 1].map(|shard| {
        let (event, targets) = (Arc::new(event.clone()), Arc::new([WebhookNum(1)]));
        Fanout { event, shard, targets, in_order: false }
    })
}

#[tokio::test]
async fn what_was_just_published_is_sent_without_a_read() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tenant) = store_with_tenant(&directory).await;
    let mut fanouts = published(tenant.num, 200_000);
    let bodies = Bodies::new(&Host::live(), &db_of(&store), 1 << 20);
    bodies.adopt(&mut fanouts);
    assert!(Arc::ptr_eq(&fanouts[0].event, &fanouts[1].event));
    assert_eq!(fanouts[0].event.body, Body::Stored { bytes: 200_000 });
    assert_eq!(bodies.of(&fanouts[0].event).await.unwrap().len(), 200_000, "the store does not know it");
}

#[tokio::test]
async fn a_published_body_that_is_too_large_to_be_kept_takes_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tenant) = store_with_tenant(&directory).await;
    let bodies = Bodies::new(&Host::live(), &db_of(&store), 400_000);
    bodies.adopt(&mut published(tenant.num, 150_000));
    assert!(bodies.room.lock().fits(tenant.num, 200_000), "all that a tenant may have is free");
}
