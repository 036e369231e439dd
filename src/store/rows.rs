//! Multi-row statements whose text repeats, so that the database keeps them prepared.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbErr, Statement, Value};

/// Rows a statement; a batch is cut into these, so there are four texts a table instead of one for each size.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// `head (…), (…) tail`, in a few sizes.
pub(super) struct RowStatement {
    columns: usize,
    texts: HashMap<usize, String>,
}

impl RowStatement {
    /// `head VALUES ($1, $2), ($3, $4) tail`
    pub(super) fn insert(head: &str, columns: usize, tail: &str) -> Self {
        let text = |rows: usize| {
            let row = |index: usize| {
                let places: Vec<String> = (1..=columns).map(|column| place(index * columns + column)).collect();
                format!("({})", places.join(","))
            };
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!("{head} VALUES {} {tail}", rows.join(","))
        };
        Self { columns, texts: SIZES.iter().map(|&rows| (rows, text(rows))).collect() }
    }

    /// `head WHERE (a = $1 AND b = $2) OR (a = $3 AND b = $4)`: unlike a list of row values, SQLite looks each of
    /// these up in the index.
    pub(super) fn matching(head: &str, columns: &[&str]) -> Self {
        let text = |rows: usize| {
            let row = |index: usize| {
                let terms = columns.iter().enumerate();
                let terms = terms.map(|(at, name)| format!("{name} = {}", place(index * columns.len() + at + 1)));
                format!("({})", terms.collect::<Vec<_>>().join(" AND "))
            };
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!("{head} WHERE {}", rows.join(" OR "))
        };
        Self { columns: columns.len(), texts: SIZES.iter().map(|&rows| (rows, text(rows))).collect() }
    }

    /// Runs as many statements as the rows need; answers how many that were.
    pub(super) async fn run<C: ConnectionTrait>(&self, on: &C, values: Vec<Value>) -> Result<u64, DbErr> {
        debug_assert_eq!(values.len() % self.columns, 0);
        let mut left = values.len() / self.columns;
        let mut values = values.into_iter();
        let mut statements = 0;
        for (size, text) in SIZES.iter().filter_map(|size| Some((*size, self.texts.get(size)?))) {
            while left >= size {
                let bound: Vec<Value> = values.by_ref().take(size * self.columns).collect();
                on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), text, bound)).await?;
                left -= size;
                statements += 1;
            }
        }
        Ok(statements)
    }
}

fn place(number: usize) -> String {
    format!("${number}")
}
