//! The conformance suite: what every database must do for the engine. Every test runs on each database.

mod access;
mod bulk;
mod changes;
mod deleted;
mod duplicates;
mod history;
mod large;
mod leases;
mod ledger;
mod log_index;
mod looks;
mod lost_answers;
mod migrations;
mod progress;
mod purge;
mod retention;
mod rewrap;
mod secrets;
mod unreadable;
mod world;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::audit::Author;
use super::deliveries::{ATTEMPTS_BYTES, DeliveryFilter, LISTED_BODY, LastAttempt, Wanted};
use super::idempotency::OnceKey;
use super::log::LogIndex;
use super::webhooks::{NewWebhook, PageDraft, Rotation, Webhook, WebhookList, WebhookOrder};
use super::*;
use crate::domain::delivery::{DeliveryState, Status};
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::journal::{Draft, PublishAnswer, PublishError, Published, Record};
use crate::secrets::{MasterKey, SealContext};

use self::world::{Home, On, World, attempted, bearer, id, shown};

/// Runs the test of this name on each database.
macro_rules! on_both {
    ($name:ident) => {
        mod $name {
            use crate::store::tests::world::On;

            #[tokio::test]
            async fn on_sqlite() {
                super::$name(On::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                super::$name(On::Postgres).await;
            }
        }
    };
}
use on_both;

on_both!(a_published_event_is_readable_with_its_fan_out_as_soon_as_it_is_answered);
async fn a_published_event_is_readable_with_its_fan_out_as_soon_as_it_is_answered(on: On) {
    let world = World::new(on).await;
    let receipt = world.accept(&[3, 9, 500]).await;
    assert_eq!(receipt.matched, 3);
    let event = world.store.event(world.tenant.num, receipt.seq).await.unwrap().unwrap();
    let body = world.store.event_body(world.tenant.num, receipt.seq).await.unwrap().unwrap();
    assert_eq!(event.body_bytes, body.len());
    let body = std::str::from_utf8(&body).unwrap();
    assert!(body.ends_with(r#""data":{}}"#), "{body}");
    let fanouts = world.open_fanouts().await;
    let targets: Vec<WebhookNum> = fanouts.iter().flat_map(|fanout| fanout.targets.to_vec()).collect();
    assert_eq!(targets, [3, 9, 500].map(WebhookNum));
    // With several nodes, there is a fan-out for each shard.
    assert_eq!(fanouts.len(), if on == On::Sqlite { 1 } else { 3 });
    assert!(world.accept(&[]).await.seq > receipt.seq, "keys follow the order of commit");
    assert_eq!(world.open_fanouts().await.len(), fanouts.len(), "an event without targets has no fan-out");
}

on_both!(a_callers_id_is_one_event_however_often_and_concurrently_it_is_published);
async fn a_callers_id_is_one_event_however_often_and_concurrently_it_is_published(on: On) {
    let world = World::new(on).await;
    let drafts = (0..5).map(|_| world.draft(Some(("order-1", 1)), &[])).collect();
    let (batch, single) =
        tokio::join!(world.running.journal.publish(drafts, None), world.publish(Some(("order-1", 1)), &[]));
    let mut all = batch.unwrap().published;
    all.push(single);
    let accepted: Vec<_> = all.iter().filter(|published| matches!(published, Published::Accepted(_))).collect();
    assert_eq!(accepted.len(), 1);
    let Published::Accepted(first) = *accepted[0] else { unreachable!() };
    assert!(all.contains(&Published::Duplicate(first)));
    assert_eq!(world.publish(Some(("order-1", 2)), &[]).await, Published::Conflict);
}

on_both!(an_idempotency_key_gives_the_first_answer_again);
async fn an_idempotency_key_gives_the_first_answer_again(on: On) {
    let world = World::new(on).await;
    let once = OnceKey { tenant: Some(world.tenant.num), key: "k".to_owned(), fingerprint: [1; 32] };
    let publish = |once: OnceKey| world.running.journal.publish(vec![world.draft(None, &[])], Some(once));
    let (one, two) = tokio::join!(publish(once.clone()), publish(once.clone()));
    let [one, two] = [one, two].map(Result::unwrap);
    assert_eq!(one.published, two.published);
    assert_ne!(one.is_repeated, two.is_repeated, "one of two at once is the first");
    assert_eq!(publish(once.clone()).await.unwrap(), PublishAnswer { is_repeated: true, ..one });
    let other = OnceKey { fingerprint: [2; 32], ..once };
    assert!(matches!(publish(other).await, Err(PublishError::KeyReused)));
    let now = UnixMillis::now();
    assert_eq!(world.store.forget_old_keys(now).await.unwrap(), 0);
    assert_eq!(world.store.forget_old_keys(UnixMillis(now.0 + idempotency::KEPT_MS + 1000)).await.unwrap(), 1);
}

on_both!(the_journals_room_counts_whom_events_are_owed_to);
async fn the_journals_room_counts_whom_events_are_owed_to(on: On) {
    let world = World::new(on).await;
    let mib = Draft { targets: (1..=131_072).map(WebhookNum).collect(), ..world.draft(None, &[]) };
    let journal = &world.running.journal;
    let (full, refused) =
        tokio::join!(journal.publish(vec![mib; 64], None), journal.publish(vec![world.draft(None, &[])], None));
    assert!(matches!(refused, Err(PublishError::Full)), "64 MiB wait already: {refused:?}");
    // A slow machine may not write this much within a batch's time limit.
    assert!(
        full.as_ref().is_ok_and(|all| all.published.len() == 64) || matches!(full, Err(PublishError::Store(_))),
        "{full:?}"
    );
    world.publish(None, &[]).await;
}

on_both!(a_fan_out_ends_when_its_last_target_has_a_row);
async fn a_fan_out_ends_when_its_last_target_has_a_row(on: On) {
    let world = World::new(on).await;
    let (a, b) = (world.webhook().await, world.webhook().await);
    world.catch_up();
    let receipt = world.accept(&[a.num.0, b.num.0]).await;
    world.record(attempted(id(receipt, a.num), 1, Status::Success, None)).await;
    world.record(attempted(id(receipt, a.num), 1, Status::Success, None)).await;
    assert_eq!(world.open_fanouts().await.len(), 1);
    world.record(Record::Defer { id: id(receipt, b.num), next_at: UnixMillis(5) }).await;
    assert!(world.open_fanouts().await.is_empty());
    let delivery = world.delivery(id(receipt, a.num)).await.unwrap();
    let LastAttempt { attempt: last, is_cut } = delivery.last.unwrap();
    assert!(!is_cut);
    assert_eq!((last.number, last.response_body.as_slice()), (1, b"ok".as_slice()));
    assert_eq!(last.response_headers, [("server".to_owned(), "x".to_owned())]);
}

#[tokio::test]
async fn the_shards_of_an_event_are_read_together() {
    let world = World::new(On::Sqlite).await;
    let (first, second) = (world.accept(&[3]).await.seq, world.accept(&[4]).await.seq);
    let shard = "INSERT INTO fanout (event_seq, shard, targets) SELECT event_seq, 1, targets FROM fanout";
    world.tamper(shard).await;
    for (after, expected) in [(EventSeq::ZERO, first), (first, second)] {
        let fanouts = world.store.fanouts(after, 1).await.unwrap().fanouts;
        let read: Vec<_> = fanouts.iter().map(|fanout| (fanout.event.seq, fanout.shard)).collect();
        assert_eq!(read, [(expected, 0), (expected, 1)]);
    }
    assert_eq!(world.open_fanouts().await.len(), 4);
}

on_both!(a_restarted_journal_ends_the_fan_outs_that_it_adopts);
async fn a_restarted_journal_ends_the_fan_outs_that_it_adopts(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let fanout = world.open_fanouts().await.remove(0);
    world.record(Record::Track { fanout: fanout.clone() }).await;
    assert_eq!(world.open_fanouts().await.len(), 1);
    world.record(attempted(id(receipt, webhook.num), 1, Status::Success, None)).await;
    assert!(world.open_fanouts().await.is_empty());

    world.accept(&[webhook.num.0]).await;
    let fanout = world.open_fanouts().await.remove(0);
    let (event, shard, recorded) = (fanout.event.seq, fanout.shard, vec![webhook.num]);
    world.record(Record::Track { fanout: fanout.clone() }).await;
    world.record(Record::Mark { event, shard, recorded }).await;
    assert!(world.open_fanouts().await.is_empty(), "every target had its row");
}

fn wanted(horizon: UnixMillis, ordered: bool) -> Wanted<'static> {
    Wanted { horizon, ordered, limit: 10, known: &[] }
}

on_both!(due_rows_come_in_order_and_their_webhooks_are_found);
async fn due_rows_come_in_order_and_their_webhooks_are_found(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let (a, b) = (world.webhook().await, world.webhook().await);
    let now = UnixMillis::now();
    let receipts = [world.accept(&[a.num.0]).await, world.accept(&[a.num.0]).await, world.accept(&[a.num.0]).await];
    for (receipt, at) in receipts.iter().zip([30, 10, 20]) {
        world.record(Record::Defer { id: id(*receipt, a.num), next_at: UnixMillis(now.0 + at * 1000) }).await;
    }
    let seqs = async |horizon: i64, ordered| -> Vec<EventSeq> {
        let due = world.store.due(&world.shard_set, a.num, wanted(UnixMillis(now.0 + horizon), ordered)).await.unwrap();
        due.rows.iter().map(|due| due.event.seq).collect()
    };
    assert_eq!(seqs(25_000, false).await, [receipts[1].seq, receipts[2].seq]);
    assert_eq!(seqs(0, true).await, receipts.map(|receipt| receipt.seq));
    let found = async |horizon: i64| world.store.webhooks_with_due(UnixMillis(now.0 + horizon)).await.unwrap();
    assert!(found(5_000).await.is_empty());
    assert_eq!(found(10_000).await, [a.num]);
    let configs = world.store.endpoint_configs(&[a.num, b.num], now).await.unwrap();
    let waits = |num| configs[&num].as_ref().unwrap().has_pending_rows;
    assert!(waits(a.num) && !waits(b.num));
    let off = Webhook { is_active: false, ..a };
    world.store.update_webhook(&off, now, &Author::engine()).await.unwrap();
    assert!(found(10_000).await.is_empty(), "a webhook that is switched off is not woken");
}

on_both!(slow_lists_keep_no_delivery_waiting);
async fn slow_lists_keep_no_delivery_waiting(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let mut slow = Vec::new();
    while let Ok(list) = tokio::time::timeout(Duration::from_millis(100), world.store.readers().begin()).await {
        slow.push(list.unwrap());
    }
    let (store, now) = (&world.store, UnixMillis::now());
    let reads = async {
        store.routes(WebhookNum(0)).await?;
        store.fanouts(EventSeq::ZERO, 1).await?;
        store.recorded_targets(receipt.seq).await?;
        store.owed_only_by_fanout(webhook.num, receipt.seq).await?;
        store.endpoint_configs(&[webhook.num], now).await?;
        store.webhooks_with_due(now).await?;
        store.read_pending(&ShardNum::all().collect::<Vec<_>>(), now, &mut |_| {}).await?;
        store.due(&world.shard_set, webhook.num, wanted(now, false)).await
    };
    let read = tokio::time::timeout(Duration::from_secs(10), reads).await;
    read.expect("the engine's reads wait for no other reader").unwrap();
}

on_both!(cancelled_stays_cancelled_unless_a_request_under_way_succeeds);
async fn cancelled_stays_cancelled_unless_a_request_under_way_succeeds(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let (a, b) = (world.accept(&[webhook.num.0]).await, world.accept(&[webhook.num.0]).await);
    for receipt in [a, b] {
        world.record(Record::Cancel { id: id(receipt, webhook.num), at: UnixMillis(1), operation: None }).await;
    }
    let retry = attempted(id(a, webhook.num), 1, Status::Pending, Some(UnixMillis(9)));
    world.record(retry).await;
    world.record(attempted(id(b, webhook.num), 1, Status::Success, None)).await;
    let state = world.delivery(id(a, webhook.num)).await.unwrap().state;
    assert_eq!((state.status, state.next_at, state.attempts), (Status::Cancelled, None, 1));
    assert_eq!(world.delivery(id(b, webhook.num)).await.unwrap().state.status, Status::Success);
}

on_both!(a_manual_retry_remembers_what_to_fall_back_to);
async fn a_manual_retry_remembers_what_to_fall_back_to(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let id = id(receipt, webhook.num);
    world.record(attempted(id, 1, Status::Failed, None)).await;
    world.record(Record::Retry { id, at: UnixMillis(77), operation: None }).await;
    world.record(Record::Retry { id, at: UnixMillis(99), operation: None }).await;
    let state = world.delivery(id).await.unwrap().state;
    assert_eq!((state.status, state.next_at), (Status::Pending, Some(UnixMillis(77))), "the second changes nothing");
    assert_eq!(state.manual.unwrap().status, Status::Failed);
    world.record(Record::Cancel { id, at: UnixMillis(99), operation: None }).await;
    let state = world.delivery(id).await.unwrap().state;
    assert_eq!((state.status, state.manual), (Status::Failed, None), "a cancelled manual retry restores the state");
}

on_both!(lists_filter_by_status_and_never_show_another_tenants);
async fn lists_filter_by_status_and_never_show_another_tenants(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    world.record(attempted(id(receipt, webhook.num), 1, Status::Failed, None)).await;
    let count = async |tenant, webhook, status| {
        let filter = DeliveryFilter { webhook, status, ..DeliveryFilter::default() };
        world.store.deliveries(tenant, &filter, None, 10).await.unwrap().found.len()
    };
    let (mine, other) = (world.tenant.num, crate::domain::id::TenantNum(world.tenant.num.0 + 1));
    assert_eq!(count(mine, Some(webhook.num), Some(Status::Failed)).await, 1);
    assert_eq!(count(mine, None, Some(Status::Failed)).await, 1);
    assert_eq!(count(mine, Some(webhook.num), Some(Status::Pending)).await, 0);
    assert_eq!(count(other, Some(webhook.num), Some(Status::Failed)).await, 0);
    assert_eq!(count(other, None, None).await, 0);
    assert!(world.store.event(other, receipt.seq).await.unwrap().is_none());
}

on_both!(a_stale_version_changes_nothing);
async fn a_stale_version_changes_nothing(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let now = UnixMillis::now();
    let renamed = Webhook { name: "New".to_owned(), ..webhook.clone() };
    let updated = world.store.update_webhook(&renamed, now, &Author::engine()).await.unwrap();
    assert_eq!((updated.name.as_str(), updated.version), ("New", 2));
    assert!(matches!(world.store.update_webhook(&renamed, now, &Author::engine()).await, Err(StoreError::Stale)));
    assert!(matches!(world.store.delete_webhook(&renamed, now, &Author::engine()).await, Err(StoreError::Stale)));
    world.store.delete_webhook(&updated, now, &Author::engine()).await.unwrap();
    assert!(world.store.webhook(world.tenant.num, webhook.id).await.unwrap().is_none());
}

/// SQLite rolls back by itself when the disk is full, as this trigger does.
#[tokio::test]
async fn what_is_accepted_after_sqlite_has_rolled_back_by_itself_is_committed() {
    let world = World::new(On::Sqlite).await;
    let trigger = "CREATE TRIGGER full BEFORE INSERT ON event WHEN NEW.kind = 'too.much' \
                   BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END";
    world.store.inner.writer.execute_unprepared(trigger).await.unwrap();
    let much = Draft { kind: "too.much".into(), ..world.draft(None, &[]) };
    let refused = world.running.journal.publish(vec![much], None).await.unwrap_err().to_string();
    assert!(refused.contains("the disk is full"), "{refused}");
    // If the connection still counted the rolled back transaction, this one would be nested in it and commit nothing.
    let stale = Webhook { version: 7, ..world.webhook().await };
    let refused = world.store.update_webhook(&stale, UnixMillis::now(), &Author::engine()).await;
    assert!(matches!(refused, Err(StoreError::Stale)), "{refused:?}");

    for _ in 0..3 {
        let accepted = world.accept(&[1]).await;
        let seen = world.store.event(world.tenant.num, accepted.seq).await.unwrap();
        assert!(seen.is_some(), "another connection sees the accepted event");
        let renamed = Webhook { name: "New".to_owned(), ..world.webhook().await };
        world.store.update_webhook(&renamed, UnixMillis::now(), &Author::engine()).await.unwrap();
        let seen = world.store.webhook(world.tenant.num, renamed.id).await.unwrap().unwrap();
        assert_eq!(seen.name, "New");
    }
}

on_both!(the_feed_hands_out_what_was_written_while_it_was_behind);
async fn the_feed_hands_out_what_was_written_while_it_was_behind(on: On) {
    let world = World::new(on).await;
    let first = world.accept(&[1]).await;
    let feed = &world.running.feed;
    assert!(feed.status().behind.is_some(), "a new engine is behind");
    let seen = world.store.fanouts(feed.newest_handed_out(), 10).await.unwrap().fanouts;
    assert_eq!(seen[0].event.seq, first.seq);
    feed.read_up_to(first.seq);
    world.catch_up();
    let second = world.accept(&[2]).await;
    while !feed.status().has_waiting {
        feed.changed().await;
    }
    let fanouts = feed.take_waiting();
    assert_eq!(fanouts.iter().map(|fanout| fanout.event.seq).collect::<Vec<_>>(), [second.seq]);
}

on_both!(what_a_crash_left_stays_in_doubt_through_clean_stops);
async fn what_a_crash_left_stays_in_doubt_through_clean_stops(on: On) {
    let world = World::new(on).await;
    assert_eq!(world.store.begin_alone(UnixMillis(1)).await.unwrap(), InDoubt::NOTHING);
    let receipt = world.accept(&[1]).await;
    world.store.mark_stopped_cleanly(UnixMillis(2)).await.unwrap();
    assert_eq!(world.store.begin_alone(UnixMillis(3)).await.unwrap(), InDoubt::NOTHING);
    let in_doubt = InDoubt { events_to: receipt.seq, due_to: UnixMillis(4) };
    assert_eq!(world.store.begin_alone(UnixMillis(4)).await.unwrap(), in_doubt);
    world.accept(&[1]).await;
    world.store.mark_stopped_cleanly(UnixMillis(5)).await.unwrap();
    assert_eq!(world.store.begin_alone(UnixMillis(6)).await.unwrap(), in_doubt);
    world.store.mark_all_in_doubt(InDoubt { events_to: EventSeq::ZERO, due_to: UnixMillis(7) }).await.unwrap();
    world.store.mark_stopped_cleanly(UnixMillis(8)).await.unwrap();
    let wider = InDoubt { due_to: UnixMillis(7), ..in_doubt };
    assert_eq!(world.store.begin_alone(UnixMillis(9)).await.unwrap(), wider, "a part of the running process crashed");
}

on_both!(a_closed_journal_writes_what_it_took_and_takes_nothing_more);
async fn a_closed_journal_writes_what_it_took_and_takes_nothing_more(on: On) {
    let World { store, tenant, running, writer, shard_set: _, home: _home } = World::new(on).await;
    let draft = Draft {
        tenant: tenant.num,
        kind: "a".into(),
        occurred_at: None,
        data: RawValue::from_string("1".to_owned()).unwrap(),
        caller: None,
        trail: None,
        targets: Arc::new([]),
        is_ordered: false,
    };
    let publish = running.journal.publish(vec![draft.clone()], None);
    let (published, ()) = tokio::join!(publish, running.journal.close());
    published.unwrap();
    writer.await.unwrap();
    assert!(matches!(running.journal.publish(vec![draft], None).await, Err(PublishError::Stopped)));
    assert!(running.journal.barrier().await.is_err());
    assert_ne!(store.last_event().await.unwrap(), EventSeq::ZERO);
}
