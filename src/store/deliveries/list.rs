//! The query behind a list of deliveries: from which table it starts, and what it filters by.

use sea_orm::{DbBackend, Statement, Value};

use crate::id::TenantNum;
use crate::store::dialect;

use super::{DeliveryFilter, Status};

const DELIVERY_COLUMNS: &str = "d.event_seq, d.webhook_num, w.id AS webhook_id, e.kind, d.status, d.attempts, d.tries, \
                                d.next_at, d.settled_at, d.manual_from, d.manual_next_at";

/// `$1` is the tenant, `$2` the webhook or 0, `$3`… the bounds.
pub(super) struct ListQuery {
    backend: DbBackend,
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

impl ListQuery {
    pub(super) fn new(backend: DbBackend, source: Source, tenant: TenantNum) -> Self {
        let sql = format!("SELECT {DELIVERY_COLUMNS} FROM {} WHERE e.tenant_num = $1", source.from(backend));
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
}

/// The table whose index gives the rows in the order asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Delivery,
    Log,
    Event,
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
        }
    }
}
