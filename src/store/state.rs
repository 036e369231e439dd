//! Single values of the engine itself, in the table `engine_state`; among them what is in doubt where one process has the
//! database alone. With several nodes, the doubt is in the rows of the shards (`leases`).

use entity::engine_state::{ActiveModel, Column, Entity};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QueryTrait, Set};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::secrets::Layout;

use super::{Store, StoreError};

const LOG_INDEXED_TO: &str = "log_indexed_to";
const STOPPED_CLEANLY_AT: &str = "stopped_cleanly_at";
const STARTED_AT: &str = "started_at";
const SUSPECT_EVENTS_TO: &str = "suspect_events_to";
const SUSPECT_DUE_TO: &str = "suspect_due_to";
const SEAL_LAYOUT: &str = "seal_layout";
const ENGINE_ID: &str = "engine_id";

/// How far a sweep of old rows has come, kept across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepMark {
    /// Up to here the sweep over all tenants has deleted the events that it may delete.
    EventsTo,
    /// The same for receivers' answers.
    ResponsesTo,
    /// An event that is gone while some of its deliveries are not; zero for none.
    Unfinished,
}

impl SweepMark {
    fn name(self) -> &'static str {
        match self {
            Self::EventsTo => "retention_events_to",
            Self::ResponsesTo => "retention_responses_to",
            Self::Unfinished => "retention_unfinished",
        }
    }
}

impl Store {
    /// Notes that a process that has the database alone starts now, and answers what is in doubt. After a crash,
    /// everything owed is, and stays so through later clean stops until it is sent.
    pub async fn begin_alone(&self, now: UnixMillis) -> Result<InDoubt, StoreError> {
        let last_event = self.last_event().await?;
        self.write(async |on| {
            let crashed = get(on, STARTED_AT).await?.is_some() && get(on, STOPPED_CLEANLY_AT).await?.is_none();
            set(on, STARTED_AT, now.0).await?;
            Entity::delete_by_id(STOPPED_CLEANLY_AT.to_owned()).exec(on).await?;
            if crashed {
                set(on, SUSPECT_EVENTS_TO, last_event.0).await?;
                set(on, SUSPECT_DUE_TO, now.0).await?;
            }
            Ok(InDoubt {
                events_to: EventSeq(get(on, SUSPECT_EVENTS_TO).await?.unwrap_or(0)),
                due_to: UnixMillis(get(on, SUSPECT_DUE_TO).await?.unwrap_or(0)),
            })
        })
        .await
    }

    /// Notes that an attempt of this webhook may have been cut short.
    pub async fn mark_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<(), StoreError> {
        if self.is_clustered() {
            self.mark_shard_in_doubt(webhook, in_doubt).await
        } else {
            self.mark_all_in_doubt(in_doubt).await
        }
    }

    /// Notes that attempts of a running process may have been cut short.
    pub async fn mark_all_in_doubt(&self, in_doubt: InDoubt) -> Result<(), StoreError> {
        let InDoubt { events_to, due_to } = in_doubt;
        self.write(async |on| {
            let events_before = get(on, SUSPECT_EVENTS_TO).await?.unwrap_or(0);
            let due_before = get(on, SUSPECT_DUE_TO).await?.unwrap_or(0);
            set(on, SUSPECT_EVENTS_TO, events_to.0.max(events_before)).await?;
            set(on, SUSPECT_DUE_TO, due_to.0.max(due_before)).await
        })
        .await
    }

    /// Notes that nothing is in flight and the journal is empty.
    pub async fn mark_stopped_cleanly(&self, now: UnixMillis) -> Result<(), StoreError> {
        self.write(async |on| set(on, STOPPED_CLEANLY_AT, now.0).await).await
    }

    /// The number that tells this database's engine from others; the first process that asks chooses it.
    pub async fn engine_id(&self) -> Result<u64, StoreError> {
        self.write(async |on| {
            let row = ActiveModel { name: Set(ENGINE_ID.to_owned()), value: Set(rand::random()) };
            let keep = OnConflict::column(Column::Name).do_nothing().to_owned();
            Entity::insert(row).on_conflict(keep).exec_without_returning(on).await?;
            let id = get(on, ENGINE_ID).await?;
            id.map(i64::cast_unsigned).ok_or_else(|| StoreError::unreadable("engine id", "it is not there"))
        })
        .await
    }

    pub(super) async fn log_indexed_to(&self) -> Result<EventSeq, StoreError> {
        Ok(EventSeq(get(self.readers(), LOG_INDEXED_TO).await?.unwrap_or(0)))
    }
}

pub(super) async fn set_log_indexed_to<C: ConnectionTrait>(on: &C, to: EventSeq) -> Result<(), StoreError> {
    set(on, LOG_INDEXED_TO, to.0).await
}

pub(super) async fn sweep_mark<C: ConnectionTrait>(on: &C, mark: SweepMark) -> Result<EventSeq, StoreError> {
    Ok(EventSeq(get(on, mark.name()).await?.unwrap_or(0)))
}

pub(super) async fn set_sweep_mark<C: ConnectionTrait>(
    on: &C,
    mark: SweepMark,
    to: EventSeq,
) -> Result<(), StoreError> {
    set(on, mark.name(), to.0).await
}

/// The layout in which values are sealed. A layout is noted once no process runs that could not read it.
pub(super) async fn seal_layout<C: ConnectionTrait>(on: &C) -> Result<Layout, DbErr> {
    let noted = Entity::find_by_id(SEAL_LAYOUT.to_owned()).one(on).await?.map_or(0, |row| row.value);
    Ok(Layout::up_to(noted))
}

pub(super) async fn note_newest_layout<C: ConnectionTrait>(on: &C) -> Result<(), StoreError> {
    set(on, SEAL_LAYOUT, Layout::NEWEST.number().into()).await
}

async fn get<C: ConnectionTrait>(on: &C, name: &str) -> Result<Option<i64>, StoreError> {
    let statement = Entity::find_by_id(name.to_owned()).build(on.get_database_backend());
    let Some(row) = on.query_one_raw(statement).await? else { return Ok(None) };
    let unreadable =
        |error: &DbErr| tracing::error!(table = "engine_state", key = name, %error, "a row cannot be read");
    Ok(row.try_get("", "value").inspect_err(unreadable).ok())
}

async fn set<C: ConnectionTrait>(on: &C, name: &str, value: i64) -> Result<(), StoreError> {
    let row = ActiveModel { name: Set(name.to_owned()), value: Set(value) };
    let replace = OnConflict::column(Column::Name).update_column(Column::Value).to_owned();
    Entity::insert(row).on_conflict(replace).exec_without_returning(on).await?;
    Ok(())
}
