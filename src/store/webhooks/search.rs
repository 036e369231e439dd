//! Pages of the list of webhooks, by age or by name, and which webhooks are in trouble as far as rows tell.

use std::collections::HashMap;

use entity::webhook::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryResult, QueryTrait,
    Statement, Value,
};

use crate::domain::id::{TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::decode::{NumRow, json, webhook_id_of};
use crate::store::dialect::{is_any_of, is_one_of, numbers, then_join};
use crate::store::page::PAGE_BYTES;
use crate::store::unreadable::{UnreadableRow, webhook_id_in};
use crate::store::{Store, StoreError};

use super::{SIZE, UnreadableWebhook, Webhook};

/// Where a page of webhooks begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookPosition {
    /// Newest first: after this number.
    Created(WebhookNum),
    /// By tenant and name: after this webhook.
    Name { tenant: TenantNum, name: String, num: WebhookNum },
}

/// The order of a list of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookOrder {
    /// Newest first.
    Created,
    /// By name; over all tenants, tenant by tenant.
    Name,
}

/// Which webhooks a list is of.
#[derive(Debug, Clone)]
pub struct WebhookList {
    /// `None`: all tenants.
    pub tenant: Option<TenantNum>,
    pub order: WebhookOrder,
}

/// What a search looks at. A text that cannot be read is empty.
#[derive(Debug, Clone)]
pub struct WebhookEntry {
    pub num: WebhookNum,
    pub tenant: TenantNum,
    pub id: Option<WebhookId>,
    pub name: String,
    pub url: String,
    /// Subscriptions; `None` if they cannot be read.
    pub events: Option<Vec<String>>,
    pub is_active: bool,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    /// Bytes of the whole row.
    pub size: i64,
}

impl WebhookEntry {
    fn of(row: &QueryResult) -> Result<Self, StoreError> {
        let text = |column| row.try_get::<String>("", column).unwrap_or_default();
        let id = row.try_get::<Vec<u8>>("", "id").ok().and_then(|id| webhook_id_of(&id).ok());
        Ok(Self {
            num: WebhookNum(row.try_get("", "num")?),
            tenant: TenantNum(row.try_get("", "tenant_num")?),
            id,
            name: text("name"),
            url: text("url"),
            events: json("events", &text("events")).ok(),
            is_active: row.try_get("", "is_active")?,
            created_at: UnixMillis(row.try_get("", "created_at")?),
            updated_at: UnixMillis(row.try_get("", "updated_at")?),
            size: row.try_get("", "size").unwrap_or_default(),
        })
    }

    /// Where a page begins that follows this entry.
    #[must_use]
    pub fn position(&self, order: WebhookOrder) -> WebhookPosition {
        match order {
            WebhookOrder::Created => WebhookPosition::Created(self.num),
            WebhookOrder::Name => WebhookPosition::Name { tenant: self.tenant, name: self.name.clone(), num: self.num },
        }
    }
}

fn columns() -> String {
    format!("num, tenant_num, id, name, url, events, is_active, created_at, updated_at, {SIZE} AS size")
}

/// A statement under construction.
struct EntryQuery {
    sql: String,
    values: Vec<Value>,
}

impl EntryQuery {
    fn new() -> Self {
        Self { sql: format!("SELECT {} FROM webhook WHERE deleted_at IS NULL", columns()), values: Vec::new() }
    }

    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        let place = self.bind(value);
        self.sql.push_str(&format!(" AND {condition} {place}"));
    }

    fn after(&mut self, tenant: Option<TenantNum>, after: &WebhookPosition) {
        match after {
            WebhookPosition::Created(num) => self.and("num <", num.0),
            WebhookPosition::Name { tenant: last, name, num } => {
                let places = [self.bind(last.0), self.bind(name.clone()), self.bind(num.0)];
                let [last, name, num] = places;
                self.sql.push_str(&match tenant {
                    Some(_) => format!(" AND tenant_num = {last} AND (name, num) > ({name}, {num})"),
                    None => format!(" AND (tenant_num, name, num) > ({last}, {name}, {num})"),
                });
            }
        }
    }

    fn statement(mut self, backend: DbBackend, order: WebhookOrder, limit: u64) -> Statement {
        let limit = self.bind(limit.cast_signed());
        let order = match order {
            WebhookOrder::Created => "num DESC",
            WebhookOrder::Name => "tenant_num, name, num",
        };
        Statement::from_sql_and_values(backend, format!("{} ORDER BY {order} LIMIT {limit}", self.sql), self.values)
    }
}

