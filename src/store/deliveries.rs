//! Deliveries and attempts, read. The journal writes them.

mod attempts;
mod head;
mod list;

use std::sync::Arc;

use sea_orm::{DbBackend, EntityTrait, FromQueryResult, Statement, Value};

use crate::clock::UnixMillis;
use crate::id::{DeliveryId, EventSeq, TenantNum, WebhookId, WebhookNum};

use super::bodies::READ_BYTES;
use super::events::{Body, Event};
use super::leases::{Holding, STARTED};
use super::payload::LARGE;
use super::webhooks::webhook_id_of;
use super::{Store, StoreError, dialect, payload};

use self::list::{ListQuery, Source};

pub(super) use self::attempts::attempt_of;
pub use self::attempts::{LISTED_BODY, LastAttempt};
pub use self::head::{COUNTED, Head};
pub use self::list::RowPage;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    Success,
    Failed,
    Cancelled,
}

impl Status {
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Success => 1,
            Self::Failed => 2,
            Self::Cancelled => 3,
        }
    }

    fn from_code(code: i16) -> Result<Self, StoreError> {
        match code {
            0 => Ok(Self::Pending),
            1 => Ok(Self::Success),
            2 => Ok(Self::Failed),
            3 => Ok(Self::Cancelled),
            other => Err(StoreError::unreadable("delivery status", other)),
        }
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    Scheduled,
    Retry,
    Manual,
    Test,
    /// A request before it may have been cut short by a crash.
    Recovery,
}

impl Trigger {
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Scheduled => 0,
            Self::Retry => 1,
            Self::Manual => 2,
            Self::Test => 3,
            Self::Recovery => 4,
        }
    }

    fn from_code(code: i16) -> Result<Self, StoreError> {
        match code {
            0 => Ok(Self::Scheduled),
            1 => Ok(Self::Retry),
            2 => Ok(Self::Manual),
            3 => Ok(Self::Test),
            4 => Ok(Self::Recovery),
            other => Err(StoreError::unreadable("attempt trigger", other)),
        }
    }
}

/// The part of a delivery that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryState {
    pub status: Status,
    /// Requests made, of any kind.
    pub attempts: u16,
    /// Automatic requests made; only these count against the policy.
    pub tries: u16,
    pub next_at: Option<UnixMillis>,
    pub settled_at: Option<UnixMillis>,
    /// Set while a manual retry is wanted: what to fall back to if it fails.
    pub manual: Option<Fallback>,
}

impl DeliveryState {
    /// Nothing was sent yet; `next_at` is known once there is a row.
    #[must_use]
    pub fn pending(next_at: Option<UnixMillis>) -> Self {
        Self { status: Status::Pending, attempts: 0, tries: 0, next_at, settled_at: None, manual: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    pub status: Status,
    pub next_at: Option<UnixMillis>,
}

/// A delivery as it is listed.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub webhook_id: WebhookId,
    pub kind: String,
    pub state: DeliveryState,
    pub last: Option<LastAttempt>,
}

/// One request made for a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub number: u16,
    pub trigger: Trigger,
    pub started_at: UnixMillis,
    pub duration_us: u32,
    /// Until the answer's head.
    pub head_us: Option<u32>,
    pub status_code: Option<u16>,
    /// The outcome's code; what it means is not the store's business.
    pub outcome: i16,
    pub error: Option<String>,
    pub response_headers: Vec<(String, String)>,
    pub response_body: Vec<u8>,
}

/// A pending delivery with all that is needed to make an attempt.
#[derive(Debug, Clone)]
pub struct Due {
    pub event: Arc<Event>,
    pub state: DeliveryState,
}

/// Which pending deliveries of a webhook are to be read.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Those that fall due by then.
    pub horizon: UnixMillis,
    /// In the order of publishing, and then whatever their due time.
    pub ordered: bool,
    pub limit: usize,
    /// Whoever asks has these.
    pub known: &'a [EventSeq],
}

/// A stretch of a webhook's pending deliveries.
#[derive(Debug, Clone)]
pub struct DueRows {
    pub rows: Vec<Due>,
    /// When the first one after these falls due; `None` when there is none.
    pub next: Option<UnixMillis>,
}

