//! The audit log: who changed what, from where, and why. A change of configuration writes its row in its own
//! transaction. A row has the names of the changed fields, and the old and new values of those that are neither secret
//! nor long.
//!
//! An action that goes through the journal or an endpoint has no such transaction; its row is written before the action
//! begins. So no action lacks a row, but a row may describe an action that then failed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use entity::audit::{ActiveModel, Column, Entity, Model};
use entity::tenant;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::id::{KeyId, SessionId, TenantId, TenantNum};
use crate::domain::moment::UnixMillis;

use super::decode;
use super::dialect::is_one_of;
use super::page::LOOKS;
use super::{Page, Store, StoreError};

/// Maximum bytes of the values in one row: a list of rows has a bound, and a longer value is in the object anyway.
const LONGEST_CHANGES: usize = 4096;

/// Subjects per statement.
const SUBJECTS: usize = 500;

/// Who makes a change, from where, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub who: Who,
    pub peer: Option<IpAddr>,
    pub request: Option<String>,
    /// In the author's own words.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Key(KeyId),
    /// A browser session.
    Session(SessionId),
    /// The admin key of the configuration.
    Admin,
    /// A CLI command that works on the database itself.
    Command,
    /// The engine, on its own account.
    Engine,
}

impl Author {
    #[must_use]
    pub fn engine() -> Self {
        Self { who: Who::Engine, peer: None, request: None, reason: None }
    }

    #[must_use]
    pub fn command() -> Self {
        Self { who: Who::Command, peer: None, request: None, reason: None }
    }

    #[must_use]
    pub fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::Session(id) => id.fmt(f),
            Self::Admin => f.write_str("admin"),
            Self::Command => f.write_str("command"),
            Self::Engine => f.write_str("engine"),
        }
    }
}

macro_rules! actions {
    ($($name:ident $text:literal),* $(,)?) => {
        /// Actions on the configuration and on deliveries.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action {
            $($name),*
        }

        impl Action {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text),*
                }
            }
        }
    };
}

actions! {
    CreateTenant "tenant.create",
    UpdateTenant "tenant.update",
    DeleteTenant "tenant.delete",
    CreateKey "key.create",
    DeleteKey "key.delete",
    OpenSession "session.open",
    EndSession "session.end",
    CreateWebhook "webhook.create",
    UpdateWebhook "webhook.update",
    DeleteWebhook "webhook.delete",
    RotateSecret "webhook.rotate_secret",
    EndSecret "webhook.end_secret",
    PauseWebhook "webhook.pause",
    ResumeWebhook "webhook.resume",
    ProbeWebhook "webhook.probe",
    PurgeWebhook "webhook.purge",
    TestWebhook "webhook.test",
    CreateEventType "event_type.create",
    UpdateEventType "event_type.update",
    DeleteEventType "event_type.delete",
    ErasePayload "event.erase_payload",
    RetryDelivery "delivery.retry",
    CancelDelivery "delivery.cancel",
    CreateOperation "operation.create",
    UpdateOperation "operation.update",
    PauseOperation "operation.pause",
    ResumeOperation "operation.resume",
    CancelOperation "operation.cancel",
    RewrapSecrets "secrets.rewrap",
}

/// One action to record.
#[derive(Debug, Clone)]
pub struct Deed {
    pub action: Action,
    pub tenant: Option<TenantNum>,
    /// An id, or the name of an event type.
    pub subject: String,
    /// Names of the changed fields.
    pub fields: Vec<String>,
    /// Their old and new values, as far as they may be shown.
    pub changes: Changes,
}

/// By the names of the fields.
pub type Changes = BTreeMap<String, Change>;

/// The values of a field. Null if the field had none, or has none any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub from: Value,
    pub to: Value,
}

impl Deed {
    #[must_use]
    pub fn new(action: Action, tenant: Option<TenantNum>, subject: impl fmt::Display) -> Self {
        Self { action, tenant, subject: subject.to_string(), fields: Vec::new(), changes: Changes::new() }
    }

    #[must_use]
    pub(super) fn of_fields(self, fields: Vec<String>) -> Self {
        Self { fields, ..self }
    }

