//! Operations and their items. The API makes and changes operations; the engine counts their items, carries them out, and
//! notes how each has ended. An item ends once, together with the counts of its operation.

use entity::operation::{ActiveModel, Column, Entity, Model};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Set, Statement,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventSeq, OperationId, OperationNum, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operation::{
    Counts, DEFAULT_RATE, Item, ItemState, Kind, Operation, OperationState, Selection, Shown,
};
use crate::domain::operational_event::{OperationalEvent, OperationalKind};
use crate::domain::outcome::OutcomeKind;

use super::audit::{self, Action, Author, Deed};
use super::decode::{self, NumRow};
use super::dialect;
use super::idempotency::Once;
use super::{Page, Store, StoreError, operational_events};

/// How long the items of an operation that has ended are kept.
const ITEMS_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;

/// Items deleted per sweep.
const SWEEP: u64 = 10_000;

/// An operation that is to be made.
#[derive(Debug, Clone)]
pub struct NewOperation {
    pub id: OperationId,
    pub tenant: TenantNum,
    pub kind: Kind,
    pub selection: Selection,
    pub rate: u32,
    pub created_at: UnixMillis,
}

/// A new webhook is owed what was accepted in this time after its making, too: other nodes hear of it a moment later.
const START_OVERLAP_MS: i64 = 5000;

impl NewOperation {
    /// Owes a webhook that is made at `created_at` the events since `since` that match.
    pub(super) fn start_of(tenant: TenantNum, webhook: WebhookId, created_at: UnixMillis, since: UnixMillis) -> Self {
        let selection = Selection {
            webhooks: vec![webhook],
            since: Some(since),
            until: UnixMillis(created_at.0 + START_OVERLAP_MS),
            status: None,
            outcome: None,
            status_code: None,
            events: Vec::new(),
        };
        Self { id: OperationId::generate(), tenant, kind: Kind::Owe, selection, rate: DEFAULT_RATE, created_at }
    }

    /// The operation as it is at first. It has no number yet.
    #[must_use]
    pub fn as_made(&self, by: &Author) -> Operation {
        let Self { id, tenant, kind, selection, rate, created_at } = self.clone();
        Operation {
            num: OperationNum(0),
            id,
            tenant,
            kind,
            state: OperationState::Counting,
            selection,
            rate,
            counts: Counts::default(),
            error: None,
            created_by: by.who.to_string(),
            created_at,
            started_at: None,
            finished_at: None,
        }
    }
}

/// A selection in its column.
#[derive(Debug, Serialize, Deserialize)]
struct SelectionText {
    webhooks: Vec<WebhookId>,
    since: Option<i64>,
    until: i64,
    status: Option<i16>,
    outcome: Option<i16>,
    status_code: Option<u16>,
    events: Vec<String>,
}

impl From<&Selection> for SelectionText {
    fn from(selection: &Selection) -> Self {
        let Selection { webhooks, since, until, status, outcome, status_code, events } = selection;
        Self {
            webhooks: webhooks.clone(),
            since: since.map(|since| since.0),
            until: until.0,
            status: status.map(Status::code),
            outcome: outcome.map(OutcomeKind::code),
            status_code: *status_code,
            events: events.clone(),
        }
    }
}

impl TryFrom<SelectionText> for Selection {
    type Error = StoreError;

    fn try_from(text: SelectionText) -> Result<Self, StoreError> {
        let SelectionText { webhooks, since, until, status, outcome, status_code, events } = text;
        let unknown = |code: i16| StoreError::unreadable("selection", code);
        let outcome = outcome.map(|code| OutcomeKind::from_code(code).ok_or_else(|| unknown(code))).transpose()?;
        let status = status.map(|code| Status::from_code(code).ok_or_else(|| unknown(code))).transpose()?;
        let (since, until) = (since.map(UnixMillis), UnixMillis(until));
        Ok(Self { webhooks, since, until, status, outcome, status_code, events })
    }
}