/// Which deliveries a list shows.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    pub webhook: Option<WebhookNum>,
    pub event: Option<EventSeq>,
    pub status: Option<Status>,
    /// Of the last attempt: the outcome's code.
    pub outcome: Option<i16>,
    /// Of the last attempt.
    pub status_code: Option<u16>,
    pub kind: Option<String>,
    pub since: Option<UnixMillis>,
    pub until: Option<UnixMillis>,
}

#[derive(Debug, FromQueryResult)]
struct DeliveryRow {
    event_seq: i64,
    webhook_num: i64,
    webhook_id: Vec<u8>,
    kind: String,
    status: i16,
    attempts: i16,
    tries: i16,
    next_at: Option<i64>,
    settled_at: Option<i64>,
    manual_from: Option<i16>,
    manual_next_at: Option<i64>,
}

#[derive(Debug, FromQueryResult)]
struct DueRow {
    /// How many there are with those that were left out for their size.
    found: i64,
    event_seq: i64,
    tenant_num: i64,
    kind: String,
    body: Option<Vec<u8>>,
    trail: Option<String>,
    size: i64,
    status: i16,
    attempts: i16,
    tries: i16,
    next_at: Option<i64>,
    settled_at: Option<i64>,
    manual_from: Option<i16>,
    manual_next_at: Option<i64>,
    started: Option<String>,
}

#[derive(Debug, FromQueryResult)]
struct NumRow {
    num: i64,
}

/// Names a row that cannot be read.
const DELIVERY: (&str, &[&str]) = ("delivery", &["event_seq"]);

const DUE_COLUMNS: &str = "d.event_seq, d.status, d.attempts, d.tries, d.next_at, d.settled_at, d.manual_from, \
                           d.manual_next_at";

/// The body of event `e` unless it is large, its size, and its trail.
fn body_columns() -> String {
    format!(
        "CASE WHEN OCTET_LENGTH(e.body) <= {LARGE} THEN e.body END AS body, CAST(OCTET_LENGTH(e.body) AS BIGINT) AS size, e.trail"
    )
}

/// What is needed to send the pending deliveries of webhook `$1`, `$2` at most and none of `$3`. The sizes of all are looked
/// up before the bodies of those that fit are read. Large ones are not among them.
fn due_sql(backend: DbBackend, which: &str, order: &str) -> String {
    let is_unknown = dialect::is_none_of(backend, "d.event_seq", "$3");
    format!(
        "WITH due AS (SELECT {DUE_COLUMNS} FROM delivery d WHERE d.status = 0 AND d.webhook_num = $1 AND {is_unknown} \
         {which} \
         ORDER BY {order} LIMIT $2), \
         sized AS (SELECT d.*, CASE WHEN OCTET_LENGTH(e.body) <= {LARGE} THEN OCTET_LENGTH(e.body) ELSE 0 END AS takes \
         FROM due d JOIN event e ON e.seq = d.event_seq), \
         summed AS (SELECT sized.*, COUNT(*) OVER () AS found, \
         SUM(takes) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS up_to FROM sized) \
         SELECT {DUE_COLUMNS}, d.found, e.tenant_num, e.kind, {}, {} \
         FROM summed d JOIN event e ON e.seq = d.event_seq WHERE d.up_to <= {READ_BYTES} ORDER BY {order}",
        body_columns(),
        server_column(backend)
    )
}

/// When the server was started that answers, where there may be another one.
fn server_column(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => STARTED,
        _ => "NULL AS started",
    }
}

/// What another server says of rows is not what this node has seen of them: it was sent already, perhaps.
fn of_known_server(holding: &Holding, row: Option<&DueRow>) -> Result<(), StoreError> {
    match row.and_then(|row| row.started.as_deref()) {
        Some(started) if holding.server_started().is_some_and(|known| known != started) => {
            Err(StoreError::Database("another server has answered".to_owned()))
        }
        Some(_) | None => Ok(()),
    }
}

impl Store {
    /// One delivery if it has a row.
    pub async fn delivery(&self, tenant: TenantNum, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let mut query = ListQuery::new(self.backend(), Source::Delivery, tenant);
        query.and("d.event_seq =", id.event.0);
        query.and("d.webhook_num =", id.webhook.0);
        let rows = self.all_readable(self.readers(), DELIVERY, query.statement("d.event_seq", 1)).await?;
        Ok(self.with_last_attempts(rows).await?.pop())
    }

