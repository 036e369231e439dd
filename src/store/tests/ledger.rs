//! The ledger against a recount of rows and fan-outs.

mod simulation;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::journal::ledger::Among;
use crate::journal::shared_ledger::SharedLedger;

/// What is owed, counted from the tables.
#[derive(Debug, Default)]
struct Recount {
    pending: BTreeMap<WebhookNum, BTreeSet<EventSeq>>,
    /// The moments at which rows fall due.
    due: BTreeMap<DeliveryId, UnixMillis>,
}

impl Recount {
    async fn of(store: &Store) -> Self {
        let sql = "SELECT event_seq, webhook_num, status, next_at FROM delivery";
        let rows = sea_orm::Statement::from_string(store.backend(), sql);
        let (mut recount, mut recorded) = (Self::default(), BTreeSet::new());
        for row in store.readers().query_all_raw(rows).await.unwrap() {
            let small = |index| row.try_get_by_index::<i16>(index).map(|number| Some(i64::from(number)));
            let number = |index| row.try_get_by_index::<Option<i64>>(index).or_else(|_| small(index)).unwrap();
            let id = DeliveryId { event: EventSeq(number(0).unwrap()), webhook: WebhookNum(number(1).unwrap()) };
            recorded.insert(id);
            if number(2) == Some(0) {
                recount.pending.entry(id.webhook).or_default().insert(id.event);
                recount.due.insert(id, UnixMillis(number(3).unwrap()));
            }
        }
        for fanout in store.fanouts(EventSeq::ZERO, 1_000_000).await.unwrap().fanouts {
            let event = fanout.event.seq;
            for webhook in fanout.targets.iter().copied() {
                if !recorded.contains(&DeliveryId { event, webhook }) {
                    recount.pending.entry(webhook).or_default().insert(event);
                }
            }
        }
        recount
    }

    fn due_of(&self, webhook: WebhookNum) -> impl Iterator<Item = UnixMillis> {
        self.due.iter().filter(move |(id, _)| id.webhook == webhook).map(|(_, at)| *at)
    }
}

/// Asserts that the ledger says what a recount says.
pub(super) async fn agrees(store: &Store, ledger: &SharedLedger, webhooks: &[WebhookNum]) {
    let recount = Recount::of(store).await;
    let none = BTreeSet::new();
    for webhook in webhooks.iter().copied() {
        let pending = recount.pending.get(&webhook).unwrap_or(&none);
        assert_eq!(ledger.pending(webhook), pending.len() as u64, "pending of {webhook:?}");
        assert_eq!(ledger.oldest(webhook).await.unwrap(), pending.first().copied(), "the oldest of {webhook:?}");
        let now = UnixMillis::now();
        let head = store.heads(&[webhook], false, now).await.unwrap().remove(&webhook);
        let (first, later_one) = head.map_or((None, None), |head| (Some(head.first), head.later));
        assert_eq!(first.and_then(|first| first.next_at), recount.due_of(webhook).min());
        let next = recount.due_of(webhook).filter(|at| *at > now).min();
        assert_eq!(later_one.and_then(|later| later.next_at), next);
        let later = |than: i64| recount.due_of(webhook).filter(|at| at.0 > than).count() as u64;
        let scheduled = ledger.scheduled(webhook, now);
        assert!((later(now.0 + 1000)..=later(now.0)).contains(&scheduled), "{scheduled} of {webhook:?} are scheduled");
    }
    let total: usize = recount.pending.values().map(BTreeSet::len).sum();
    assert_eq!((ledger.total_pending(), ledger.backlogged()), (total as u64, recount.pending.len()));
    let mut oldest: Vec<_> = recount.pending.iter().map(|(webhook, events)| (events.first(), *webhook)).collect();
    oldest.sort_unstable();
    let oldest: Vec<_> = oldest.into_iter().map(|(event, webhook)| (webhook, *event.unwrap())).take(3).collect();
    assert_eq!(ledger.oldest_first(Among::All, 3).await.unwrap(), oldest);
    let mut deepest: Vec<_> = recount.pending.values().map(|events| events.len() as u64).collect();
    deepest.sort_unstable_by(|a, b| b.cmp(a));
    deepest.truncate(3);
    assert_eq!(ledger.deepest(Among::All, 3).into_iter().map(|(_, depth)| depth).collect::<Vec<_>>(), deepest);
}

