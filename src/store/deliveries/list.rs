//! The query behind a list of deliveries: from which table it starts, what it filters by, and how far it may look.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookNum};
use crate::store::{Store, StoreError, dialect};

use super::{Delivery, DeliveryFilter, Status};

const DELIVERY_COLUMNS: &str = "d.event_seq, d.webhook_num, w.id AS webhook_id, e.kind, d.status, d.attempts, d.tries, \
                                d.next_at, d.settled_at, d.manual_from, d.manual_next_at";

/// How many index entries a page looks at whose filter has no index: few at first, which is enough as a rule, then many.
/// The page of a rare filter ends there, and its cursor goes on.
const LOOKS: [u64; 2] = [256, 10_000];

/// Deliveries as a page found them.
#[derive(Debug, Clone, Default)]
pub struct RowPage {
    pub found: Vec<Delivery>,
    /// Down to this id everything was looked at; `None`: everything.
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

/// `$1` is the tenant, `$2` the webhook or 0, `$3`… the bounds.
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

    /// The row after the first `passed`.
    fn statement_after(mut self, order: &str, passed: u64) -> Statement {
        self.values.push(passed.cast_signed().into());
        let sql = format!("{} ORDER BY {order} LIMIT 1 OFFSET ${}", self.sql, self.values.len());
        Statement::from_sql_and_values(self.backend, sql, self.values)
    }

    /// Where the list starts, and between which events.
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

    /// What no index of the source knows.
    fn filtered(&mut self, filter: &DeliveryFilter) {
        if let Some(status) = filter.status {
            self.sql.push_str(&format!(" AND d.status = {}", status.code()));
        }
        if let Some(kind) = &filter.kind {
            self.and("e.kind =", kind.clone());
        }
        if let Some(outcome) = filter.outcome {
            self.and("a.outcome =", outcome);
        }
        if let Some(code) = filter.status_code {
            self.and("a.status_code =", code.cast_signed());
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

/// The table whose index gives the rows in the order asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Delivery,
    Log,
    Event,
    /// Events alone, to see how far down so many of them go.
    Events,
}

impl Source {
    /// The smallest index that finds what the filter asks for, newest first.
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

    /// The columns by which it finds and orders.
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

    /// Whether everything that the filter asks for is in the source's index. What is not is looked for, one entry after
    /// the other.
    fn knows(self, filter: &DeliveryFilter) -> bool {
        let has_more = filter.kind.is_some() || filter.outcome.is_some() || filter.status_code.is_some();
        match self {
            Self::Delivery => !has_more,
            Self::Log => !has_more && filter.status.is_none(),
            // Events that nobody was owed have no rows.
            Self::Event | Self::Events => false,
        }
    }
}

impl Store {
    /// Newest event first, then by webhook; those before `before`, and one more than `limit` if there are more.
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

    /// Answers also whether there were more rows than `limit`. Where some cannot be read, the page ends after the last row.
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

    /// The key of the entry after so many of them; `None` if there are not so many.
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
        // Of an event there may be very many deliveries.
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
