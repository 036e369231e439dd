//! Single values of the engine itself.

use entity::engine_state::{ActiveModel, Column, Entity};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, EntityTrait, Set};

use crate::clock::UnixMillis;
use crate::id::EventSeq;

use super::{Store, StoreError};

const LOG_INDEXED_TO: &str = "log_indexed_to";
const STOPPED_CLEANLY_AT: &str = "stopped_cleanly_at";
const STARTED_AT: &str = "started_at";

/// How the process before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastStop {
    /// There was none.
    Never,
    /// Nothing was in flight.
    Clean,
    /// Requests may have been in flight: what is owed may have been seen by its receiver.
    Unclean,
}

impl Store {
    /// Notes that a process starts now, and says how the last one ended.
    pub async fn mark_started(&self, now: UnixMillis) -> Result<LastStop, StoreError> {
        self.write(async |on| {
            let started = get(on, STARTED_AT).await?;
            let stopped = get(on, STOPPED_CLEANLY_AT).await?;
            set(on, STARTED_AT, now.0).await?;
            Entity::delete_by_id(STOPPED_CLEANLY_AT.to_owned()).exec(on).await?;
            Ok(match (started, stopped) {
                (None, _) => LastStop::Never,
                (Some(_), Some(_)) => LastStop::Clean,
                (Some(_), None) => LastStop::Unclean,
            })
        })
        .await
    }

    /// Notes that nothing is in flight and the journal is empty.
    pub async fn mark_stopped_cleanly(&self, now: UnixMillis) -> Result<(), StoreError> {
        self.write(async |on| set(on, STOPPED_CLEANLY_AT, now.0).await).await
    }

    pub(super) async fn log_indexed_to(&self) -> Result<EventSeq, StoreError> {
        Ok(EventSeq(get(self.readers(), LOG_INDEXED_TO).await?.unwrap_or(0)))
    }
}

pub(super) async fn set_log_indexed_to<C: ConnectionTrait>(on: &C, to: EventSeq) -> Result<(), StoreError> {
    set(on, LOG_INDEXED_TO, to.0).await
}

async fn get<C: ConnectionTrait>(on: &C, name: &str) -> Result<Option<i64>, StoreError> {
    Ok(Entity::find_by_id(name.to_owned()).one(on).await?.map(|row| row.value))
}

async fn set<C: ConnectionTrait>(on: &C, name: &str, value: i64) -> Result<(), StoreError> {
    let row = ActiveModel { name: Set(name.to_owned()), value: Set(value) };
    let replace = OnConflict::column(Column::Name).update_column(Column::Value).to_owned();
    Entity::insert(row).on_conflict(replace).exec_without_returning(on).await?;
    Ok(())
}