    /// Whether anybody has recorded anything of this delivery.
    pub async fn has_row(&self, id: DeliveryId) -> Result<bool, StoreError> {
        use entity::delivery::Entity;
        Ok(Entity::find_by_id((id.event.0, id.webhook.0)).one(self.readers()).await?.is_some())
    }

    /// Deliveries of an event by ascending webhook number, after `after`.
    pub async fn deliveries_of_event(
        &self,
        tenant: TenantNum,
        event: EventSeq,
        after: WebhookNum,
        limit: u64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut query = ListQuery::new(self.backend(), Source::Delivery, tenant);
        query.and("d.event_seq =", event.0);
        query.and("d.webhook_num >", after.0);
        let rows = self.all_readable(self.readers(), DELIVERY, query.statement("d.webhook_num", limit)).await?;
        self.with_last_attempts(rows).await
    }

    async fn with_last_attempts(&self, rows: Vec<DeliveryRow>) -> Result<Vec<Delivery>, StoreError> {
        let mut deliveries = Vec::with_capacity(rows.len());
        for row in rows {
            let key = format!("{}/{}", row.event_seq, row.webhook_num);
            deliveries.extend(self.if_readable("delivery", key, delivery_of(row))?);
        }
        let made = deliveries.iter().map(|delivery| (delivery.id, delivery.state.attempts));
        let keys: Vec<_> = made.filter(|(_, attempts)| *attempts > 0).collect();
        let mut last = self.last_attempts(&keys).await?;
        for delivery in &mut deliveries {
            delivery.last = last.remove(&delivery.id);
        }
        Ok(deliveries)
    }

    /// Pending deliveries of a webhook, earliest first. They bring no more than 4 MiB of bodies into memory.
    pub async fn due(&self, holding: &Holding, webhook: WebhookNum, wanted: Wanted<'_>) -> Result<DueRows, StoreError> {
        let Wanted { horizon, ordered, limit, known } = wanted;
        let backend = self.backend();
        let most: Value = i64::try_from(limit).unwrap_or(i64::MAX).into();
        let known = dialect::numbers(backend, known.iter().map(|event| event.0));
        let (which, order, values) = match ordered {
            true => ("", "event_seq", vec![webhook.0.into(), most, known]),
            false => {
                ("AND d.next_at <= $4", "next_at, event_seq", vec![webhook.0.into(), most, known, horizon.0.into()])
            }
        };
        let statement = Statement::from_sql_and_values(backend, due_sql(backend, which, order), values);
        let rows: Vec<DueRow> = self.all_readable(self.engine_readers(), DELIVERY, statement).await?;
        of_known_server(holding, rows.first())?;
        let found = rows.first().map_or(0, |row| usize::try_from(row.found).unwrap_or(usize::MAX));
        let next = match rows.last() {
            Some(last) if found >= limit || rows.len() < found => last.next_at.map(UnixMillis),
            _ if ordered => None,
            _ => self.first_due_after(webhook, horizon).await?,
        };
        let (read, rows) = (rows.len(), rows.into_iter().filter_map(|row| readable(self, row)).collect::<Vec<Due>>());
        if read > 0 && rows.is_empty() && found >= limit {
            return Err(StoreError::unreadable("deliveries", "none of those that are due can be read"));
        }
        Ok(DueRows { rows, next })
    }

    /// One pending delivery, whenever it is due.
    pub async fn due_one(&self, holding: &Holding, id: DeliveryId) -> Result<Option<Due>, StoreError> {
        let sql = format!(
            "SELECT {DUE_COLUMNS}, CAST(1 AS BIGINT) AS found, e.tenant_num, e.kind, {}, {} FROM delivery d \
             JOIN event e ON e.seq = d.event_seq WHERE d.event_seq = $1 AND d.webhook_num = $2 AND d.status = 0",
            body_columns(),
            server_column(self.backend())
        );
        let values = [id.event.0.into(), id.webhook.0.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let row = DueRow::find_by_statement(statement).one(self.engine_readers()).await?;
        of_known_server(holding, row.as_ref())?;
        row.map(|row| due_of(self, row)).transpose()
    }

    async fn first_due_after(&self, webhook: WebhookNum, after: UnixMillis) -> Result<Option<UnixMillis>, StoreError> {
        let sql = "SELECT next_at AS num FROM delivery WHERE status = 0 AND webhook_num = $1 AND next_at > $2 \
                   ORDER BY next_at LIMIT 1";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [webhook.0.into(), after.0.into()]);
        let row = NumRow::find_by_statement(statement).one(self.engine_readers()).await?;
        Ok(row.map(|row| UnixMillis(row.num)))
    }