impl TryFrom<Model> for Operation {
    type Error = StoreError;

    fn try_from(row: Model) -> Result<Self, StoreError> {
        let kind = Kind::from_code(row.kind).ok_or_else(|| StoreError::unreadable("kind", row.kind))?;
        let state = OperationState::from_code(row.state).ok_or_else(|| StoreError::unreadable("state", row.state))?;
        let counts = Counts {
            matched: number("matched", row.matched)?,
            success: number("success", row.success)?,
            failed: number("failed", row.failed)?,
            skipped: number("skipped", row.skipped)?,
        };
        Ok(Self {
            num: OperationNum(row.num),
            id: OperationId::from_bytes(&row.id).ok_or_else(|| StoreError::unreadable("id", "not 16 bytes"))?,
            tenant: TenantNum(row.tenant_num),
            kind,
            state,
            selection: decode::json::<SelectionText>("selection", &row.selection)?.try_into()?,
            rate: number("rate_per_second", row.rate_per_second.into())?,
            counts,
            error: row.error,
            created_by: row.created_by,
            created_at: UnixMillis(row.created_at),
            started_at: row.started_at.map(UnixMillis),
            finished_at: row.finished_at.map(UnixMillis),
        })
    }
}

fn number<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::unreadable(what, value))
}

pub(super) fn item_state_of(code: i16) -> Result<ItemState, StoreError> {
    ItemState::from_code(code).ok_or_else(|| StoreError::unreadable("state", code))
}

#[derive(Debug, FromQueryResult)]
struct ItemRow {
    event_seq: i64,
    attempt: Option<i16>,
    outcome: Option<i16>,
    status: Option<i16>,
    attempts: Option<i16>,
    manual_from: Option<i16>,
    operation: Option<i64>,
}

impl TryFrom<ItemRow> for Item {
    type Error = StoreError;

    fn try_from(row: ItemRow) -> Result<Self, StoreError> {
        let unknown = |what: &'static str, code: i16| StoreError::unreadable(what, code);
        let outcome = row.outcome.map(|code| OutcomeKind::from_code(code).ok_or_else(|| unknown("outcome", code)));
        let status = row.status.map(|code| Status::from_code(code).ok_or_else(|| unknown("status", code)));
        let shown = |status| Shown {
            status,
            attempts: row.attempts.unwrap_or_default().cast_unsigned(),
            operation: row.operation.map(OperationNum),
            is_due_again: row.manual_from.is_some(),
        };
        Ok(Self {
            event: EventSeq(row.event_seq),
            was_asked_for: row.attempt.is_some(),
            outcome: outcome.transpose()?,
            delivery: status.transpose()?.map(shown),
        })
    }
}

#[derive(Debug, FromQueryResult)]
struct KeyRow {
    webhook_num: i64,
    event_seq: i64,
}

/// Call in the transaction that asks for the operation.
pub(super) async fn insert<C: ConnectionTrait>(
    on: &C,
    new: NewOperation,
    by: &Author,
) -> Result<Operation, StoreError> {
    let NewOperation { id, tenant, kind, selection, rate, created_at } = new;
    let text = serde_json::to_string(&SelectionText::from(&selection));
    let text = text.map_err(|error| StoreError::unreadable("selection", error))?;
    let row = ActiveModel {
        id: Set(id.bytes()),
        tenant_num: Set(tenant.0),
        kind: Set(kind.code()),
        state: Set(OperationState::Counting.code()),
        selection: Set(text),
        rate_per_second: Set(rate.cast_signed()),
        matched: Set(0),
        success: Set(0),
        failed: Set(0),
        skipped: Set(0),
        error: Set(None),
        created_by: Set(by.who.to_string()),
        created_at: Set(created_at.0),
        started_at: Set(None),
        finished_at: Set(None),
        ..Default::default()
    };
    audit::enter(on, by, Deed::new(Action::CreateOperation, Some(tenant), id), created_at).await?;
    Operation::try_from(row.insert(on).await?)
}