    /// Adds the values of the changed fields that `before` and `after` name, as many as a row may have.
    #[must_use]
    pub(super) fn with_values(mut self, before: &Value, after: &Value) -> Self {
        let mut room = LONGEST_CHANGES;
        for name in &self.fields {
            let (from, to) = (before.get(name), after.get(name));
            if from.is_none() && to.is_none() {
                continue;
            }
            let change = Change { from: from.cloned().unwrap_or_default(), to: to.cloned().unwrap_or_default() };
            let length = json!(change).to_string().len();
            if length <= room {
                room -= length;
                self.changes.insert(name.clone(), change);
            }
        }
        self
    }
}

/// An audit row as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub num: i64,
    pub at: UnixMillis,
    pub author: String,
    pub tenant: Option<TenantId>,
    pub action: String,
    pub subject: String,
    pub fields: Vec<String>,
    pub peer: Option<String>,
    pub request: Option<String>,
    pub reason: Option<String>,
    pub affected: Option<u64>,
    pub changes: Changes,
}

#[derive(Debug, FromQueryResult)]
struct TenantRow {
    num: i64,
    id: Vec<u8>,
}

/// Which rows to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// `None`: rows of every tenant, and rows that concern no tenant.
    pub tenant: Option<TenantNum>,
    pub action: Option<Action>,
    pub subject: Option<String>,
    pub since: Option<UnixMillis>,
    pub until: Option<UnixMillis>,
}

/// The names of the fields that changed.
pub(super) fn named(fields: &[(&str, bool)]) -> Vec<String> {
    fields.iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| (*name).to_owned()).collect()
}

/// Call in the transaction that makes the change.
pub(super) async fn enter<C: ConnectionTrait>(
    on: &C,
    by: &Author,
    deed: Deed,
    at: UnixMillis,
) -> Result<(), StoreError> {
    Entity::insert(row_of(by, deed, at)).exec_without_returning(on).await?;
    Ok(())
}

fn row_of(by: &Author, deed: Deed, at: UnixMillis) -> ActiveModel {
    let Deed { action, tenant, subject, fields, changes } = deed;
    ActiveModel {
        at: Set(at.0),
        author: Set(by.who.to_string()),
        tenant_num: Set(tenant.map(|tenant| tenant.0)),
        action: Set(action.as_str().to_owned()),
        subject: Set(subject),
        fields: Set(fields.join(",")),
        peer: Set(by.peer.map(|peer| peer.to_string())),
        request_id: Set(by.request.clone()),
        reason: Set(by.reason.clone()),
        changes: Set((!changes.is_empty()).then(|| json!(changes).to_string())),
        ..Default::default()
    }
}

/// An entry without its tenant, and the tenant's number.
pub(super) fn entry_of(row: Model) -> Result<(Option<i64>, Entry), StoreError> {
    let Model { num, at, author, tenant_num, action, subject, fields, peer, request_id, reason, affected, changes } =
        row;
    let changes = changes.map(|text| decode::json("changes", &text)).transpose()?.unwrap_or_default();
    let entry = Entry {
        num,
        at: UnixMillis(at),
        author,
        tenant: None,
        action,
        subject,
        fields: fields.split(',').filter(|field| !field.is_empty()).map(str::to_owned).collect(),
        peer,
        request: request_id,
        reason,
        affected: affected.map(i64::cast_unsigned),
        changes,
    };
    Ok((tenant_num, entry))
}

impl Store {
    /// Records an action that has no transaction of configuration. Call before the action begins.
    pub async fn enter(&self, by: &Author, deed: Deed) -> Result<(), StoreError> {
        self.write(async |on| enter(on, by, deed, UnixMillis::now()).await).await
    }

    /// The same for an action of which [`Store::note_affected`] says later how much it has changed. Returns the number
    /// of the row.
    pub async fn enter_begun(&self, by: &Author, deed: Deed) -> Result<i64, StoreError> {
        self.write(async |on| Ok(Entity::insert(row_of(by, deed, UnixMillis::now())).exec(on).await?.last_insert_id))
            .await
    }

    /// Notes how much an action has changed.
    pub async fn note_affected(&self, num: i64, affected: u64) -> Result<(), StoreError> {
        let affected = i64::try_from(affected).unwrap_or(i64::MAX);
        self.write(async |on| {
            let row =
                Entity::update_many().col_expr(Column::Affected, Expr::value(affected)).filter(Column::Num.eq(num));
            row.exec(on).await?;
            Ok(())
        })
        .await
    }

