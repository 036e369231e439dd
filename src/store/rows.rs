//! Statements for many rows whose text repeats, so that the database keeps them prepared. SQLite gets a list of rows in
//! one of a few lengths; PostgreSQL gets each column as one parameter, however many rows there are.

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value};

/// Rows per statement with SQLite. Larger statements are no faster, and each size is kept prepared.
const MOST: usize = 64;

/// Rows per statement with PostgreSQL: responses of 64 KiB each make 64 MiB in one parameter.
const MOST_IN_COLUMNS: usize = 1024;

/// A column to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    kind: Kind,
    nullable: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Int8,
    Int2,
    Text,
    Bytes,
}

pub(super) const fn int8(name: &'static str) -> Column {
    Column { name, kind: Kind::Int8, nullable: false }
}

pub(super) const fn int2(name: &'static str) -> Column {
    Column { name, kind: Kind::Int2, nullable: false }
}

pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text, nullable: false }
}

pub(super) const fn bytes(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytes, nullable: false }
}

impl Column {
    /// Makes the column nullable. No row may then hold [`Kind::stand_in`] in it.
    pub(super) const fn or_null(self) -> Self {
        Self { nullable: true, ..self }
    }

    /// SQL that selects the column from the parameters.
    fn selected(self) -> String {
        let Self { name, kind, nullable } = self;
        if nullable { format!("NULLIF({name}, {})", kind.stand_in().1) } else { name.to_owned() }
    }

    /// The values of the column as one parameter. The driver has no nulls in a list, so stand-ins replace them.
    fn gather(self, values: Vec<Value>) -> Value {
        let (null, _) = self.kind.stand_in();
        let value = |value: Value| if self.nullable && is_null(&value) { null.clone() } else { value };
        Value::Array(self.kind.array(), Some(Box::new(values.into_iter().map(value).collect())))
    }
}

impl Kind {
    fn array(self) -> ArrayType {
        match self {
            Self::Int8 => ArrayType::BigInt,
            Self::Int2 => ArrayType::SmallInt,
            Self::Text => ArrayType::String,
            Self::Bytes => ArrayType::Bytes,
        }
    }

    /// The value that stands for null in a list, and its SQL: a number that no row has, or an empty text, which means
    /// no more than null.
    fn stand_in(self) -> (Value, &'static str) {
        match self {
            Self::Int8 => (i64::MIN.into(), "'-9223372036854775808'::int8"),
            Self::Int2 => (i16::MIN.into(), "'-32768'::int2"),
            Self::Text => (String::new().into(), "''"),
            Self::Bytes => (Vec::<u8>::new().into(), "''::bytea"),
        }
    }
}

/// One statement for any number of rows.
pub(super) struct RowStatement {
    columns: Vec<Column>,
    /// With SQLite the text for n rows is at n - 1; with PostgreSQL there is only one.
    texts: Vec<String>,
}

impl RowStatement {
    /// Inserts the rows; `tail` says what happens to rows that exist already.
    pub(super) fn insert(backend: DbBackend, table: &str, columns: &[Column], tail: &str) -> Self {
        let names = names(columns);
        let texts = match backend {
            DbBackend::Sqlite => {
                let row = format!("({})", vec!["?"; columns.len()].join(","));
                let text = |rows: usize| {
                    format!("INSERT INTO {table} ({names}) VALUES {} {tail}", vec![row.as_str(); rows].join(","))
                };
                (1..=MOST).map(text).collect()
            }
            _ => {
                let selected: Vec<String> = columns.iter().map(|column| column.selected()).collect();
                let (selected, rows) = (selected.join(", "), unnested(columns));
                vec![format!("INSERT INTO {table} ({names}) SELECT {selected} FROM {rows} {tail}")]
            }
        };
        Self { columns: columns.to_vec(), texts }
    }

    /// Deletes the rows with these values. SQLite looks up each term of `(a = ? AND b = ?) OR (a = ? AND b = ?)` in the
    /// index, unlike a list of row values.
    pub(super) fn delete(backend: DbBackend, table: &str, columns: &[Column]) -> Self {
        let each = |term: &dyn Fn(&str) -> String| {
            let terms: Vec<String> = columns.iter().map(|column| term(column.name)).collect();
            terms.join(" AND ")
        };
        let texts = match backend {
            DbBackend::Sqlite => {
                let row = format!("({})", each(&|name| format!("{name} = ?")));
                let text = |rows: usize| format!("DELETE FROM {table} WHERE {}", vec![row.as_str(); rows].join(" OR "));
                (1..=MOST).map(text).collect()
            }
            _ => {
                let same = each(&|name| format!("{table}.{name} = row.{name}"));
                vec![format!("DELETE FROM {table} USING {} WHERE {same}", unnested(columns))]
            }
        };
        Self { columns: columns.to_vec(), texts }
    }

    /// Runs as many statements as the rows need; returns how many.
    pub(super) async fn run<C: ConnectionTrait>(&self, on: &C, values: Vec<Value>) -> Result<u64, DbErr> {
        debug_assert_eq!(values.len() % self.columns.len(), 0);
        match on.get_database_backend() {
            DbBackend::Sqlite => self.run_in_lists(on, values).await,
            _ => self.run_in_columns(on, values).await,
        }
    }

    async fn run_in_columns<C: ConnectionTrait>(&self, on: &C, values: Vec<Value>) -> Result<u64, DbErr> {
        let mut values = values.into_iter();
        let mut statements = 0;
        while values.len() > 0 {
            let gathered = self.gathered(values.by_ref().take(MOST_IN_COLUMNS * self.columns.len()));
            on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), &self.texts[0], gathered)).await?;
            statements += 1;
        }
        Ok(statements)
    }

    async fn run_in_lists<C: ConnectionTrait>(&self, on: &C, values: Vec<Value>) -> Result<u64, DbErr> {
        let mut left = values.len() / self.columns.len();
        let mut values = values.into_iter();
        let mut statements = 0;
        while let Some(text) = left.min(MOST).checked_sub(1).and_then(|at| self.texts.get(at)) {
            let rows = left.min(MOST);
            let bound: Vec<Value> = values.by_ref().take(rows * self.columns.len()).collect();
            on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), text, bound)).await?;
            left -= rows;
            statements += 1;
        }
        Ok(statements)
    }

    /// The values, grouped by column.
    fn gathered(&self, values: impl ExactSizeIterator<Item = Value>) -> Vec<Value> {
        let rows = values.len() / self.columns.len();
        let mut gathered: Vec<Vec<Value>> = self.columns.iter().map(|_| Vec::with_capacity(rows)).collect();
        for (place, value) in values.enumerate() {
            gathered[place % self.columns.len()].push(value);
        }
        self.columns.iter().zip(gathered).map(|(column, values)| column.gather(values)).collect()
    }
}

fn is_null(value: &Value) -> bool {
    matches!(value, Value::BigInt(None) | Value::SmallInt(None) | Value::String(None) | Value::Bytes(None))
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// The parameters as rows.
fn unnested(columns: &[Column]) -> String {
    let places: Vec<String> = (1..=columns.len()).map(|number| format!("${number}")).collect();
    format!("unnest({}) AS row ({})", places.join(", "), names(columns))
}
