//! Rows that cannot be read: passes over each row, logs it once, and counts it, so that it stops nothing else.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};

use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, FromQueryResult, QueryResult, Statement, TryGetable};

use crate::domain::id::{WebhookId, WebhookNum};

use super::{Page, Store, StoreError};

/// Tables whose rows may be passed over. Each has a count from the start, so that an alert sees a zero before it sees a
/// one.
const TABLES: [&str; 12] = [
    "api_key",
    "attempt",
    "audit",
    "delivery",
    "endpoint_health",
    "event",
    "event_type",
    "fanout",
    "shard",
    "tenant",
    "webhook",
    "webhook_secret",
];

/// Rows that are remembered as logged. A database with more of them is damaged as a whole and has said so often enough.
const MOST: usize = 10_000;

/// A row that cannot be read: where an operator finds it. The log and `posthaste check` say why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRow {
    pub table: &'static str,
    /// The values of the key columns.
    pub key: String,
    /// `None` if the error does not name one.
    pub column: Option<Cow<'static, str>>,
}

impl UnreadableRow {
    /// The row that the error names, or else the webhook's own.
    pub(crate) fn of_webhook(num: WebhookNum, error: &StoreError) -> Self {
        match error {
            StoreError::Unreadable { row: Some(row), .. } => row.clone(),
            _ => Self { table: "webhook", key: num.0.to_string(), column: None },
        }
    }
}

impl fmt::Display for UnreadableRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, key, column } = self;
        write!(f, "row {key} of the table `{table}`")?;
        column.as_ref().map_or(Ok(()), |column| write!(f, " (column `{column}`)"))
    }
}

