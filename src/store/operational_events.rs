//! Operational events that are to be published. Each is written in the transaction of the change that it reports. The
//! journal deletes the row in the transaction in which it publishes the event, so that each is published once.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement, Value};
use serde_json::Map;

use crate::domain::id::TenantNum;
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::{OperationalEvent, OperationalKind};

use super::{Store, StoreError, decode};

/// Table and key column, by which an unreadable row is named.
const TABLE: (&str, &[&str]) = ("operational_event", &["num"]);

/// Rows that are read at once.
const PAGE: i64 = 100;

/// An operational event as it stands in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToPublish {
    /// Its place among all operational events.
    pub sequence: i64,
    pub tenant: TenantNum,
    pub kind: String,
    pub data: Map<String, serde_json::Value>,
    pub at: UnixMillis,
}

#[derive(Debug, FromQueryResult)]
struct EventRow {
    num: i64,
    tenant_num: i64,
    kind: String,
    data: String,
    at: i64,
}

impl TryFrom<EventRow> for ToPublish {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        judge(&row.kind, &row.data)?;
        let data = decode::json("data", &row.data)?;
        let EventRow { num, tenant_num, kind, at, .. } = row;
        Ok(Self { sequence: num, tenant: TenantNum(tenant_num), kind, data, at: UnixMillis(at) })
    }
}

/// Checks what is published of a row.
pub(super) fn judge(kind: &str, data: &str) -> Result<(), StoreError> {
    if !OperationalKind::is_one(kind) {
        return Err(StoreError::unreadable("kind", kind));
    }
    decode::json::<Map<String, serde_json::Value>>("data", data).map(drop)
}

impl Store {
    /// The first operational events after `after`. A row that cannot be read is passed over.
    pub async fn operational_events(&self, after: i64) -> Result<Vec<ToPublish>, StoreError> {
        let sql = "SELECT num, tenant_num, kind, data, at FROM operational_event WHERE num > $1 ORDER BY num LIMIT $2";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [after.into(), PAGE.into()]);
        let rows: Vec<EventRow> = self.all_readable(self.engine_readers(), TABLE, statement).await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let sequence = row.num;
            events.extend(self.if_readable(TABLE.0, sequence, ToPublish::try_from(row))?);
        }
        Ok(events)
    }

    /// Deletes an operational event that nobody subscribes to.
    pub async fn drop_operational(&self, sequence: i64) -> Result<(), StoreError> {
        self.write(async |on| Ok(take(on, sequence).await.map(drop)?)).await
    }
}

/// Call in the transaction of the change that the event reports.
pub(super) async fn write<C: ConnectionTrait>(on: &C, event: &OperationalEvent) -> Result<(), DbErr> {
    let OperationalEvent { tenant, kind, data, at } = event;
    let data = Value::from(serde_json::Value::Object(data.clone()).to_string());
    let values = [tenant.0.into(), kind.as_str().into(), data, at.0.into()];
    let sql = "INSERT INTO operational_event (tenant_num, kind, data, at) VALUES ($1, $2, $3, $4)";
    on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values)).await?;
    Ok(())
}

/// Takes the row out, because its event is published in this transaction. Answers whether it was still there.
pub(super) async fn take<C: ConnectionTrait>(on: &C, sequence: i64) -> Result<bool, DbErr> {
    let sql = "DELETE FROM operational_event WHERE num = $1";
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, [sequence.into()]);
    Ok(on.execute_raw(statement).await?.rows_affected() > 0)
}