on_both!(a_batch_that_is_refused_and_tried_again_is_told_once);
async fn a_batch_that_is_refused_and_tried_again_is_told_once(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let webhook = world.webhook().await.num;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(id(world.accept(&[webhook.0]).await, webhook));
    }
    world.record(attempted(ids[0], 1, Status::Failed, None)).await;
    world.record(Record::Defer { id: ids[4], next_at: UnixMillis(5) }).await;
    let (refuse, accept) = world::refusal(on);
    world.store.inner.writer.execute_unprepared(refuse).await.unwrap();
    let (answer, answered) = oneshot::channel();
    for record in [
        attempted(ids[1], 1, Status::Success, None),
        attempted(ids[2], 1, Status::Pending, Some(UnixMillis::now().plus(Duration::from_secs(600)))),
        Record::Retry { id: ids[0], at: UnixMillis::now(), operation: None },
        Record::Cancel { id: ids[3], at: UnixMillis::now(), operation: None },
        Record::Purge { webhook, through: ids[4].event, except: vec![ids[0].event], answer },
    ] {
        world.running.journal.record(record).await.unwrap();
    }
    let stats = world.running.journal.stats();
    while stats.failed_commits.load(std::sync::atomic::Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.running.ledger.pending(webhook), 4, "nothing is told of what is not committed");

    world.store.inner.writer.execute_unprepared(accept).await.unwrap();

    assert_eq!(answered.await.unwrap(), 2, "one that was scheduled, and one that was deferred");
    world.running.journal.barrier().await.unwrap();
    assert_eq!(world.running.ledger.pending(webhook), 1);
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}

on_both!(the_oldest_of_a_long_backlog_is_found_among_rows_and_fan_outs);
async fn the_oldest_of_a_long_backlog_is_found_among_rows_and_fan_outs(on: On) {
    let world = World::new(on).await;
    let (busy, other) = (world.webhook().await.num, world.webhook().await.num);
    let mut ids = Vec::new();
    for event in 0..100 {
        let targets = if event % 3 == 0 { vec![busy.0, other.0] } else { vec![busy.0] };
        ids.push(id(world.accept(&targets).await, busy));
    }
    for id in ids.iter().skip(50) {
        world.record(Record::Defer { id: *id, next_at: UnixMillis(5) }).await;
    }
    for settled in [0..40, 40..77, 77..99] {
        for id in &ids[settled.clone()] {
            world.running.journal.record(attempted(*id, 1, Status::Success, None)).await.unwrap();
        }
        world.running.journal.barrier().await.unwrap();
        assert_eq!(world.running.ledger.oldest(busy).await.unwrap(), Some(ids[settled.end].event));
    }
    agrees(&world.store, &world.running.ledger, &[busy, other]).await;
}

on_both!(the_oldest_of_all_is_found_although_every_webhook_has_to_be_looked_up);
async fn the_oldest_of_all_is_found_although_every_webhook_has_to_be_looked_up(on: On) {
    let world = World::new(on).await;
    let mut webhooks = Vec::new();
    for _ in 0..20 {
        webhooks.push(world.webhook().await.num);
    }
    let targets: Vec<i64> = webhooks.iter().map(|num| num.0).collect();
    let mut events = Vec::new();
    for _ in 0..100 {
        events.push(world.accept(&targets).await.seq);
    }
    // The later a webhook was created, the older is its oldest pending event.
    for (index, webhook) in webhooks.iter().copied().enumerate() {
        for event in &events[..60 - index] {
            let record = attempted(DeliveryId { event: *event, webhook }, 1, Status::Success, None);
            world.running.journal.record(record).await.unwrap();
        }
    }
    world.running.journal.barrier().await.unwrap();
    agrees(&world.store, &world.running.ledger, &webhooks[18..]).await;
}

on_both!(an_outcome_that_comes_after_its_delivery_was_cancelled_settles_nothing);
async fn an_outcome_that_comes_after_its_delivery_was_cancelled_settles_nothing(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let mut ids = Vec::new();
    // More events than the ledger knows by key, so that it needs look-ups.
    for _ in 0..100 {
        ids.push(id(world.accept(&[webhook.0]).await, webhook));
    }
    for id in &ids[90..] {
        world.record(Record::Cancel { id: *id, at: UnixMillis::now(), operation: None }).await;
    }
    let later = Some(UnixMillis::now().plus(Duration::from_secs(600)));
    for (id, status) in ids[90..].iter().zip([Status::Success, Status::Pending, Status::Failed].into_iter().cycle()) {
        world.record(attempted(*id, 1, status, later.filter(|_| status == Status::Pending))).await;
    }
    assert_eq!(world.running.ledger.pending(webhook), 90);
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}

on_both!(a_fan_out_that_cannot_be_read_stops_no_start);
async fn a_fan_out_that_cannot_be_read_stops_no_start(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let damaged = world.accept(&[webhook.0]).await;
    let sound = world.accept(&[webhook.0]).await;
    let targets = world.store.bytes_literal("80");
    world.tamper(&format!("UPDATE fanout SET targets = {targets} WHERE event_seq = {}", damaged.seq.0)).await;

    let world = world.restart().await;

    assert_eq!(world.running.ledger.oldest(webhook).await.unwrap(), Some(sound.seq));
}
