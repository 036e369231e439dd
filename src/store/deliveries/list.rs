//! Builds and runs the query behind a list of deliveries: its source table, its filters, and how far one page may look.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookNum};
use crate::store::{Store, StoreError, dialect};

use super::{Delivery, DeliveryFilter};

const DELIVERY_COLUMNS: &str = "d.event_seq, d.webhook_num, w.id AS webhook_id, e.kind, d.status, d.attempts, d.tries, \
                                d.next_at, d.settled_at, d.manual_from, d.manual_next_at, d.operation";

/// Index entries that a page looks at if no index supports the filter: few at first, which is usually enough, then
/// many. The page of a rare filter ends there, and its cursor continues.
const LOOKS: [u64; 2] = [256, 10_000];

/// One page of deliveries that have rows.
#[derive(Debug, Clone, Default)]
pub struct RowPage {
    pub found: Vec<Delivery>,
    /// Everything down to this id was looked at; `None`: everything to the end.
    pub looked_to: Option<DeliveryId>,
}

#[derive(Debug, FromQueryResult)]
struct KeyRow {
    event_seq: i64,
    webhook_num: i64,
}

impl From<KeyRow> for DeliveryId {
    fn from(KeyRow { event_seq, webhook_num }: KeyRow) -> Self {
        Self { event: EventSeq(event_seq), webhook: WebhookNum(webhook_num) }
    }
}

/// `$1` is the tenant; each condition adds its own parameter.
pub(super) struct ListQuery {
    backend: DbBackend,
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

impl ListQuery {
    pub(super) fn new(backend: DbBackend, source: Source, tenant: TenantNum) -> Self {
        Self::select(backend, DELIVERY_COLUMNS, source, tenant)
    }

    fn select(backend: DbBackend, columns: &str, source: Source, tenant: TenantNum) -> Self {
        let sql = format!("SELECT {columns} FROM {} WHERE e.tenant_num = $1", source.from(backend));
        Self { backend, sql, values: vec![tenant.0.into()] }
    }

    pub(super) fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        self.sql.push_str(&format!(" AND {condition} ${}", self.values.len()));
    }

    pub(super) fn statement(mut self, order: &str, limit: u64) -> Statement {
        self.values.push((limit + 1).cast_signed().into());
        let sql = format!("{} ORDER BY {order} LIMIT ${}", self.sql, self.values.len());
        Statement::from_sql_and_values(self.backend, sql, self.values)
    }

    /// Selects the row after the first `passed` rows.
    fn statement_after(mut self, order: &str, passed: u64) -> Statement {
        self.values.push(passed.cast_signed().into());
        let sql = format!("{} ORDER BY {order} LIMIT 1 OFFSET ${}", self.sql, self.values.len());
        Statement::from_sql_and_values(self.backend, sql, self.values)
    }

    /// Bounds the list: webhook, event, time, and where the page starts.
    fn within(&mut self, source: Source, filter: &DeliveryFilter, before: Option<DeliveryId>) {
        let (seq, webhook_num) = source.keys();
        if let Some(webhook) = filter.webhook {
            self.and(&format!("{webhook_num} ="), webhook.0);
        }
        if let Some(event) = filter.event {
            self.and(&format!("{seq} ="), event.0);
        }
        if let Some(since) = filter.since {
            self.and(&format!("{seq} >="), EventSeq::first_at(since).0);
        }
        if let Some(until) = filter.until {
            self.and(&format!("{seq} <"), EventSeq::first_at(until).0);
        }
        if let Some(before) = before {
            self.and(&format!("{seq} <="), before.event.0);
            if source != Source::Events {
                self.and(&format!("({seq}, {webhook_num}) < (${},", self.values.len()), before.webhook.0);
                self.sql.push(')');
            }
        }
    }

    /// Conditions beyond the key of the source's index.
    fn filtered(&mut self, filter: &DeliveryFilter) {
        if let Some(status) = filter.status {
            self.sql.push_str(&format!(" AND d.status = {}", status.code()));
        }
        if let Some(kind) = &filter.kind {
            self.and("e.kind =", kind.clone());
        }
        if let Some(outcome) = filter.outcome {
            self.and("a.outcome =", outcome.code());
        }
        if let Some(code) = filter.status_code {
            self.and("a.status_code =", code.cast_signed());
        }
        if let Some(attempts) = filter.attempts {
            self.and("d.attempts =", attempts.cast_signed());
        }
    }

    fn not_below(&mut self, source: Source, floor: DeliveryId) {
        let (seq, webhook_num) = source.keys();
        self.and(&format!("{seq} >="), floor.event.0);
        if source != Source::Events {
            self.and(&format!("({seq}, {webhook_num}) >= (${},", self.values.len()), floor.webhook.0);
            self.sql.push(')');
        }
    }
}

/// The table whose index yields the rows in the requested order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Delivery,
    Log,
    Event,
    /// Events alone, to find out how far down a number of events reaches.
    Events,
}

impl Source {
    /// The source with the smallest index that finds what the filter asks for, newest first.
    pub(super) fn of(filter: &DeliveryFilter) -> Self {
        match (filter.webhook, filter.status) {
            (Some(_), Some(Status::Pending | Status::Failed)) => Self::Delivery,
            (Some(_), None | Some(Status::Success | Status::Cancelled)) => Self::Log,
            (None, _) => Self::Event,
        }
    }

