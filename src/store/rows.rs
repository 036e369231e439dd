//! Multi-row statements whose text repeats, so that the database keeps them prepared.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value};

/// Rows in one statement at most. Larger ones are no faster, and each size is kept prepared.
const MOST: usize = 64;

/// `head (…), (…) tail` for every number of rows up to [`MOST`].
pub(super) struct RowStatement {
    columns: usize,
    /// The text for n rows is at n - 1.
    texts: Vec<String>,
}

impl RowStatement {
    /// `head VALUES (?, ?), (?, ?) tail`
    pub(super) fn insert(backend: DbBackend, head: &str, columns: usize, tail: &str) -> Self {
        let text = |rows: usize| {
            let row = |index: usize| {
                let places: Vec<String> =
                    (1..=columns).map(|column| place(backend, index * columns + column)).collect();
                format!("({})", places.join(","))
            };
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!("{head} VALUES {} {tail}", rows.join(","))
        };
        Self { columns, texts: (1..=MOST).map(text).collect() }
    }

    /// `head WHERE (a = ? AND b = ?) OR (a = ? AND b = ?)`: unlike a list of row values, SQLite looks each of
    /// these up in the index.
    pub(super) fn matching(backend: DbBackend, head: &str, columns: &[&str]) -> Self {
        let text = |rows: usize| {
            let row = |index: usize| {
                let terms = columns.iter().enumerate();
                let terms =
                    terms.map(|(at, name)| format!("{name} = {}", place(backend, index * columns.len() + at + 1)));
                format!("({})", terms.collect::<Vec<_>>().join(" AND "))
            };
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!("{head} WHERE {}", rows.join(" OR "))
        };
        Self { columns: columns.len(), texts: (1..=MOST).map(text).collect() }
    }

    /// Runs as many statements as the rows need; answers how many that were.
    pub(super) async fn run<C: ConnectionTrait>(&self, on: &C, values: Vec<Value>) -> Result<u64, DbErr> {
        debug_assert_eq!(values.len() % self.columns, 0);
        let mut left = values.len() / self.columns;
        let mut values = values.into_iter();
        let mut statements = 0;
        while let Some(text) = left.min(MOST).checked_sub(1).and_then(|at| self.texts.get(at)) {
            let rows = left.min(MOST);
            let bound: Vec<Value> = values.by_ref().take(rows * self.columns).collect();
            on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), text, bound)).await?;
            left -= rows;
            statements += 1;
        }
        Ok(statements)
    }
}

/// SQLite finds a parameter that has a name, as `$1` does, by going through all names before it, on every binding.
fn place(backend: DbBackend, number: usize) -> String {
    match backend {
        DbBackend::Sqlite => "?".to_owned(),
        _ => format!("${number}"),
    }
}