/// The rows passed over since the start.
#[derive(Default)]
pub(super) struct Unreadable(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    rows: HashSet<(&'static str, String)>,
    counts: BTreeMap<&'static str, u64>,
}

impl Unreadable {
    /// Returns whether the row is to be logged: it is new, and there are fewer than [`MOST`].
    fn is_new(&self, table: &'static str, key: &str) -> bool {
        let mut seen = self.0.lock();
        if seen.rows.len() >= MOST || !seen.rows.insert((table, key.to_owned())) {
            return false;
        }
        *seen.counts.entry(table).or_default() += 1;
        true
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts: BTreeMap<&'static str, u64> = TABLES.into_iter().map(|table| (table, 0)).collect();
        counts.extend(&self.0.lock().counts);
        counts.into_iter().collect()
    }
}

impl Store {
    /// Logs and counts a row that cannot be read; everything else goes on without it.
    pub(super) fn pass_over(&self, table: &'static str, key: impl Display, why: impl Display) {
        let key = key.to_string();
        if self.inner.unreadable.is_new(table, &key) {
            tracing::error!(table, key, error = %why, "a row cannot be read; it is passed over");
        }
    }

    /// The same for a row of a webhook. It has the column `num`, and `id`, the public id.
    pub(super) fn pass_over_webhook(&self, row: &QueryResult, why: impl Display) {
        let key = key_of(row, &["num"]);
        if self.inner.unreadable.is_new("webhook", &key) {
            let webhook = webhook_id_in(row).map(tracing::field::display);
            tracing::error!(table = "webhook", key, webhook, error = %why, "a row cannot be read; it is passed over");
        }
    }

    /// How many different rows could not be read since the start, by table.
    #[must_use]
    pub fn unreadable_rows(&self) -> Vec<(&'static str, u64)> {
        self.inner.unreadable.counts()
    }

    /// The row that a statement finds, if any. A row that cannot be read is passed over, and is an error to the caller,
    /// who asked for nothing else.
    pub(super) async fn one_of<R: FromQueryResult, T>(
        &self,
        (table, key): (&'static str, &[&str]),
        statement: Statement,
        read: impl FnOnce(R) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(row) = self.readers().query_one_raw(statement).await? else { return Ok(None) };
        let value = R::from_query_result(&row, "").map_err(StoreError::from).and_then(read);
        if let Err(error @ StoreError::Unreadable { .. }) = &value {
            self.pass_over(table, key_of(&row, key), error);
        }
        value.map(Some).map_err(|error| error.in_row(table, key_of(&row, key)))
    }

    /// The value, or `None` if its row cannot be read. Any other error stays an error.
    pub(super) fn if_readable<T>(
        &self,
        table: &'static str,
        key: impl Display,
        value: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(error @ StoreError::Unreadable { .. }) => {
                self.pass_over(table, key, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A page from a statement that asks for one row more than `limit`, without the rows that cannot be read. `key`:
    /// the column that orders the rows.
    pub(super) async fn page_of<R: FromQueryResult, T>(
        &self,
        (table, key): (&'static str, &str),
        statement: Statement,
        limit: u64,
        read: impl Fn(R) -> Result<T, StoreError>,
    ) -> Result<Page<T>, StoreError> {
        let mut rows = self.readers().query_all_raw(statement).await?;
        let found = rows.len();
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let position = |row: &QueryResult| row.try_get::<i64>("", key).ok();
        let next = if found > rows.len() { rows.iter().rev().find_map(position) } else { None };
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            let item = R::from_query_result(row, "").map_err(StoreError::from).and_then(&read);
            items.extend(self.if_readable(table, key_of(row, &[key]), item)?);
        }
        Ok(Page { items, next })
    }

    /// The rows of a statement that can be read. `key`: the columns that name the others.
    pub(super) async fn all_readable<T: FromQueryResult, C: ConnectionTrait>(
        &self,
        on: &C,
        (table, key): (&'static str, &[&str]),
        statement: Statement,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.readable(table, key, &on.query_all_raw(statement).await?))
    }

    /// The rows that can be read. `key`: the columns that name the others.
    pub(super) fn readable<T: FromQueryResult>(
        &self,
        table: &'static str,
        key: &[&str],
        rows: &[QueryResult],
    ) -> Vec<T> {
        let read = |row: &QueryResult| {
            T::from_query_result(row, "").inspect_err(|error| self.pass_over(table, key_of(row, key), error)).ok()
        };
        rows.iter().filter_map(read).collect()
    }
}

/// Whether the damage in a row that is joined with an event is the event's.
pub(super) fn is_damage_of_event(row: &QueryResult) -> bool {
    is_damaged::<Option<String>>(row, "kind")
        || is_damaged::<Option<i64>>(row, "tenant_num")
        || is_damaged::<Option<String>>(row, "trail")
        || is_damaged::<Option<Vec<u8>>>(row, "body")
}

/// Whether the column exists and cannot be read.
pub(super) fn is_damaged<T: TryGetable>(row: &QueryResult, column: &str) -> bool {
    matches!(row.try_get::<T>("", column).map_err(StoreError::from), Err(StoreError::Unreadable { .. }))
}

/// The public id of a webhook, if its row can tell it.
pub(super) fn webhook_id_in(row: &QueryResult) -> Option<WebhookId> {
    row.try_get::<Vec<u8>>("", "id").ok().and_then(|id| WebhookId::from_bytes(&id))
}

/// The values of these columns as text; `?` for one that cannot be read either.
pub(super) fn key_of(row: &QueryResult, columns: &[&str]) -> String {
    let value = |column: &&str| {
        let number = row.try_get::<i64>("", column).map(|number| number.to_string());
        number
            .or_else(|_| row.try_get::<i16>("", column).map(|number| number.to_string()))
            .or_else(|_| row.try_get::<String>("", column))
            .unwrap_or_else(|_| "?".to_owned())
    };
    columns.iter().map(value).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_which_every_row_was_read_counts_as_zero() {
        let unreadable = Unreadable::default();
        unreadable.is_new("event", "1");
        let counts = unreadable.counts();
        assert_eq!(counts.iter().filter(|(_, count)| *count == 1).collect::<Vec<_>>(), [&("event", 1)]);
        assert_eq!(counts.len(), TABLES.len());
    }

    #[test]
    fn a_row_counts_once_however_often_it_is_met() {
        let unreadable = Unreadable::default();
        let is_new = [("fanout", "1/0"), ("fanout", "1/0"), ("fanout", "2/0"), ("event", "1/0")]
            .map(|(table, key)| unreadable.is_new(table, key));
        assert_eq!(is_new, [true, false, true, true]);
        assert_eq!(unreadable.0.lock().counts, BTreeMap::from([("event", 1), ("fanout", 2)]));
    }
}
