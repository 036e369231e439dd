//! The SQL in which the databases differ, so that a query is written once. Pure.

use sea_orm::sea_query::extension::postgres::PgFunc;
use sea_orm::sea_query::{ArrayType, Expr, ExprTrait, IntoColumnRef};
use sea_orm::{DbBackend, Value};

/// Joins the right table to the left one by the condition that follows. SQLite also takes it as the order of the joins:
/// the index of the left table yields the rows in the requested order. PostgreSQL finds that order by itself.
pub(super) fn then_join(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "CROSS JOIN",
        _ => "JOIN",
    }
}

/// SQL condition: a column is none of the numbers in parameter `place`, which is bound with [`numbers`]. The text is
/// the same however many numbers there are.
pub(super) fn is_none_of(backend: DbBackend, column: &str, place: &str) -> String {
    match backend {
        DbBackend::Sqlite => format!("{column} NOT IN (SELECT value FROM json_each({place}))"),
        _ => format!("{column} <> ALL({place})"),
    }
}

/// SQL condition: a column is one of the numbers in parameter `place`, which is bound with [`numbers`].
pub(super) fn is_any_of(backend: DbBackend, column: &str, place: &str) -> String {
    match backend {
        DbBackend::Sqlite => format!("{column} IN (SELECT value FROM json_each({place}))"),
        _ => format!("{column} = ANY({place})"),
    }
}

/// Condition: a column is one of these numbers. PostgreSQL takes them as one parameter, so that the prepared text is
/// the same however many there are; SQLite looks up each of them in the index.
pub(super) fn is_one_of(backend: DbBackend, column: impl IntoColumnRef, nums: &[i64]) -> Expr {
    match backend {
        DbBackend::Sqlite => Expr::col(column).is_in(nums.iter().copied()),
        _ => Expr::col(column).eq(PgFunc::any(numbers(backend, nums.iter().copied()))),
    }
}

/// Numbers as one parameter.
pub(super) fn numbers(backend: DbBackend, numbers: impl IntoIterator<Item = i64>) -> Value {
    match backend {
        DbBackend::Sqlite => {
            let texts: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
            format!("[{}]", texts.join(",")).into()
        }
        _ => Value::Array(ArrayType::BigInt, Some(Box::new(numbers.into_iter().map(Value::from).collect()))),
    }
}

/// The keys in the parameters, which are bound with [`keys`], as rows `k` with these columns.
pub(super) fn keys_as_rows<const N: usize>(backend: DbBackend, columns: [&str; N]) -> String {
    match backend {
        DbBackend::Sqlite => {
            let columns = columns.iter().enumerate().map(|(place, column)| format!("value ->> {place} AS {column}"));
            format!("(SELECT {} FROM json_each($1)) k", columns.collect::<Vec<_>>().join(", "))
        }
        _ => {
            let places: Vec<String> = (1..=N).map(|place| format!("${place}")).collect();
            format!("unnest({}) AS k ({})", places.join(", "), columns.join(", "))
        }
    }
}

/// Keys of several numbers as parameters: one parameter with SQLite, one per column with PostgreSQL.
pub(super) fn keys<const N: usize>(backend: DbBackend, keys: &[[i64; N]]) -> Vec<Value> {
    match backend {
        DbBackend::Sqlite => {
            let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
            vec![format!("[{}]", keys.join(",")).into()]
        }
        _ => (0..N).map(|place| numbers(backend, keys.iter().map(|key| key[place]))).collect(),
    }
}
