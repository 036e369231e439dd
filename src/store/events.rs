//! Accepted events.

use std::sync::Arc;

use bytes::Bytes;
use entity::event::{Column, Entity, Model};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::clock::UnixMillis;
use crate::id::{EventSeq, TenantNum};

use super::{Page, Store, StoreError, payload};

/// An event as it is delivered: what every target shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub seq: EventSeq,
    pub tenant: TenantNum,
    pub kind: String,
    pub body: Body,
}

/// The exact text that every webhook is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// It is in memory for as long as the event is.
    InMemory(Bytes),
    /// It has more than [`payload::LARGE`] bytes. Each attempt asks for it when it is about to be sent.
    Stored { bytes: usize },
}

impl Body {
    /// What the event keeps in memory of it.
    #[must_use]
    pub fn bytes_in_memory(&self) -> usize {
        match self {
            Self::InMemory(body) => body.len(),
            Self::Stored { .. } => 0,
        }
    }
}

/// An event as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub event: Arc<Event>,
    /// Also when it is large.
    pub body: Bytes,
    pub occurred_at: UnixMillis,
    pub caller_id: Option<String>,
    /// How many webhooks it was owed to when it was accepted.
    pub matched: u32,
}

impl From<Model> for StoredEvent {
    fn from(row: Model) -> Self {
        let Model { seq, tenant_num, kind, occurred_at, caller_id, matched, body } = row;
        let (seq, tenant, body) = (EventSeq(seq), TenantNum(tenant_num), payload::counted(body));
        Self {
            event: Arc::new(Event { seq, tenant, kind, body: Body::InMemory(body.clone()) }),
            body,
            occurred_at: UnixMillis(occurred_at),
            caller_id,
            matched: u32::try_from(matched).unwrap_or(u32::MAX),
        }
    }
}

/// Which events a list shows.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub kind: Option<String>,
    pub since: Option<UnixMillis>,
    pub until: Option<UnixMillis>,
}

/// The key of the newest event that can be seen from there; zero when there is none.
pub(super) async fn newest_event<C: ConnectionTrait>(on: &C) -> Result<EventSeq, StoreError> {
    let newest = Entity::find().select_only().column(Column::Seq).order_by_desc(Column::Seq);
    let seq: Option<i64> = newest.into_tuple().one(on).await?;
    Ok(EventSeq(seq.unwrap_or(0)))
}

impl Store {
    pub async fn event(&self, tenant: TenantNum, seq: EventSeq) -> Result<Option<StoredEvent>, StoreError> {
        let query = Entity::find_by_id(seq.0).filter(Column::TenantNum.eq(tenant.0));
        Ok(query.one(self.readers()).await?.map(StoredEvent::from))
    }

    /// The key of the newest event of all; zero when there is none.
    pub async fn last_event(&self) -> Result<EventSeq, StoreError> {
        newest_event(self.readers()).await
    }

    /// Newest first, those below `before`.
    pub async fn events(
        &self,
        tenant: TenantNum,
        filter: &EventFilter,
        before: Option<EventSeq>,
        limit: u64,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let mut query = Entity::find().filter(Column::TenantNum.eq(tenant.0)).order_by_desc(Column::Seq);
        if let Some(kind) = &filter.kind {
            query = query.filter(Column::Kind.eq(kind));
        }
        if let Some(since) = filter.since {
            query = query.filter(Column::Seq.gte(EventSeq::first_at(since).0));
        }
        if let Some(until) = filter.until {
            query = query.filter(Column::Seq.lt(EventSeq::first_at(until).0));
        }
        if let Some(before) = before {
            query = query.filter(Column::Seq.lt(before.0));
        }
        let rows = query.limit(limit + 1).all(self.readers()).await?;
        let events = rows.into_iter().map(StoredEvent::from).collect();
        Ok(Page::of(events, limit, |event: &StoredEvent| event.event.seq.0))
    }
}