/// Tells the tenant that the operation has ended. Call in the transaction that ends it.
async fn tell_of_end<C: ConnectionTrait>(
    on: &C,
    operation: OperationNum,
    previous: OperationState,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let Some(row) = Entity::find_by_id(operation.0).one(on).await? else { return Ok(()) };
    let Operation { id, tenant, kind, state, counts, error, created_by, .. } = Operation::try_from(row)?;
    let data = json!({
        "operationId": id, "kind": kind.as_str(), "previous": previous.as_str(),
        "current": state.as_str(), "matched": counts.matched, "done": counts.done(), "success": counts.success,
        "failed": counts.failed, "skipped": counts.skipped, "error": error, "createdBy": created_by,
    });
    let path = format!("/operations/{id}");
    let told = OperationalEvent::new(tenant, OperationalKind::OperationFinished, &path, data, now);
    Ok(operational_events::write(on, &told).await?)
}

/// Items that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDo {
    All,
    /// Those for which an attempt was asked for.
    AskedFor,
}

impl ToDo {
    fn condition(self) -> &'static str {
        match self {
            Self::All => "state = 0",
            Self::AskedFor => "state = 0 AND attempt IS NOT NULL",
        }
    }
}

/// What a person changes about an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationChange {
    Rate(u32),
    Pause,
    Resume,
    Cancel,
}

impl OperationChange {
    fn action(self) -> Action {
        match self {
            Self::Rate(_) => Action::UpdateOperation,
            Self::Pause => Action::PauseOperation,
            Self::Resume => Action::ResumeOperation,
            Self::Cancel => Action::CancelOperation,
        }
    }
}

/// Making and reading operations.
impl Store {
    pub async fn create_operation(
        &self,
        new: NewOperation,
        once: Option<Once>,
        by: &Author,
    ) -> Result<Operation, StoreError> {
        self.write(async |on| {
            self.remember(on, once, new.created_at).await?;
            insert(on, new, by).await
        })
        .await
    }

    pub async fn operation(&self, tenant: TenantNum, id: OperationId) -> Result<Option<Operation>, StoreError> {
        let found = Entity::find().filter(Column::TenantNum.eq(tenant.0)).filter(Column::Id.eq(id.bytes()));
        found.one(self.readers()).await?.map(Operation::try_from).transpose()
    }

    /// The operations of a tenant with numbers below `before`, newest first.
    pub async fn operations(
        &self,
        tenant: TenantNum,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Page<Operation>, StoreError> {
        let mut query = Entity::find().filter(Column::TenantNum.eq(tenant.0)).order_by_desc(Column::Num);
        if let Some(before) = before {
            query = query.filter(Column::Num.lt(before));
        }
        let statement = query.limit(limit + 1).build(self.backend());
        self.page_of::<Model, Operation>(("operation", "num"), statement, limit, Operation::try_from).await
    }

    /// Carries out a person's change. `None`: the operation has ended, or is not in a state in which the change makes
    /// sense.
    pub async fn change_operation(
        &self,
        operation: &Operation,
        change: OperationChange,
        now: UnixMillis,
        by: &Author,
    ) -> Result<Option<Operation>, StoreError> {
        self.write(async |on| {
            let found = Entity::find_by_id(operation.num.0).lock_exclusive().one(on).await?;
            let Some(row) = found else { return Ok(None) };
            let before = Operation::try_from(row.clone())?;
            let mut row = row.into_active_model();
            match (change, before.state) {
                (OperationChange::Rate(rate), state) if !state.is_final() => {
                    row.rate_per_second = Set(rate.cast_signed());
                }
                (OperationChange::Pause, OperationState::Running) => row.state = Set(OperationState::Paused.code()),
                (OperationChange::Resume, OperationState::Paused) => row.state = Set(OperationState::Running.code()),
                (OperationChange::Cancel, state) if !state.is_final() => {
                    row.state = Set(OperationState::Cancelled.code());
                }
                _ => return Ok(None),
            }
            let mut deed = Deed::new(change.action(), Some(before.tenant), before.id);
            if let OperationChange::Rate(rate) = change {
                let shown = |rate: u32| json!({"ratePerSecond": rate});
                let fields = audit::named(&[("ratePerSecond", rate != before.rate)]);
                deed = deed.of_fields(fields).with_values(&shown(before.rate), &shown(rate));
            }
            audit::enter(on, by, deed, now).await?;
            Operation::try_from(row.update(on).await?).map(Some)
        })
        .await
    }
}

/// Counting and carrying out.
impl Store {
    /// The operations that have not ended, oldest first. One that cannot be read is passed over.
    pub async fn open_operations(&self) -> Result<Vec<Operation>, StoreError> {
        let query = Entity::find().filter(Column::FinishedAt.is_null()).order_by_asc(Column::Num);
        let statement = query.build(self.backend());
        let rows: Vec<Model> = self.all_readable(self.engine_readers(), ("operation", &["num"]), statement).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            found.extend(self.if_readable("operation", row.num, Operation::try_from(row))?);
        }
        Ok(found)
    }

