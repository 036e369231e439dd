//! Deletion by age: what is settled goes with all that belongs to it, and what is owed stays.

use sea_orm::Statement;

use crate::domain::id::{OperationId, OperationNum, TenantNum};
use crate::domain::operation::{ItemState, Kind, Selection};
use crate::store::erasure::Erasure;
use crate::store::operations::NewOperation;
use crate::store::retention::{Deleted, OwnRetention, SweepMark, SweepScope};
use crate::store::tenants::{Tenant, TenantRetention};

use super::*;

async fn count(world: &World, from: &str) -> i64 {
    let statement = Statement::from_string(world.store.backend(), format!("SELECT COUNT(*) FROM {from}"));
    world.store.readers().query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// How many rows each table has about the event.
async fn rows_of(world: &World, event: EventSeq) -> [i64; 5] {
    let of = |table: &str, key: &str| format!("{table} WHERE {key} = {}", event.0);
    [
        count(world, &of("event", "seq")).await,
        count(world, &of("delivery", "event_seq")).await,
        count(world, &of("attempt", "event_seq")).await,
        count(world, &of("delivery_log", "event_seq")).await,
        count(world, &of("event_caller_id", "event_seq")).await,
    ]
}

/// A world whose fan-outs are tracked, so that they end with their last row.
async fn tracked_world(on: On) -> World {
    let world = World::new(on).await;
    world.catch_up();
    world
}

async fn index_logs(world: &World) {
    let index = LogIndex::open(&world.store, world.running.log.clone()).await.unwrap();
    index.flush().await.unwrap();
}

async fn settle(world: &World, event: EventSeq, webhooks: &[i64], status: Status) {
    for webhook in webhooks.iter().copied().map(WebhookNum) {
        world.record(attempted(DeliveryId { event, webhook }, 1, status, None)).await;
    }
}

fn accepted(published: Published) -> EventSeq {
    match published {
        Published::Accepted(receipt) => receipt.seq,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_statement_knows_the_settled_statuses() {
    let codes = Status::FINAL.map(|status| status.code().to_string()).join(", ");
    assert_eq!(crate::store::retention::NOT_SETTLED, format!("NOT IN ({codes})"));
}

on_both!(a_settled_event_goes_with_all_that_belongs_to_it);
async fn a_settled_event_goes_with_all_that_belongs_to_it(on: On) {
    let world = tracked_world(on).await;
    let (one, two) = (world.webhook().await.num.0, world.webhook().await.num.0);
    let old = accepted(world.publish(Some(("order-1", 1)), &[one, two]).await);
    let other = world.accept(&[one]).await.seq;
    settle(&world, old, &[one, two], Status::Failed).await;
    settle(&world, other, &[one], Status::Success).await;
    index_logs(&world).await;
    assert_eq!(rows_of(&world, old).await, [1, 2, 2, 2, 1]);

    let deleted = world.store.delete_events(&world.shard_set, &[old], Some(old)).await.unwrap();
    assert_eq!(deleted, Some(Deleted { events: 1, deliveries: 2, attempts: 2, log_entries: 2 }));
    assert_eq!(rows_of(&world, old).await, [0; 5]);
    assert_eq!(rows_of(&world, other).await, [1, 1, 1, 1, 0]);
    assert_eq!(world.store.sweep_mark(SweepMark::EventsTo).await.unwrap(), old);

    let again = accepted(world.publish(Some(("order-1", 2)), &[]).await);
    assert!(again > other, "the id of a deleted event is free again");
    let late = DeliveryId { event: old, webhook: WebhookNum(one) };
    world.record(Record::Retry { id: late, at: UnixMillis(9), operation: None }).await;
    assert_eq!(rows_of(&world, old).await, [0; 5], "a retry that comes too late makes no row");
}

on_both!(what_is_owed_is_not_deleted);
async fn what_is_owed_is_not_deleted(on: On) {
    let world = tracked_world(on).await;
    let (one, two) = (world.webhook().await.num.0, world.webhook().await.num.0);
    let [pending, open, retried, settled] = [
        world.accept(&[one]).await.seq,
        world.accept(&[one, two]).await.seq,
        world.accept(&[one]).await.seq,
        world.accept(&[one]).await.seq,
    ];
    let id = |event| DeliveryId { event, webhook: WebhookNum(one) };
    world.record(attempted(id(pending), 1, Status::Pending, Some(UnixMillis(5)))).await;
    settle(&world, open, &[one], Status::Success).await;
    settle(&world, retried, &[one], Status::Failed).await;
    world.record(Record::Retry { id: id(retried), at: UnixMillis(9), operation: None }).await;
    settle(&world, settled, &[one], Status::Success).await;

    let all = [pending, open, retried, settled];
    let owed = world.store.needed_events(&all).await.unwrap();
    assert_eq!(owed, HashSet::from([pending, open, retried]));
    let deleted = world.store.delete_events(&world.shard_set, &all, None).await.unwrap().unwrap();
    assert_eq!((deleted.events, deleted.deliveries), (1, 1));
    for event in [pending, open, retried] {
        let alone = world.store.delete_event_alone(&world.shard_set, event, None).await.unwrap().unwrap();
        assert_eq!(alone, Deleted::default());
        assert_eq!(rows_of(&world, event).await[..2], [1, 1]);
    }
    assert_eq!(world.store.sweep_mark(SweepMark::Unfinished).await.unwrap(), EventSeq::ZERO);
}

on_both!(what_an_open_operation_has_to_do_and_what_cannot_be_read_is_not_deleted);
async fn what_an_open_operation_has_to_do_and_what_cannot_be_read_is_not_deleted(on: On) {
    let world = tracked_world(on).await;
    let webhook = world.webhook().await.num;
    let [counted, damaged] = [world.accept(&[webhook.0]).await.seq, world.accept(&[webhook.0]).await.seq];
    for event in [counted, damaged] {
        settle(&world, event, &[webhook.0], Status::Failed).await;
    }
    let operation = NewOperation {
        id: OperationId::generate(),
        tenant: world.tenant.num,
        kind: Kind::Retry,
        selection: Selection {
            webhooks: Vec::new(),
            since: None,
            until: UnixMillis::now(),
            status: Some(Status::Failed),
            outcome: None,
            status_code: None,
            events: Vec::new(),
        },
        rate: 1,
        created_at: UnixMillis::now(),
    };
    let operation = world.store.create_operation(operation, None, &Author::engine()).await.unwrap().num;
    let item = DeliveryId { event: counted, webhook };
    world.store.add_items(operation, &[item]).await.unwrap();
    let damage = format!("UPDATE delivery SET status = 77 WHERE event_seq = {}", damaged.0);
    world.store.inner.writer.execute_unprepared(&damage).await.unwrap();

    let delete = async |all: &[EventSeq]| {
        assert_eq!(world.store.needed_events(all).await.unwrap(), all.iter().copied().collect());
        world.store.delete_events(&world.shard_set, all, None).await.unwrap().unwrap().events
    };
    assert_eq!(delete(&[counted, damaged]).await, 0);
    world.store.begin_running(operation, UnixMillis::now()).await.unwrap();
    assert_eq!(delete(&[counted, damaged]).await, 0);
    world.store.end_items(operation, &[(item, ItemState::Success)]).await.unwrap();
    assert_eq!(world.store.needed_events(&[counted]).await.unwrap(), HashSet::new(), "its item has ended");
    world.store.add_items(operation, &[DeliveryId { event: counted, webhook: WebhookNum(99) }]).await.unwrap();
    assert_eq!(delete(&[counted, damaged]).await, 0);
    world.store.fail_operation(operation, "no reason", UnixMillis::now()).await.unwrap();
    assert_eq!(world.store.needed_events(&[counted, damaged]).await.unwrap(), HashSet::from([damaged]));
}

on_both!(a_large_event_goes_in_parts_and_its_deliveries_are_not_seen_meanwhile);
async fn a_large_event_goes_in_parts_and_its_deliveries_are_not_seen_meanwhile(on: On) {
    let world = tracked_world(on).await;
    let mut webhooks = Vec::new();
    for _ in 0..5 {
        webhooks.push(world.webhook().await.num.0);
    }
    let event = world.accept(&webhooks).await.seq;
    settle(&world, event, &webhooks, Status::Success).await;
    index_logs(&world).await;

    let deleted = world.store.delete_event_alone(&world.shard_set, event, None).await.unwrap().unwrap();
    assert_eq!(deleted, Deleted { events: 1, ..Deleted::default() });
    assert_eq!(world.store.sweep_mark(SweepMark::Unfinished).await.unwrap(), event);
    assert!(world.delivery(DeliveryId { event, webhook: WebhookNum(webhooks[0]) }).await.is_none());
    let filter = DeliveryFilter { webhook: Some(WebhookNum(webhooks[0])), ..DeliveryFilter::default() };
    assert!(world.store.deliveries(world.tenant.num, &filter, None, 10).await.unwrap().found.is_empty());

    let world = world.restart().await;
    let mut parts = Vec::new();
    while world.store.sweep_mark(SweepMark::Unfinished).await.unwrap() == event {
        parts.push(world.store.delete_part(&world.shard_set, event, 2).await.unwrap().unwrap().deliveries);
    }
    assert_eq!(parts, [2, 2, 1, 0]);
    assert_eq!(rows_of(&world, event).await, [0; 5]);
}

on_both!(answers_are_cleared_by_the_age_of_their_attempts);
async fn answers_are_cleared_by_the_age_of_their_attempts(on: On) {
    let world = tracked_world(on).await;
    let (one, two) = (world.webhook().await.num.0, world.webhook().await.num.0);
    let [settled, pending] = [world.accept(&[one, two]).await.seq, world.accept(&[one]).await.seq];
    settle(&world, settled, &[one, two], Status::Success).await;
    let id = DeliveryId { event: pending, webhook: WebhookNum(one) };
    world.record(attempted(id, 1, Status::Pending, Some(UnixMillis(5)))).await;
    let made_at = world::attempt(1).started_at;

    let both = [settled, pending];
    assert!(world.store.events_with_responses(&both, made_at).await.unwrap().is_empty(), "none is older");
    let later = UnixMillis(made_at.0 + 1);
    assert_eq!(world.store.events_with_responses(&both, later).await.unwrap(), [settled]);
    let first = (WebhookNum(0), 1);
    let part = world.store.clear_responses_of_part(&world.shard_set, settled, later, first).await.unwrap();
    assert_eq!(part, Some((1, Some(WebhookNum(one)))));
    let cleared = world.store.clear_responses(&world.shard_set, &both, later, Some(pending)).await.unwrap();
    assert_eq!(cleared, Some(1));
    let kept = |event, webhook| {
        let store = world.store.clone();
        async move {
            let first = store.first_attempt(DeliveryId { event, webhook: WebhookNum(webhook) }).await.unwrap().unwrap();
            (first.response_headers.len(), first.response_body.len(), first.request.is_some(), first.status_code)
        }
    };
    assert_eq!(kept(settled, one).await, (0, 0, false, Some(200)));
    assert_eq!(kept(settled, two).await, (0, 0, false, Some(200)));
    assert_eq!(kept(pending, one).await, (1, 2, true, Some(200)), "a pending delivery keeps its answers");
    assert_eq!(world.store.sweep_mark(SweepMark::ResponsesTo).await.unwrap(), pending);
}

on_both!(old_audit_rows_go_and_newer_ones_stay);
async fn old_audit_rows_go_and_newer_ones_stay(on: On) {
    let world = tracked_world(on).await;
    world.webhook().await;
    world.webhook().await;
    world.tamper("UPDATE audit SET at = 5 WHERE num = (SELECT MIN(num) FROM audit)").await;
    let before = count(&world, "audit").await;
    assert_eq!(world.store.delete_old_audit(&world.shard_set, UnixMillis(5), 10).await.unwrap(), Some(0));
    assert_eq!(world.store.delete_old_audit(&world.shard_set, UnixMillis(6), 10).await.unwrap(), Some(1));
    assert_eq!(count(&world, "audit").await, before - 1);
}

on_both!(events_are_read_in_order_of_all_or_of_one_tenant);
async fn events_are_read_in_order_of_all_or_of_one_tenant(on: On) {
    let world = tracked_world(on).await;
    let stranger = world.another_tenant().await.num;
    let mine = [world.accept(&[1, 2]).await.seq, world.accept(&[]).await.seq];
    let draft = Draft { tenant: stranger, ..world.draft(None, &[]) };
    world.running.journal.publish(vec![draft], None).await.unwrap();
    let read = async |scope, after, before, limit| -> Vec<(i64, u64)> {
        let events = world.store.old_events(scope, (after, before), limit).await.unwrap();
        events.iter().map(|event| (event.tenant.0, event.matched)).collect()
    };
    let (me, end) = (world.tenant.num.0, EventSeq(i64::MAX));
    assert_eq!(read(SweepScope::All, EventSeq::ZERO, end, 10).await, [(me, 2), (me, 0), (stranger.0, 0)]);
    assert_eq!(read(SweepScope::All, EventSeq::ZERO, end, 1).await, [(me, 2)]);
    assert_eq!(read(SweepScope::All, mine[0], mine[1], 10).await, []);
    assert_eq!(read(SweepScope::Of(stranger), EventSeq::ZERO, end, 10).await, [(stranger.0, 0)]);
    let first = TenantNum(0);
    let before = async |before| world.store.tenants_with_events_before(before, first, 10).await.unwrap();
    assert_eq!(before(mine[0]).await, []);
    assert_eq!(before(mine[1]).await, [world.tenant.num]);
    assert_eq!(before(end).await, [world.tenant.num, stranger]);

    assert_eq!(world.store.own_retention().await.unwrap(), []);
    let retention = TenantRetention { events: Some(3600), responses: None };
    let changed = Tenant { retention, ..world.tenant.clone() };
    world.store.update_tenant(&changed, UnixMillis::now(), &Author::engine()).await.unwrap();
    let own = OwnRetention { tenant: world.tenant.num, events: Some(3600), responses: None };
    assert_eq!(world.store.own_retention().await.unwrap(), [own]);
    assert_eq!(before(end).await, [stranger], "a tenant with a setting of its own is swept by itself");
}

#[tokio::test]
async fn a_node_without_the_first_shard_deletes_nothing() {
    let world = tracked_world(On::Postgres).await;
    let event = world.accept(&[]).await.seq;
    world.accept(&[]).await;
    world.store.release(&world.shard_set, &[ShardNum::WHOLE], false).await.unwrap();
    assert_eq!(world.store.delete_events(&world.shard_set, &[event], None).await.unwrap(), None);
    assert_eq!(rows_of(&world, event).await[0], 1);
}

/// A retry by hand on another node locks its event and makes its delivery pending. The deletion passes the event over,
/// and sees the delivery once the retry is committed.
#[tokio::test]
async fn a_retry_that_is_under_way_keeps_its_event() {
    let world = tracked_world(On::Postgres).await;
    let webhook = world.webhook().await.num.0;
    let event = world.accept(&[webhook]).await.seq;
    world.accept(&[]).await;
    settle(&world, event, &[webhook], Status::Failed).await;
    let retry = world.store.begin().await.unwrap();
    retry.execute_unprepared(&format!("SELECT 1 FROM event WHERE seq = {} FOR KEY SHARE", event.0)).await.unwrap();
    retry.execute_unprepared(&format!("UPDATE delivery SET status = 0 WHERE event_seq = {}", event.0)).await.unwrap();
    let delete = async || world.store.delete_events(&world.shard_set, &[event], None).await.unwrap().unwrap();
    assert_eq!(delete().await, Deleted::default());
    retry.commit().await.unwrap();
    assert_eq!(delete().await, Deleted::default());
    assert_eq!(rows_of(&world, event).await[..2], [1, 1]);
    world.tamper("UPDATE delivery SET status = 2").await;
    assert_eq!(delete().await.events, 1);
}

/// The statements with literals for their parameters: lists and numbers.
fn with_literals(on: On, sql: &str) -> String {
    let list = |place: usize| match on {
        On::Sqlite => (format!("json_each(${place})"), "json_each('[1,2]')".to_owned()),
        On::Postgres => (format!("ANY(${place})"), "ANY('{1,2}'::int8[])".to_owned()),
    };
    (1..=4).fold(sql.to_owned(), |sql, place| {
        let (from, to) = list(place);
        sql.replace(&from, &to).replace(&format!("${place}"), "5")
    })
}

on_both!(no_statement_reads_a_whole_table);
/// The rows on the plan's lines that read without an index, except those of lists and of subqueries that have a limit.
async fn no_statement_reads_a_whole_table(on: On) {
    let world = World::new(on).await;
    let explain = match on {
        On::Sqlite => "EXPLAIN QUERY PLAN",
        On::Postgres => "EXPLAIN",
    };
    let on_reader = world.store.readers().begin().await.unwrap();
    if on == On::Postgres {
        on_reader.execute_unprepared("SET LOCAL enable_seqscan = off").await.unwrap();
    }
    for sql in crate::store::retention::all_statements(world.store.backend()) {
        let text = format!("{explain} {}", with_literals(on, &sql));
        let statement = Statement::from_string(world.store.backend(), text);
        let mut lines = Vec::new();
        for row in on_reader.query_all_raw(statement).await.unwrap() {
            lines.push(match on {
                On::Sqlite => row.try_get::<String>("", "detail").unwrap(),
                On::Postgres => row.try_get_by_index::<String>(0).unwrap(),
            });
        }
        let is_scan = |line: &&String| match on {
            On::Sqlite => {
                line.starts_with("SCAN") && !["json_each", "part", "INDEX"].iter().any(|word| line.contains(word))
            }
            On::Postgres => line.contains("Seq Scan"),
        };
        let scans: Vec<_> = lines.iter().filter(is_scan).collect();
        assert!(scans.is_empty(), "{sql}\n{lines:#?}");
    }
}

/// A new file gives pages back; a file that an older version made does so once it was compacted.
#[tokio::test]
async fn a_sqlite_file_gives_free_pages_back() {
    let world = World::new(On::Sqlite).await;
    world.store.inner.writer.execute_unprepared("PRAGMA auto_vacuum = NONE").await.unwrap();
    world.store.inner.writer.execute_unprepared("VACUUM").await.unwrap();
    let space = async || world.store.free_space().await.unwrap().unwrap();
    assert!(!space().await.can_shrink);
    let event = world.accept_large(&[], 400_000).await.seq;
    world.accept(&[]).await;
    world.store.delete_events(&world.shard_set, &[event], None).await.unwrap();
    let before = space().await;
    assert!(before.free_pages >= 90, "{before:?}");
    world.store.give_back(10).await.unwrap();
    assert_eq!(space().await, before, "such a file cannot give pages back");

    world.store.compact().await.unwrap();
    assert_eq!((space().await.free_pages, space().await.can_shrink), (0, true));
    let event = world.accept_large(&[], 400_000).await.seq;
    world.accept(&[]).await;
    world.store.delete_events(&world.shard_set, &[event], None).await.unwrap();
    let before = space().await;
    world.store.give_back(10).await.unwrap();
    let after = space().await;
    assert_eq!((after.free_pages, after.all_pages), (before.free_pages - 10, before.all_pages - 10));
}

#[tokio::test]
async fn a_new_sqlite_file_can_shrink() {
    let world = World::new(On::Sqlite).await;
    assert!(world.store.free_space().await.unwrap().unwrap().can_shrink);
}

on_both!(a_payload_is_erased_once_nobody_is_owed_it);
async fn a_payload_is_erased_once_nobody_is_owed_it(on: On) {
    let world = tracked_world(on).await;
    let webhook = world.webhook().await.num;
    let event = world.accept(&[webhook.0]).await.seq;
    let id = DeliveryId { event, webhook };
    let erase = async |tenant| world.store.erase_payload(tenant, event, &Author::engine()).await.unwrap();
    world.record(attempted(id, 1, Status::Pending, Some(UnixMillis(5)))).await;
    assert_eq!(erase(world.tenant.num).await, Erasure::Owed);
    world.record(attempted(id, 2, Status::Failed, None)).await;
    let stranger = world.another_tenant().await.num;
    assert_eq!(erase(stranger).await, Erasure::NotFound);

    assert_eq!(erase(world.tenant.num).await, Erasure::Erased);
    assert!(world.store.event_body(world.tenant.num, event).await.unwrap().unwrap().is_empty());
    let answered = "response_body IS NOT NULL OR response_headers IS NOT NULL OR request IS NOT NULL";
    assert_eq!(count(&world, &format!("attempt WHERE {answered}")).await, 0);
    assert_eq!(rows_of(&world, event).await[..3], [1, 1, 2]);
    assert!(world.store.event(world.tenant.num, event).await.unwrap().unwrap().erased_at.is_some());
    assert_eq!(erase(world.tenant.num).await, Erasure::Erased);
    let erasures = "audit WHERE action = 'event.erase_payload'";
    assert_eq!(count(&world, erasures).await, 1, "the second call changes nothing");

    world.record(Record::Retry { id, at: UnixMillis(9), operation: None }).await;
    assert_eq!(world.delivery(id).await.unwrap().state.status, Status::Failed, "nothing could be sent");
    let other = DeliveryId { event, webhook: world.webhook().await.num };
    world.record(Record::Owe { id: other, at: UnixMillis(9), operation: OperationNum(1) }).await;
    assert!(world.delivery(other).await.is_none(), "nothing could be sent");
    let newer = world.accept(&[]).await.seq;
    assert_eq!(world.store.events_with_payload(&[event, newer]).await.unwrap(), HashSet::from([newer]));
}