/// A page that is being filled, bounded in items and in bytes.
#[derive(Debug)]
pub struct PageDraft {
    limit: usize,
    chosen: Vec<WebhookNum>,
    bytes: i64,
    /// Where the next page begins if this one is full.
    last: Option<WebhookPosition>,
}

impl PageDraft {
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { limit, chosen: Vec::new(), bytes: 0, last: None }
    }

    /// Takes entries in the order of the list. Answers whether there was room for all.
    pub fn take(&mut self, entries: Vec<WebhookEntry>, order: WebhookOrder) -> bool {
        for entry in entries {
            self.bytes += entry.size;
            if self.chosen.len() >= self.limit || !self.chosen.is_empty() && self.bytes > PAGE_BYTES {
                return false;
            }
            self.chosen.push(entry.num);
            self.last = Some(entry.position(order));
        }
        true
    }

    /// The webhooks of the page, and where the next page begins if this one is full.
    #[must_use]
    pub fn finish(self) -> (Vec<WebhookNum>, Option<WebhookPosition>) {
        (self.chosen, self.last)
    }
}

/// Webhooks of which this moment of their health is set, the longest ago first.
fn since_sql(backend: DbBackend, moment: &str, tenant: Option<TenantNum>) -> String {
    let (then_join, of_tenant) = (then_join(backend), if tenant.is_some() { "AND w.tenant_num = $2" } else { "" });
    format!(
        "SELECT h.webhook_num AS num FROM endpoint_health h {then_join} webhook w ON w.num = h.webhook_num \
         WHERE h.{moment} IS NOT NULL AND w.deleted_at IS NULL {of_tenant} ORDER BY h.{moment}, h.webhook_num LIMIT $1"
    )
}

impl Store {
    /// The next entries of a list after `after`, at most `most`.
    pub async fn webhook_entries(
        &self,
        list: &WebhookList,
        after: Option<&WebhookPosition>,
        most: u64,
    ) -> Result<Vec<WebhookEntry>, StoreError> {
        let mut query = EntryQuery::new();
        if let Some(tenant) = list.tenant {
            query.and("tenant_num =", tenant.0);
        }
        if let Some(after) = after {
            query.after(list.tenant, after);
        }
        self.entries(query.statement(self.backend(), list.order, most)).await
    }

    /// The entries of these webhooks, as far as these are not deleted.
    pub async fn webhook_entries_of(&self, nums: &[WebhookNum]) -> Result<Vec<WebhookEntry>, StoreError> {
        let backend = self.backend();
        let sql = format!(
            "SELECT {} FROM webhook WHERE {} AND deleted_at IS NULL",
            columns(),
            is_any_of(backend, "num", "$1")
        );
        let nums = numbers(backend, nums.iter().map(|num| num.0));
        self.entries(Statement::from_sql_and_values(backend, sql, [nums])).await
    }

    async fn entries(&self, statement: Statement) -> Result<Vec<WebhookEntry>, StoreError> {
        let rows = self.readers().query_all_raw(statement).await?;
        let entry =
            |row: &QueryResult| WebhookEntry::of(row).inspect_err(|error| self.pass_over_webhook(row, error)).ok();
        Ok(rows.iter().filter_map(entry).collect())
    }

