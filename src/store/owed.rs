//! Lists deliveries that are only owed: targets of open fan-outs without a row, newest event first. A page looks at a
//! bounded number of events and targets; a page that reached its bound says where it stopped.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use sea_orm::{DbErr, FromQueryResult, QueryResult, Statement, Value};

use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;

use super::decode::NumRow;
use super::deliveries::DeliveryFilter;
use super::fanouts::FANOUT_KEY;
use super::{Store, StoreError, dialect, targets};

/// Events with open fan-outs that one page looks at, of any tenant.
const EVENTS: usize = 512;

/// Event keys read at once.
const KEYS: i64 = 128;

/// Targets of an event per step. One query finds out which of them have a row.
const TARGETS: usize = 512;

/// Steps per page.
const STEPS: usize = 64;

/// A delivery that is only owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub id: DeliveryId,
    pub webhook: WebhookId,
    pub kind: String,
}

/// One page of deliveries that are only owed.
#[derive(Debug, Default)]
pub struct OwedPage {
    /// In descending order of id.
    pub found: Vec<Owed>,
    /// Everything down to this id was looked at; `None`: everything to the end.
    pub looked_to: Option<DeliveryId>,
}

#[derive(Debug)]
struct EventRow {
    event_seq: i64,
    /// `None` if the event is gone or cannot be read; the dispatcher's scan has logged that.
    tenant_num: Option<i64>,
    kind: Option<String>,
}

impl FromQueryResult for EventRow {
    fn from_query_result(row: &QueryResult, prefix: &str) -> Result<Self, DbErr> {
        Ok(Self {
            event_seq: row.try_get(prefix, "event_seq")?,
            tenant_num: row.try_get(prefix, "tenant_num").ok(),
            kind: row.try_get(prefix, "kind").ok(),
        })
    }
}

#[derive(Debug, FromQueryResult)]
struct TargetsRow {
    shard: i16,
    targets: Vec<u8>,
}

/// Keys of events that may match, both ends included.
#[derive(Debug, Clone, Copy)]
struct Range {
    least: i64,
    most: i64,
}

impl Range {
    fn of(filter: &DeliveryFilter, before: Option<DeliveryId>) -> Self {
        let since = filter.since.map_or(i64::MIN, |since: UnixMillis| EventSeq::first_at(since).0);
        let until = filter.until.map_or(i64::MAX, |until| EventSeq::first_at(until).0 - 1);
        let (least, most) = filter.event.map_or((since, until), |event| (since.max(event.0), until.min(event.0)));
        Self { least, most: before.map_or(most, |before| most.min(before.event.0)) }
    }
}

impl Store {
    /// At most `most` deliveries of a tenant that are only owed, before `before`.
    pub async fn owed(
        &self,
        tenant: TenantNum,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        most: usize,
    ) -> Result<OwedPage, StoreError> {
        let mut range = Range::of(filter, before);
        let (mut page, mut steps, mut events) = (OwedPage::default(), STEPS, EVENTS);
        while range.least <= range.most && page.found.len() < most {
            let keys = self.open_events(filter.webhook, range).await?;
            for row in &keys {
                let event = EventSeq(row.event_seq);
                let kind = row.kind.as_ref().filter(|_| row.tenant_num == Some(tenant.0));
                if let Some(kind) = kind.filter(|kind| filter.kind.as_ref().is_none_or(|wanted| wanted == *kind)) {
                    let below = before.filter(|before| before.event == event).map(|before| before.webhook);
                    let left = most - page.found.len();
                    let to =
                        self.owed_of((event, kind), (filter.webhook, below), left, &mut steps, &mut page.found).await?;
                    if to.is_some() || page.found.len() >= most {
                        page.looked_to = to;
                        return Ok(page);
                    }
                }
                range.most = row.event_seq - 1;
                events -= 1;
                if events == 0 {
                    page.looked_to = Some(DeliveryId { event, webhook: WebhookNum(0) });
                    return Ok(page);
                }
            }
            if keys.len() < usize::try_from(KEYS).unwrap_or(usize::MAX) {
                break;
            }
        }
        Ok(page)
    }