    /// Adds items, unless the operation has them already.
    pub async fn add_items(&self, operation: OperationNum, found: &[DeliveryId]) -> Result<(), StoreError> {
        let backend = self.backend();
        let keys: Vec<[i64; 2]> = found.iter().map(|id| [id.event.0, id.webhook.0]).collect();
        let rows = dialect::keys_as_rows(backend, ["event_seq", "webhook_num"]);
        let sql = format!(
            "INSERT INTO operation_item (operation, webhook_num, event_seq, state) \
             SELECT {}, k.webhook_num, k.event_seq, 0 FROM {rows} WHERE TRUE ON CONFLICT DO NOTHING",
            operation.0
        );
        let statement = Statement::from_sql_and_values(backend, sql, dialect::keys(backend, &keys));
        self.write(async |on| Ok(on.execute_raw(statement).await.map(drop)?)).await
    }

    /// All items are known: they are carried out from now on.
    pub async fn begin_running(&self, operation: OperationNum, now: UnixMillis) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE operation SET state = {}, started_at = $1, \
             matched = (SELECT COUNT(*) FROM operation_item WHERE operation = $2) WHERE num = $2 AND state = {}",
            OperationState::Running.code(),
            OperationState::Counting.code()
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, [now.0.into(), operation.0.into()]);
        self.write(async |on| Ok(on.execute_raw(statement).await.map(drop)?)).await
    }

    /// The operation cannot be carried out.
    pub async fn fail_operation(&self, operation: OperationNum, why: &str, now: UnixMillis) -> Result<(), StoreError> {
        self.write(async |on| {
            let failed = Entity::update_many()
                .col_expr(Column::State, Expr::value(OperationState::Failed.code()))
                .col_expr(Column::Error, Expr::value(why))
                .col_expr(Column::FinishedAt, Expr::value(now.0))
                .filter(Column::Num.eq(operation.0))
                .filter(Column::FinishedAt.is_null());
            if failed.exec(on).await?.rows_affected > 0 {
                tell_of_end(on, operation, OperationState::Counting, now).await?;
            }
            Ok(())
        })
        .await
    }

    /// Ends the operation if it runs and none of its items is to be done any more, or if it was cancelled and what it has
    /// asked for has ended. Answers whether it is done.
    pub async fn finish_operation(&self, operation: OperationNum, now: UnixMillis) -> Result<bool, StoreError> {
        let ends = |from: OperationState, to: OperationState, left: ToDo| {
            let sql = format!(
                "UPDATE operation SET state = {}, finished_at = $1 WHERE num = $2 AND state = {} AND finished_at IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM operation_item WHERE operation = $2 AND {})",
                to.code(),
                from.code(),
                left.condition()
            );
            Statement::from_sql_and_values(self.backend(), sql, [now.0.into(), operation.0.into()])
        };
        self.write(async |on| {
            let cancelled = ends(OperationState::Cancelled, OperationState::Cancelled, ToDo::AskedFor);
            let cancelled = on.execute_raw(cancelled).await?.rows_affected();
            let done = on.execute_raw(ends(OperationState::Running, OperationState::Done, ToDo::All)).await?;
            if cancelled + done.rows_affected() > 0 {
                tell_of_end(on, operation, OperationState::Running, now).await?;
            }
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    /// The webhooks for which the operation has items to do: all, or those that were asked for. A row that cannot be read
    /// is passed over.
    pub async fn webhooks_to_do(&self, operation: OperationNum, which: ToDo) -> Result<Vec<WebhookNum>, StoreError> {
        let to_do = format!("operation = $1 AND {}", which.condition());
        let sql = format!(
            "WITH RECURSIVE found(num) AS (\
                 SELECT MIN(webhook_num) FROM operation_item WHERE {to_do} \
                 UNION ALL SELECT (SELECT MIN(webhook_num) FROM operation_item \
                     WHERE {to_do} AND webhook_num > found.num) \
                 FROM found WHERE found.num IS NOT NULL) \
             SELECT num FROM found WHERE num IS NOT NULL"
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, [operation.0.into()]);
        let rows: Vec<NumRow> =
            self.all_readable(self.engine_readers(), ("operation_item", &["num"]), statement).await?;
        Ok(rows.into_iter().map(|row| WebhookNum(row.num)).collect())
    }

    /// Items of a webhook that are to be done, oldest event first, after `after`. A row that cannot be read is passed
    /// over.
    pub async fn items_to_do(
        &self,
        operation: OperationNum,
        webhook: WebhookNum,
        after: EventSeq,
        limit: u64,
    ) -> Result<Vec<EventSeq>, StoreError> {
        let sql = format!(
            "SELECT event_seq AS num FROM operation_item WHERE operation = $1 AND {} \
             AND webhook_num = $2 AND event_seq > $3 ORDER BY event_seq LIMIT $4",
            ToDo::All.condition()
        );
        let values = [operation.0.into(), webhook.0.into(), after.0.into(), limit.cast_signed().into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows: Vec<NumRow> =
            self.all_readable(self.engine_readers(), ("operation_item", &["num"]), statement).await?;
        Ok(rows.into_iter().map(|row| EventSeq(row.num)).collect())
    }

    /// The items for which an attempt was asked for and that have not ended. A row that cannot be read is passed over.
    pub async fn items_asked_for(&self, operation: OperationNum) -> Result<Vec<DeliveryId>, StoreError> {
        let sql = format!(
            "SELECT webhook_num, event_seq FROM operation_item WHERE operation = $1 AND {}",
            ToDo::AskedFor.condition()
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, [operation.0.into()]);
        let key = ("operation_item", &["webhook_num", "event_seq"][..]);
        let rows: Vec<KeyRow> = self.all_readable(self.engine_readers(), key, statement).await?;
        let id = |row: KeyRow| DeliveryId { event: EventSeq(row.event_seq), webhook: WebhookNum(row.webhook_num) };
        Ok(rows.into_iter().map(id).collect())
    }

    /// The items of these events to a webhook, with their deliveries. One that cannot be read is missing.
    pub async fn items(
        &self,
        operation: OperationNum,
        webhook: WebhookNum,
        events: &[EventSeq],
    ) -> Result<Vec<Item>, StoreError> {
        let backend = self.backend();
        let sql = format!(
            "SELECT i.webhook_num, i.event_seq, i.attempt, a.outcome, d.status, d.attempts, d.manual_from, d.operation \
             FROM operation_item i \
             LEFT JOIN delivery d ON d.event_seq = i.event_seq AND d.webhook_num = i.webhook_num \
             LEFT JOIN attempt a ON a.event_seq = i.event_seq AND a.webhook_num = i.webhook_num AND a.number = i.attempt \
             WHERE i.operation = $1 AND i.webhook_num = $2 AND {}",
            dialect::is_any_of(backend, "i.event_seq", "$3")
        );
        let events = dialect::numbers(backend, events.iter().map(|event| event.0));
        let statement = Statement::from_sql_and_values(backend, sql, [operation.0.into(), webhook.0.into(), events]);
        let key = ("operation_item", &["webhook_num", "event_seq"][..]);
        let rows: Vec<ItemRow> = self.all_readable(self.engine_readers(), key, statement).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let key = format!("{}/{}", webhook.0, row.event_seq);
            found.extend(self.if_readable("operation_item", key, Item::try_from(row))?);
        }
        Ok(found)
    }

    /// Which of these events have a delivery to the webhook.
    pub async fn delivered(&self, webhook: WebhookNum, events: &[EventSeq]) -> Result<Vec<EventSeq>, StoreError> {
        let backend = self.backend();
        let is_one = dialect::is_any_of(backend, "event_seq", "$2");
        let sql = format!("SELECT event_seq AS num FROM delivery WHERE webhook_num = $1 AND {is_one}");
        let events = dialect::numbers(backend, events.iter().map(|event| event.0));
        let statement = Statement::from_sql_and_values(backend, sql, [webhook.0.into(), events]);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| EventSeq(row.num)).collect())
    }

    /// Notes how items have ended, and counts those that had not ended before.
    pub async fn end_items(
        &self,
        operation: OperationNum,
        ended: &[(DeliveryId, ItemState)],
    ) -> Result<(), StoreError> {
        let backend = self.backend();
        let rows = dialect::keys_as_rows(backend, ["event_seq", "webhook_num"]);
        self.write(async |on| {
            for (state, column) in
                [(ItemState::Success, "success"), (ItemState::Failed, "failed"), (ItemState::Skipped, "skipped")]
            {
                let of_state = ended.iter().filter(|(_, of)| *of == state);
                let keys: Vec<[i64; 2]> = of_state.map(|(id, _)| [id.event.0, id.webhook.0]).collect();
                if keys.is_empty() {
                    continue;
                }
                let sql = format!(
                    "UPDATE operation_item SET state = {} WHERE operation = {} AND state = 0 \
                     AND (event_seq, webhook_num) IN (SELECT k.event_seq, k.webhook_num FROM {rows})",
                    state.code(),
                    operation.0
                );
                let statement = Statement::from_sql_and_values(backend, sql, dialect::keys(backend, &keys));
                let count = on.execute_raw(statement).await?.rows_affected().cast_signed();
                let sql = format!("UPDATE operation SET {column} = {column} + $1 WHERE num = $2");
                let values = [count.into(), operation.0.into()];
                on.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes items of operations that ended some time ago, a bounded number.
    pub async fn forget_old_items(&self, now: UnixMillis) -> Result<(), StoreError> {
        let sql = "SELECT num FROM operation WHERE finished_at < $1 \
                   AND EXISTS (SELECT 1 FROM operation_item i WHERE i.operation = operation.num) LIMIT 1";
        let values = [(now.0 - ITEMS_KEPT_MS).into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let Some(row) = NumRow::find_by_statement(statement).one(self.readers()).await? else { return Ok(()) };
        let key = "operation, webhook_num, event_seq";
        let sql = format!(
            "DELETE FROM operation_item WHERE ({key}) IN (SELECT {key} FROM operation_item WHERE operation = $1 \
             LIMIT {SWEEP})"
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, [row.num.into()]);
        self.write(async |on| Ok(on.execute_raw(statement).await.map(drop)?)).await
    }
}
