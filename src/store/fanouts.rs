//! Reads open fan-outs, which have targets without a row: for the dispatcher, its scans, and what the API shows or
//! purges. The journal writes and deletes fan-outs.

use std::collections::BTreeMap;
use std::sync::Arc;

use sea_orm::{ConnectionTrait, FromQueryResult, QueryResult, Statement};

use crate::domain::event::Event;
use crate::domain::id::{EventSeq, TenantNum, WebhookNum};
use crate::domain::shard::ShardNum;

use super::bodies::Head;
use super::unreadable::{is_damage_of_event, key_of};
use super::{Store, StoreError, targets};

/// (event, shard)
pub type FanoutKey = (EventSeq, i16);

/// An event and the webhooks of one shard that it is owed to.
#[derive(Debug, Clone)]
pub struct Fanout {
    pub event: Arc<Event>,
    pub shard: i16,
    /// Ascending.
    pub targets: Arc<[WebhookNum]>,
    /// Accepted by this node, but offered only when a scan finds it among the events of other nodes, in their order.
    pub in_order: bool,
}

impl Fanout {
    /// Bytes that the list of targets takes in memory.
    #[must_use]
    pub fn target_bytes(&self) -> usize {
        self.targets.len() * size_of::<WebhookNum>()
    }
}

/// Open fan-outs in the order of publishing.
#[derive(Debug, Default)]
pub struct FanoutPage {
    pub fanouts: Vec<Fanout>,
    /// The last event that was looked at, even if none of its rows can be read; `None` at the end.
    pub to: Option<EventSeq>,
}

/// Bytes of targets and bodies that one page brings into memory, unless one fan-out alone has more.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Rows of targets read at once.
const ROWS: i64 = 64;

/// A fan-out as it is read: without its event's body, and with an event that may be missing.
#[derive(Debug, FromQueryResult)]
pub(super) struct FanoutRow {
    pub(super) tx: i64,
    event_seq: i64,
    shard: i16,
    targets: Vec<u8>,
    tenant_num: Option<i64>,
    kind: Option<String>,
    size: Option<i64>,
    trail: Option<String>,
}

/// The columns of a [`FanoutRow`] except `tx`, from `fanout f LEFT JOIN event e`.
pub(super) const FANOUT_COLUMNS: &str =
    "f.event_seq, f.shard, f.targets, e.tenant_num, e.kind, CAST(OCTET_LENGTH(e.body) AS BIGINT) AS size, e.trail";

/// Key columns, by which an unreadable row is named.
pub(super) const FANOUT_KEY: [&str; 2] = ["event_seq", "shard"];

/// Where the next page begins: the key of the last row, even if some rows cannot be read.
pub(super) fn last_key(rows: &[QueryResult]) -> Option<(i64, i16)> {
    rows.iter().rev().find_map(|row| Some((row.try_get("", "event_seq").ok()?, row.try_get("", "shard").ok()?)))
}

/// A fan-out whose event's body has not been read.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) tx: u64,
    pub(super) head: Head,
    pub(super) shard: i16,
    /// Still encoded: a page is cut to its size before the lists of targets are decoded.
    targets: Vec<u8>,
    target_count: usize,
}

#[derive(Debug, FromQueryResult)]
struct TargetsRow {
    event_seq: i64,
    shard: i16,
    targets: Vec<u8>,
}