    /// Rows with numbers below `before`, newest first. With a filter that has no index (action, time), a page covers at
    /// most the next [`LOOKS`] rows.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Page<Entry>, StoreError> {
        let AuditFilter { tenant, action, subject, since, until } = filter;
        let bounds = [
            tenant.map(|tenant| match subject {
                None => Column::TenantNum.eq(tenant.0),
                // The `+` keeps SQLite from the tenant's index, by which it would read all rows of the tenant instead
                // of the few of the subject.
                Some(_) => Expr::cust("(+tenant_num)").eq(tenant.0),
            }),
            subject.as_ref().map(|subject| Column::Subject.eq(subject)),
            before.map(|before| Column::Num.lt(before)),
        ];
        let others = [
            action.map(|action| Column::Action.eq(action.as_str())),
            since.map(|since| Column::At.gte(since.0)),
            until.map(|until| Column::At.lt(until.0)),
        ];
        let within = bounds.into_iter().flatten().fold(Condition::all(), Condition::add);
        let mut query = Entity::find().filter(within.clone()).order_by_desc(Column::Num);
        let mut floor = None;
        if others.iter().any(Option::is_some) {
            floor = self.entry_after_looks(within).await?;
            query = query.filter(Column::Num.gte(floor.unwrap_or(i64::MIN)));
        }
        for condition in others.into_iter().flatten() {
            query = query.filter(condition);
        }
        let statement = query.limit(limit + 1).build(self.backend());
        let page = self.page_of::<Model, _>(("audit", "num"), statement, limit, entry_of).await?;
        let Page { items, next } = page.down_to(floor);
        let tenants = self.tenant_ids(items.iter().filter_map(|(tenant, _)| *tenant).collect()).await?;
        let with_tenant = |(tenant, entry): (Option<i64>, Entry)| {
            let tenant = tenants.iter().find(|(num, _)| Some(*num) == tenant).map(|(_, id)| *id);
            Entry { tenant, ..entry }
        };
        Ok(Page { items: items.into_iter().map(with_tenant).collect(), next })
    }

    /// The row after the first [`LOOKS`] rows of this condition; `None` if there are fewer.
    async fn entry_after_looks(&self, within: Condition) -> Result<Option<i64>, StoreError> {
        let query = Entity::find().select_only().column(Column::Num).filter(within).order_by_desc(Column::Num);
        Ok(query.offset(LOOKS).limit(1).into_tuple().one(self.readers()).await?)
    }

    /// The last author of this action for each of these subjects.
    pub async fn last_authors(
        &self,
        action: Action,
        subjects: &[String],
    ) -> Result<HashMap<String, String>, StoreError> {
        let mut authors = HashMap::with_capacity(subjects.len());
        for some in subjects.chunks(SUBJECTS) {
            let newest = Entity::find()
                .select_only()
                .expr(Column::Num.max())
                .filter(Column::Action.eq(action.as_str()))
                .filter(Column::Subject.is_in(some))
                .group_by(Column::Subject);
            let query = Entity::find().filter(Column::Num.in_subquery(newest.into_query()));
            let rows: Vec<Model> =
                self.all_readable(self.readers(), ("audit", &["num"]), query.build(self.backend())).await?;
            authors.extend(rows.into_iter().map(|row| (row.subject, row.author)));
        }
        Ok(authors)
    }

    /// The ids of these tenants, including deleted ones.
    pub async fn tenant_ids(&self, mut nums: Vec<i64>) -> Result<Vec<(i64, TenantId)>, StoreError> {
        nums.sort_unstable();
        nums.dedup();
        let query = tenant::Entity::find()
            .select_only()
            .columns([tenant::Column::Num, tenant::Column::Id])
            .filter(is_one_of(self.backend(), tenant::Column::Num, &nums));
        let rows: Vec<TenantRow> =
            self.all_readable(self.readers(), ("tenant", &["num"]), query.build(self.backend())).await?;
        // An audit row is shown even if its tenant's id cannot be read.
        Ok(rows.into_iter().filter_map(|TenantRow { num, id }| Some((num, TenantId::from_bytes(&id)?))).collect())
    }
}
