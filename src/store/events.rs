//! Reads accepted events. Never writes them: the journal does.

use bytes::Bytes;
use entity::event::{Column, Entity};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Select, Statement,
};
use serde::{Deserialize, Serialize};

use crate::domain::id::{EventSeq, TenantNum};
use crate::domain::moment::UnixMillis;

use super::page::LOOKS;
use super::{Page, Store, StoreError, payload};

/// The caller id, and a digest of the content that the publisher sent under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub id: String,
    pub digest: [u8; 32],
}

/// What a publisher is told of an event that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub seq: EventSeq,
    pub occurred_at: UnixMillis,
    pub matched: u32,
}

/// An event as it is listed, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub seq: EventSeq,
    pub tenant: TenantNum,
    pub kind: String,
    pub occurred_at: UnixMillis,
    pub caller_id: Option<String>,
    /// How many webhooks the event matched when it was accepted.
    pub matched: u32,
    pub body_bytes: usize,
    /// When the payload was erased; `None` for most.
    pub erased_at: Option<UnixMillis>,
}

#[derive(Debug, FromQueryResult)]
struct StoredRow {
    seq: i64,
    tenant_num: i64,
    kind: String,
    occurred_at: i64,
    caller_id: Option<String>,
    matched: i64,
    body_bytes: i64,
    erased_at: Option<i64>,
}

impl From<StoredRow> for StoredEvent {
    fn from(row: StoredRow) -> Self {
        let StoredRow { seq, tenant_num, kind, occurred_at, caller_id, matched, body_bytes, erased_at } = row;
        Self {
            seq: EventSeq(seq),
            tenant: TenantNum(tenant_num),
            kind,
            occurred_at: UnixMillis(occurred_at),
            caller_id,
            matched: u32::try_from(matched).unwrap_or(u32::MAX),
            body_bytes: usize::try_from(body_bytes).unwrap_or(0),
            erased_at: erased_at.map(UnixMillis),
        }
    }
}

/// Selects events with the length of their bodies, without the bodies.
fn without_bodies() -> Select<Entity> {
    Entity::find()
        .select_only()
        .columns([Column::Seq, Column::TenantNum, Column::Kind, Column::OccurredAt, Column::CallerId, Column::Matched])
        .column(Column::ErasedAt)
        .expr_as(Expr::cust("CAST(OCTET_LENGTH(body) AS BIGINT)"), "body_bytes")
}

/// Which events a list shows.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// The id that the publisher gave the event.
    pub caller_id: Option<String>,
    pub kind: Option<String>,
    pub since: Option<UnixMillis>,
    pub until: Option<UnixMillis>,
}

#[derive(Debug, FromQueryResult)]
struct CallerRow {
    event_seq: i64,
}

/// The key of the newest event that `on` can see; zero if there is none.
pub(super) async fn newest_event<C: ConnectionTrait>(on: &C) -> Result<EventSeq, StoreError> {
    let newest = Entity::find().select_only().column(Column::Seq).order_by_desc(Column::Seq);
    let seq: Option<i64> = newest.into_tuple().one(on).await?;
    Ok(EventSeq(seq.unwrap_or(0)))
}

impl Store {
    pub async fn event(&self, tenant: TenantNum, seq: EventSeq) -> Result<Option<StoredEvent>, StoreError> {
        let query = without_bodies().filter(Column::Seq.eq(seq.0)).filter(Column::TenantNum.eq(tenant.0));
        Ok(query.into_model::<StoredRow>().one(self.readers()).await?.map(StoredEvent::from))
    }

    /// The exact text of an event that every webhook is sent.
    pub async fn event_body(&self, tenant: TenantNum, seq: EventSeq) -> Result<Option<Bytes>, StoreError> {
        let query = Entity::find_by_id(seq.0).filter(Column::TenantNum.eq(tenant.0));
        let body: Option<Vec<u8>> = query.select_only().column(Column::Body).into_tuple().one(self.readers()).await?;
        Ok(body.map(payload::counted))
    }

    /// The key of the newest event of all; zero if there is none.
    pub async fn last_event(&self) -> Result<EventSeq, StoreError> {
        newest_event(self.readers()).await
    }

    /// The tenant that owns the event.
    pub async fn tenant_of_event(&self, seq: EventSeq) -> Result<Option<TenantNum>, StoreError> {
        let query = Entity::find_by_id(seq.0).select_only().column(Column::TenantNum);
        let num: Option<i64> = query.into_tuple().one(self.readers()).await?;
        Ok(num.map(TenantNum))
    }

    async fn event_of_caller(&self, tenant: TenantNum, caller_id: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT event_seq FROM event_caller_id WHERE tenant_num = $1 AND caller_id = $2";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [tenant.0.into(), caller_id.into()]);
        Ok(CallerRow::find_by_statement(statement).one(self.readers()).await?.map(|row| row.event_seq))
    }

    /// Events below `before`, newest first. With a filter by type, a page covers at most the next [`LOOKS`] events.
    pub async fn events(
        &self,
        tenant: TenantNum,
        filter: &EventFilter,
        before: Option<EventSeq>,
        limit: u64,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let bounds = [
            Some(Column::TenantNum.eq(tenant.0)),
            filter.since.map(|since| Column::Seq.gte(EventSeq::first_at(since).0)),
            filter.until.map(|until| Column::Seq.lt(EventSeq::first_at(until).0)),
            before.map(|before| Column::Seq.lt(before.0)),
        ];
        let within = bounds.into_iter().flatten().fold(Condition::all(), Condition::add);
        let mut query = without_bodies().filter(within.clone()).order_by_desc(Column::Seq);
        let mut floor = None;
        if let Some(caller_id) = &filter.caller_id {
            match self.event_of_caller(tenant, caller_id).await? {
                Some(seq) => query = query.filter(Column::Seq.eq(seq)),
                None => return Ok(Page { items: Vec::new(), next: None }),
            }
        }
        if let Some(kind) = &filter.kind {
            floor = if filter.caller_id.is_none() { self.event_after_looks(within).await? } else { None };
            query = query.filter(Column::Kind.eq(kind)).filter(Column::Seq.gte(floor.unwrap_or(i64::MIN)));
        }
        let statement = query.limit(limit + 1).build(self.backend());
        let page: Page<StoredEvent> =
            self.page_of::<StoredRow, _>(("event", "seq"), statement, limit, |row| Ok(row.into())).await?;
        Ok(page.down_to(floor))
    }

    /// The event after the first [`LOOKS`] events of this condition; `None` if there are fewer.
    async fn event_after_looks(&self, within: Condition) -> Result<Option<i64>, StoreError> {
        let query = Entity::find().select_only().column(Column::Seq).filter(within).order_by_desc(Column::Seq);
        Ok(query.offset(LOOKS).limit(1).into_tuple().one(self.readers()).await?)
    }
}