    /// Events with open fan-outs, newest first. Leaves out events that cannot concern the webhook.
    async fn open_events(&self, webhook: Option<WebhookNum>, range: Range) -> Result<Vec<EventRow>, StoreError> {
        let mut values: Vec<Value> = vec![range.least.into(), range.most.into(), KEYS.into()];
        let of_shard = shard_condition(webhook, &mut values);
        let sql = format!(
            "SELECT f.event_seq, e.tenant_num, e.kind FROM (SELECT DISTINCT event_seq FROM fanout \
             WHERE event_seq >= $1 AND event_seq <= $2 {of_shard} ORDER BY event_seq DESC LIMIT $3) f \
             LEFT JOIN event e ON e.seq = f.event_seq ORDER BY f.event_seq DESC"
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(EventRow::find_by_statement(statement).all(self.readers()).await?)
    }

    /// Appends what is still owed of an event, by descending webhook number. Returns where it stopped if it ran out of
    /// steps.
    async fn owed_of(
        &self,
        (event, kind): (EventSeq, &str),
        (only, mut below): (Option<WebhookNum>, Option<WebhookNum>),
        most: usize,
        steps: &mut usize,
        found: &mut Vec<Owed>,
    ) -> Result<Option<DeliveryId>, StoreError> {
        let wanted = found.len() + most;
        loop {
            let targets = self.targets_below(event, only, below).await?;
            let Some(last) = targets.last().copied() else { return Ok(None) };
            let recorded = self.recorded_among(event, &targets).await?;
            let open = targets.iter().rev().filter(|num| !recorded.contains(&num.0)).copied().collect::<Vec<_>>();
            for (num, webhook) in self.living(&open, usize::MAX).await?.into_iter().rev() {
                let id = DeliveryId { event, webhook: num };
                found.push(Owed { id, webhook, kind: kind.to_owned() });
                if found.len() >= wanted {
                    return Ok(None);
                }
            }
            if targets.len() < TARGETS {
                return Ok(None);
            }
            (below, *steps) = (Some(last), *steps - 1);
            if *steps == 0 {
                return Ok(Some(DeliveryId { event, webhook: last }));
            }
        }
    }

    /// The greatest targets of an event below a number, descending; at most [`TARGETS`].
    async fn targets_below(
        &self,
        event: EventSeq,
        only: Option<WebhookNum>,
        below: Option<WebhookNum>,
    ) -> Result<Vec<WebhookNum>, StoreError> {
        let mut values: Vec<Value> = vec![event.0.into()];
        let of_shard = shard_condition(only, &mut values);
        let sql = format!("SELECT event_seq, shard, targets FROM fanout WHERE event_seq = $1 {of_shard}");
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let mut greatest: BinaryHeap<Reverse<WebhookNum>> = BinaryHeap::with_capacity(TARGETS + 1);
        let rows: Vec<TargetsRow> = self.all_readable(self.readers(), ("fanout", &FANOUT_KEY), statement).await?;
        for row in rows {
            let key = format!("{}/{}", event.0, row.shard);
            let Some(all) = self.if_readable("fanout", key, targets::decode(&row.targets))? else { continue };
            let wanted =
                |num: &WebhookNum| below.is_none_or(|below| *num < below) && only.is_none_or(|only| *num == only);
            for num in all.into_iter().filter(wanted) {
                greatest.push(Reverse(num));
                if greatest.len() > TARGETS {
                    greatest.pop();
                }
            }
        }
        Ok(greatest.into_sorted_vec().into_iter().map(|Reverse(num)| num).collect())
    }

    /// Which of these targets have a row.
    async fn recorded_among(&self, event: EventSeq, targets: &[WebhookNum]) -> Result<HashSet<i64>, StoreError> {
        let is_one = dialect::is_any_of(self.backend(), "webhook_num", "$2");
        let sql = format!("SELECT webhook_num AS num FROM delivery WHERE event_seq = $1 AND {is_one}");
        let numbers = dialect::numbers(self.backend(), targets.iter().map(|num| num.0));
        let statement = Statement::from_sql_and_values(self.backend(), sql, [event.0.into(), numbers]);
        let rows = NumRow::find_by_statement(statement).all(self.readers()).await?;
        Ok(rows.into_iter().map(|row| row.num).collect())
    }
}

/// Includes the first shard, which holds undivided fan-outs.
fn shard_condition(webhook: Option<WebhookNum>, values: &mut Vec<Value>) -> String {
    let Some(webhook) = webhook else { return String::new() };
    values.push(ShardNum::WHOLE.num().into());
    values.push(ShardNum::of(webhook).num().into());
    format!("AND shard IN (${}, ${})", values.len() - 1, values.len())
}