    /// Active webhooks with a delivery that falls due by `horizon`, and deleted ones with any that is pending. Hops from one webhook to the next through the
    /// index of due rows, so the cost grows with the webhooks that have a backlog and not with its length.
    pub async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>, StoreError> {
        let sql = "WITH RECURSIVE owed(num) AS ( \
                     SELECT MIN(webhook_num) FROM delivery WHERE status = 0 \
                     UNION ALL \
                     SELECT (SELECT MIN(webhook_num) FROM delivery WHERE status = 0 AND webhook_num > owed.num) \
                     FROM owed WHERE owed.num IS NOT NULL \
                   ) \
                   SELECT owed.num AS num FROM owed JOIN webhook w ON w.num = owed.num \
                   WHERE w.deleted_at IS NOT NULL OR (w.is_active AND w.paused_at IS NULL AND $1 >= ( \
                     SELECT MIN(next_at) FROM delivery WHERE status = 0 AND webhook_num = owed.num))";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [horizon.0.into()]);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| WebhookNum(row.num)).collect())
    }

    /// Webhooks that already have a row for this event.
    pub async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>, StoreError> {
        let sql = "SELECT webhook_num AS num FROM delivery WHERE event_seq = $1 ORDER BY webhook_num";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [event.0.into()]);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| WebhookNum(row.num)).collect())
    }
}

fn number(what: &'static str, value: i16) -> Result<u16, StoreError> {
    u16::try_from(value).map_err(|error| StoreError::unreadable(what, error))
}

fn state_of(
    (status, attempts, tries): (i16, i16, i16),
    (next_at, settled_at): (Option<i64>, Option<i64>),
    (manual_from, manual_next_at): (Option<i16>, Option<i64>),
) -> Result<DeliveryState, StoreError> {
    let manual = manual_from
        .map(|from| {
            Ok::<_, StoreError>(Fallback { status: Status::from_code(from)?, next_at: manual_next_at.map(UnixMillis) })
        })
        .transpose()?;
    Ok(DeliveryState {
        status: Status::from_code(status)?,
        attempts: number("attempts", attempts)?,
        tries: number("tries", tries)?,
        next_at: next_at.map(UnixMillis),
        settled_at: settled_at.map(UnixMillis),
        manual,
    })
}

/// Without its last attempt.
/// What a row says of its delivery.
pub(super) fn state_of_row(row: &entity::delivery::Model) -> Result<DeliveryState, StoreError> {
    let counts = (row.status, row.attempts, row.tries);
    state_of(counts, (row.next_at, row.settled_at), (row.manual_from, row.manual_next_at))
}

fn delivery_of(row: DeliveryRow) -> Result<Delivery, StoreError> {
    let DeliveryRow { event_seq, webhook_num, webhook_id, kind, status, attempts, tries, next_at, settled_at, .. } =
        row;
    let counts = (status, attempts, tries);
    let state = state_of(counts, (next_at, settled_at), (row.manual_from, row.manual_next_at))?;
    let webhook_id = webhook_id_of(&webhook_id)?;
    let id = DeliveryId { event: EventSeq(event_seq), webhook: WebhookNum(webhook_num) };
    Ok(Delivery { id, webhook_id, kind, state, last: None })
}

/// One that cannot be read keeps no other from being sent.
fn readable(store: &Store, row: DueRow) -> Option<Due> {
    let event = row.event_seq;
    due_of(store, row).inspect_err(|error| store.pass_over("delivery", event, error)).ok()
}

fn due_of(store: &Store, row: DueRow) -> Result<Due, StoreError> {
    let DueRow { event_seq, tenant_num, kind, body, trail, size, status, attempts, tries, next_at, settled_at, .. } =
        row;
    let counts = (status, attempts, tries);
    let state = state_of(counts, (next_at, settled_at), (row.manual_from, row.manual_next_at))?;
    let (seq, tenant) = (EventSeq(event_seq), TenantNum(tenant_num));
    let body = match body {
        Some(body) => Body::InMemory(payload::counted(body)),
        None => Body::Stored { bytes: usize::try_from(size).unwrap_or(usize::MAX) },
    };
    Ok(Due { event: store.share(Event { seq, tenant, kind, body, trail: trail.map(Into::into) }), state })
}