impl Store {
    /// The open fan-outs of at most `limit` events after `after`, in the order of publishing; of fewer events if these
    /// are large. All shards of an event come together, so that the next call can continue after it.
    pub async fn fanouts(&self, after: EventSeq, limit: u64) -> Result<FanoutPage, StoreError> {
        let sql = format!(
            "SELECT CAST(0 AS BIGINT) AS tx, {FANOUT_COLUMNS} FROM fanout f LEFT JOIN event e ON e.seq = f.event_seq \
             WHERE f.event_seq IN (SELECT DISTINCT event_seq FROM fanout WHERE event_seq > $1 \
                                   ORDER BY event_seq LIMIT $2) \
             ORDER BY f.event_seq, f.shard"
        );
        let values = [after.0.into(), limit.cast_signed().into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = self.engine_readers().query_all_raw(statement).await?;
        let last: Option<i64> = rows.iter().rev().find_map(|row| row.try_get("", "event_seq").ok());
        let listed = self.listed(&rows);
        let (listed, cut_before) = cut_events(listed);
        let to = cut_before.map_or(last.map(EventSeq), |event| Some(EventSeq(event.0 - 1)));
        let fanouts = self.with_events(listed).await?.into_iter().map(|(_, fanout)| fanout).collect();
        Ok(FanoutPage { fanouts, to })
    }

    /// The fan-outs that can be read and whose events can be read.
    pub(super) fn listed(&self, rows: &[QueryResult]) -> Vec<Listed> {
        let read = |row: &QueryResult| {
            let read = FanoutRow::from_query_result(row, "").inspect_err(|error| {
                let is_of_event = is_damage_of_event(row);
                let (table, key): (_, &[&str]) =
                    if is_of_event { ("event", &["event_seq"]) } else { ("fanout", &FANOUT_KEY) };
                self.pass_over(table, key_of(row, key), error);
            });
            read.ok()
        };
        rows.iter().filter_map(read).filter_map(|row| self.list(row)).collect()
    }

    fn list(&self, row: FanoutRow) -> Option<Listed> {
        let FanoutRow { tx, event_seq, shard, targets, tenant_num, kind, size, trail } = row;
        let key = format_args!("{event_seq}/{shard}");
        let (Some(tenant), Some(kind), Some(size)) = (tenant_num, kind, size) else {
            self.pass_over("fanout", key, "its event is missing");
            return None;
        };
        let target_count = targets::count(&targets).inspect_err(|error| self.pass_over("fanout", key, error)).ok()?;
        let (seq, tenant) = (EventSeq(event_seq), TenantNum(tenant));
        let (size, trail) = (usize::try_from(size).unwrap_or(usize::MAX), trail.map(Into::into));
        let head = Head { seq, tenant, kind, size, trail };
        Some(Listed { tx: tx.cast_unsigned(), head, shard, targets, target_count })
    }

    /// Reads each event once; returns each fan-out with the transaction that wrote it.
    pub(super) async fn with_events(&self, listed: Vec<Listed>) -> Result<Vec<(u64, Fanout)>, StoreError> {
        let events = self.events_of(listed.iter().map(|listed| listed.head.clone())).await?;
        let fanout = |Listed { tx, head, shard, targets, target_count: _ }: Listed| {
            let (event, targets) = (events.get(&head.seq)?.clone(), targets::decode(&targets).ok()?.into());
            Some((tx, Fanout { event, shard, targets, in_order: false }))
        };
        Ok(listed.into_iter().filter_map(fanout).collect())
    }

    /// The targets that an event's open fan-outs name, with or without a row.
    pub async fn fanout_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>, StoreError> {
        let sql = "SELECT event_seq, shard, targets FROM fanout WHERE event_seq = $1 ORDER BY shard";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [event.0.into()]);
        let mut all = Vec::new();
        let rows: Vec<TargetsRow> = self.all_readable(self.readers(), ("fanout", &FANOUT_KEY), statement).await?;
        for row in &rows {
            all.extend(self.targets_of(row).unwrap_or_default());
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Events up to `to` that the webhook is owed by an open fan-out alone: it has no row for them.
    pub async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>, StoreError> {
        let sql = "SELECT f.event_seq, f.shard, f.targets FROM fanout f \
                   WHERE f.event_seq <= $1 AND (f.event_seq, f.shard) > ($3, $4) AND NOT EXISTS ( \
                   SELECT 1 FROM delivery d WHERE d.event_seq = f.event_seq AND d.webhook_num = $2) \
                   ORDER BY f.event_seq, f.shard LIMIT $5";
        let mut owed = Vec::new();
        let mut after = (EventSeq::ZERO.0, i16::MAX);
        loop {
            let values = [to.0.into(), webhook.0.into(), after.0.into(), after.1.into(), ROWS.into()];
            let statement = Statement::from_sql_and_values(self.backend(), sql, values);
            let rows = self.engine_readers().query_all_raw(statement).await?;
            let Some(last) = last_key(&rows) else { return Ok(owed) };
            after = last;
            let rows: Vec<TargetsRow> = self.readable("fanout", &FANOUT_KEY, &rows);
            let names_it =
                |row: &&TargetsRow| self.targets_of(row).is_some_and(|all| all.binary_search(&webhook).is_ok());
            owed.extend(rows.iter().filter(names_it).map(|row| EventSeq(row.event_seq)));
        }
    }

    /// Divides by shard the fan-outs that were written when one node served everything: each is one row under the first
    /// shard.
    pub async fn divide_fanouts(&self) -> Result<(), StoreError> {
        let sql = "SELECT event_seq, shard, targets FROM fanout WHERE shard = 0 AND event_seq > $1 \
                   ORDER BY event_seq LIMIT $2";
        let mut after = EventSeq::ZERO.0;
        loop {
            let statement = Statement::from_sql_and_values(self.backend(), sql, [after.into(), ROWS.into()]);
            let rows = self.engine_readers().query_all_raw(statement).await?;
            let Some((last, _)) = last_key(&rows) else { return Ok(()) };
            after = last;
            let rows: Vec<TargetsRow> = self.readable("fanout", &FANOUT_KEY, &rows);
            for row in &rows {
                let targets = self.targets_of(row).unwrap_or_default();
                if targets.iter().any(|webhook| ShardNum::of(*webhook) != ShardNum::WHOLE) {
                    self.divide(row.event_seq, &targets).await?;
                }
            }
        }
    }

    /// `None` if the targets cannot be read.
    fn targets_of(&self, TargetsRow { event_seq, shard, targets }: &TargetsRow) -> Option<Vec<WebhookNum>> {
        let unreadable = |error: &StoreError| self.pass_over("fanout", format_args!("{event_seq}/{shard}"), error);
        targets::decode(targets).inspect_err(unreadable).ok()
    }

    async fn divide(&self, event: i64, targets: &[WebhookNum]) -> Result<(), StoreError> {
        let mut parts: BTreeMap<i16, Vec<WebhookNum>> = BTreeMap::new();
        for webhook in targets {
            parts.entry(ShardNum::of(*webhook).num()).or_default().push(*webhook);
        }
        let backend = self.backend();
        self.write(async |on| {
            let whole =
                Statement::from_sql_and_values(backend, "DELETE FROM fanout WHERE event_seq = $1", [event.into()]);
            if on.execute_raw(whole).await?.rows_affected() == 0 {
                return Ok(());
            }
            let sql = "INSERT INTO fanout (event_seq, shard, targets) VALUES ($1, $2, $3)";
            for (shard, targets) in &parts {
                let values = [event.into(), (*shard).into(), targets::encode(targets).into()];
                on.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
            }
            Ok(())
        })
        .await
    }
}

/// Keeps as many fan-outs as may come into memory at once, and at least one.
pub(super) fn cut(mut listed: Vec<Listed>) -> Vec<Listed> {
    let fitting = fitting(&listed);
    listed.truncate(fitting.max(1));
    listed
}

/// The same for whole events; also returns the first event that was left out.
fn cut_events(mut listed: Vec<Listed>) -> (Vec<Listed>, Option<EventSeq>) {
    let (Some(first), Some(cut)) = (listed.first(), listed.get(fitting(&listed))) else { return (listed, None) };
    let (first, mut before) = (first.head.seq, cut.head.seq);
    if before == first {
        let Some(next) = listed.iter().find(|listed| listed.head.seq > first) else { return (listed, None) };
        before = next.head.seq;
    }
    listed.retain(|listed| listed.head.seq < before);
    (listed, Some(before))
}

/// How many of the first fan-outs fit into [`PAGE_BYTES`] together.
fn fitting(listed: &[Listed]) -> usize {
    let (mut bytes, mut last) = (0, None);
    let takes = |Listed { head, target_count, .. }: &Listed| {
        let body = if last.replace(head.seq) == Some(head.seq) { 0 } else { head.bytes_in_memory() };
        bytes += body + target_count * size_of::<WebhookNum>();
        bytes <= PAGE_BYTES
    };
    listed.iter().map(takes).take_while(|fits| *fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::payload::LARGE;

    fn listed(event: i64, shard: i16, size: usize, targets: i64) -> Listed {
        let head = Head { seq: EventSeq(event), tenant: TenantNum(1), kind: "a".to_owned(), size, trail: None };
        Listed { tx: 0, head, shard, targets: Vec::new(), target_count: targets.try_into().unwrap() }
    }

    fn keys(listed: &[Listed]) -> Vec<(i64, i16)> {
        listed.iter().map(|listed| (listed.head.seq.0, listed.shard)).collect()
    }

    #[test]
    fn a_body_counts_once_and_a_large_one_not_at_all() {
        let page: Vec<Listed> = (0..256).map(|shard| listed(1, shard, LARGE, 100)).collect();
        assert_eq!(cut(page).len(), 256);
        let page: Vec<Listed> = (1..=256).map(|event| listed(event, 0, LARGE, 1)).collect();
        assert_eq!(cut(page).len(), PAGE_BYTES / (LARGE + 8));
        let page: Vec<Listed> = (1..=256).map(|event| listed(event, 0, 64 << 20, 1)).collect();
        assert_eq!(cut(page).len(), 256);
    }

    #[test]
    fn one_that_is_too_large_comes_alone() {
        let targets = i64::try_from(PAGE_BYTES).unwrap() / 8 + 1;
        let page = || vec![listed(1, 0, 1, targets), listed(1, 1, 1, 1), listed(2, 0, 1, 1)];
        assert_eq!(keys(&cut(page())), [(1, 0)]);
        let (kept, cut_before) = cut_events(page());
        assert_eq!((keys(&kept), cut_before), (vec![(1, 0), (1, 1)], Some(EventSeq(2))));
        let (kept, cut_before) = cut_events(vec![listed(1, 0, 1, 1), listed(2, 0, 1, targets), listed(3, 0, 1, 1)]);
        assert_eq!((keys(&kept), cut_before), (vec![(1, 0)], Some(EventSeq(2))));
        assert_eq!(cut_events(vec![listed(1, 0, 1, targets)]).1, None);
    }
}