    fn from(self, backend: DbBackend) -> String {
        let then_join = dialect::then_join(backend);
        let first = match self {
            Self::Events => return "event e".to_owned(),
            Self::Delivery => format!("delivery d {then_join} event e ON e.seq = d.event_seq"),
            Self::Log => format!(
                "delivery_log l \
                 {then_join} delivery d ON d.event_seq = l.event_seq AND d.webhook_num = l.webhook_num \
                 {then_join} event e ON e.seq = d.event_seq"
            ),
            Self::Event => format!("event e {then_join} delivery d ON d.event_seq = e.seq"),
        };
        format!("{first} JOIN webhook w ON w.num = d.webhook_num")
    }

    /// The columns by which the source finds and orders rows.
    pub(super) fn keys(self) -> (&'static str, &'static str) {
        match self {
            Self::Delivery => ("d.event_seq", "d.webhook_num"),
            Self::Log => ("l.event_seq", "l.webhook_num"),
            Self::Event => ("e.seq", "d.webhook_num"),
            Self::Events => ("e.seq", "0"),
        }
    }

    fn order(self) -> String {
        let (seq, webhook_num) = self.keys();
        match self {
            Self::Events => format!("{seq} DESC"),
            Self::Delivery | Self::Log | Self::Event => format!("{seq} DESC, {webhook_num} DESC"),
        }
    }

    /// Whether the source's index covers the whole filter. If not, a page examines entry after entry.
    fn knows(self, filter: &DeliveryFilter) -> bool {
        let DeliveryFilter { kind, outcome, status_code, attempts, .. } = filter;
        let has_more = kind.is_some() || outcome.is_some() || status_code.is_some() || attempts.is_some();
        match self {
            Self::Delivery => !has_more,
            Self::Log => !has_more && filter.status.is_none(),
            // A tenant may have any number of events that matched no webhook and so have no delivery.
            Self::Event | Self::Events => false,
        }
    }
}

impl Store {
    /// Newest event first, then by webhook number: deliveries before `before`, one more than `limit` if there are more.
    pub async fn deliveries(
        &self,
        tenant: TenantNum,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u64,
    ) -> Result<RowPage, StoreError> {
        let source = Source::of(filter);
        if source.knows(filter) {
            return Ok(self.rows_down_to(tenant, filter, (before, None), limit).await?.0);
        }
        let mut page = RowPage::default();
        for looks in LOOKS {
            let floor = self.floor(tenant, filter, before, looks).await?;
            let (found, is_full) = self.rows_down_to(tenant, filter, (before, floor), limit).await?;
            page = found;
            if is_full || floor.is_none() {
                break;
            }
        }
        Ok(page)
    }

    /// Also returns whether there were more rows than `limit`. If some rows cannot be read, the page ends after the
    /// last row.
    async fn rows_down_to(
        &self,
        tenant: TenantNum,
        filter: &DeliveryFilter,
        (before, floor): (Option<DeliveryId>, Option<DeliveryId>),
        limit: u64,
    ) -> Result<(RowPage, bool), StoreError> {
        let source = Source::of(filter);
        let mut query = ListQuery::new(self.backend(), source, tenant);
        if filter.outcome.is_some() || filter.status_code.is_some() {
            let join = " JOIN attempt a ON a.event_seq = d.event_seq AND a.webhook_num = d.webhook_num \
                        AND a.number = d.attempts WHERE ";
            query.sql = query.sql.replacen(" WHERE ", join, 1);
        }
        query.within(source, filter, before);
        query.filtered(filter);
        if let Some(floor) = floor {
            query.not_below(source, floor);
        }
        let statement = query.statement(&source.order(), limit);
        let rows = self.readers().query_all_raw(statement).await?;
        let is_full = rows.len() as u64 > limit;
        let last = rows.iter().rev().find_map(|row| KeyRow::from_query_result(row, "").ok()).map(DeliveryId::from);
        let found = self.with_last_attempts(self.readable_joined(&rows, None)).await?;
        let looked_to = if is_full && found.len() as u64 <= limit { last } else { floor };
        Ok((RowPage { found, looked_to }, is_full))
    }

    /// The key of the entry after the first `looks` entries; `None` if there are fewer.
    async fn floor(
        &self,
        tenant: TenantNum,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        looks: u64,
    ) -> Result<Option<DeliveryId>, StoreError> {
        let source = Source::of(filter);
        let events = match source {
            Source::Event if filter.event.is_none() => {
                self.key_after(Source::Events, tenant, filter, (before, None), looks).await?
            }
            Source::Event | Source::Events | Source::Delivery | Source::Log => None,
        };
        // One event may have very many deliveries.
        let rows = self.key_after(source, tenant, filter, (before, events), looks).await?;
        Ok(rows.max(events))
    }

    async fn key_after(
        &self,
        source: Source,
        tenant: TenantNum,
        filter: &DeliveryFilter,
        (before, floor): (Option<DeliveryId>, Option<DeliveryId>),
        looks: u64,
    ) -> Result<Option<DeliveryId>, StoreError> {
        let (seq, webhook_num) = source.keys();
        let columns = format!("{seq} AS event_seq, CAST({webhook_num} AS BIGINT) AS webhook_num");
        let mut query = ListQuery::select(self.backend(), &columns, source, tenant);
        query.within(source, filter, before);
        if source == Source::Delivery
            && let Some(status) = filter.status
        {
            query.sql.push_str(&format!(" AND d.status = {}", status.code()));
        }
        if let Some(floor) = floor {
            query.not_below(source, floor);
        }
        let statement = query.statement_after(&source.order(), looks);
        let key = KeyRow::find_by_statement(statement).one(self.readers()).await?;
        Ok(key.map(DeliveryId::from))
    }
}
