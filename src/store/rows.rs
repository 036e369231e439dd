//! Multi-row statements whose text repeats, so that the database keeps them prepared.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbErr, Statement, Value};

/// Rows a statement; a batch is cut into these, so there are four texts a table instead of one for each size.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// `head VALUES (…), (…) tail`, in a few sizes.
pub(super) struct RowStatement {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: HashMap<usize, String>,
}

impl RowStatement {
    pub(super) fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        let texts = SIZES.iter().map(|&rows| (rows, text(head, columns, rows, tail))).collect();
        Self { head, columns, tail, texts }
    }

    /// Runs as many statements as the rows need; answers how many that were.
    pub(super) async fn run<C: ConnectionTrait>(&self, on: &C, values: Vec<Value>) -> Result<u64, DbErr> {
        debug_assert_eq!(values.len() % self.columns, 0);
        let mut left = values.len() / self.columns;
        let mut values = values.into_iter();
        let mut statements = 0;
        for size in SIZES {
            while left >= size {
                let row_values: Vec<Value> = values.by_ref().take(size * self.columns).collect();
                let text = self.texts.get(&size).cloned();
                let text = text.unwrap_or_else(|| text_of(self, size));
                on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), text, row_values)).await?;
                left -= size;
                statements += 1;
            }
        }
        Ok(statements)
    }
}

fn text_of(statement: &RowStatement, rows: usize) -> String {
    text(statement.head, statement.columns, rows, statement.tail)
}

fn text(head: &str, columns: usize, rows: usize, tail: &str) -> String {
    let row = |index: usize| {
        let places: Vec<String> = (1..=columns).map(|column| format!("${}", index * columns + column)).collect();
        format!("({})", places.join(","))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("{head} VALUES {} {tail}", rows.join(","))
}