    /// These webhooks in this order, also those that cannot be read. Deleted ones are missing.
    pub async fn webhooks(&self, nums: &[WebhookNum]) -> Result<Vec<Result<Webhook, UnreadableWebhook>>, StoreError> {
        let chosen: Vec<i64> = nums.iter().map(|num| num.0).collect();
        let query =
            Entity::find().filter(is_one_of(self.backend(), Column::Num, &chosen)).filter(Column::DeletedAt.is_null());
        let rows = self.readers().query_all_raw(query.build(self.backend())).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let num = WebhookNum(row.try_get("", "num")?);
            let webhook = match self.webhook_in(row) {
                Ok(webhook) => Ok(webhook),
                Err(error @ StoreError::Unreadable { .. }) => {
                    let (id, name) = (webhook_id_in(row), row.try_get("", "name").ok());
                    Err(UnreadableWebhook { id, name, row: UnreadableRow::of_webhook(num, &error) })
                }
                Err(error) => return Err(error),
            };
            found.insert(num, webhook);
        }
        Ok(nums.iter().filter_map(|num| found.remove(num)).collect())
    }

    /// Webhooks that are suspended, the longest first, at most `most`.
    pub async fn suspended_webhooks(
        &self,
        tenant: Option<TenantNum>,
        most: u64,
    ) -> Result<Vec<WebhookNum>, StoreError> {
        self.nums(since_sql(self.backend(), "suspended_at", tenant), tenant, most).await
    }

    /// Webhooks whose receivers have only failed lately, the longest first, at most `most`.
    pub async fn failing_webhooks(&self, tenant: Option<TenantNum>, most: u64) -> Result<Vec<WebhookNum>, StoreError> {
        self.nums(since_sql(self.backend(), "failing_since", tenant), tenant, most).await
    }

    async fn nums(&self, sql: String, tenant: Option<TenantNum>, most: u64) -> Result<Vec<WebhookNum>, StoreError> {
        let values = std::iter::once(most.cast_signed().into()).chain(tenant.map(|tenant| Value::from(tenant.0)));
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = NumRow::find_by_statement(statement).all(self.readers()).await?;
        Ok(rows.into_iter().map(|row| WebhookNum(row.num)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(num: i64, size: i64) -> WebhookEntry {
        WebhookEntry {
            num: WebhookNum(num),
            tenant: TenantNum(1),
            id: None,
            name: String::new(),
            url: String::new(),
            events: None,
            is_active: true,
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            size,
        }
    }

    /// How many webhooks a page has, and after which the next one begins; `None` if it had room for all.
    fn page(sizes: &[i64], limit: u64) -> (usize, Option<i64>) {
        let mut draft = PageDraft::new(limit);
        let entries = (1..).zip(sizes).map(|(num, size)| entry(num, *size)).collect();
        let has_room = draft.take(entries, WebhookOrder::Created);
        let (nums, last) = draft.finish();
        let last = last.map(|last| match last {
            WebhookPosition::Created(num) => num.0,
            WebhookPosition::Name { .. } => panic!("{last:?}"),
        });
        (nums.len(), last.filter(|_| !has_room))
    }

    #[test]
    fn a_page_ends_by_number_or_by_bytes_and_goes_on_after_its_last_row() {
        assert_eq!(page(&[], 3), (0, None));
        assert_eq!(page(&[1, 1, 1], 3), (3, None));
        assert_eq!(page(&[1, 1, 1, 1], 3), (3, Some(3)));
        assert_eq!(page(&[PAGE_BYTES - 1, 1, 1], 3), (2, Some(2)));
        assert_eq!(page(&[PAGE_BYTES / 2, PAGE_BYTES], 3), (1, Some(1)));
    }

    #[test]
    fn a_row_that_is_larger_than_a_page_has_one_of_its_own() {
        assert_eq!(page(&[2 * PAGE_BYTES, 1], 3), (1, Some(1)));
        assert_eq!(page(&[2 * PAGE_BYTES], 3), (1, None));
        assert_eq!(page(&[1, 2 * PAGE_BYTES], 3), (1, Some(1)));
    }
}
