//! The number of a PostgreSQL transaction.

/// A transaction's number among all of the server's; the server tells by it later whether the transaction was
/// committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionId(String);

impl TransactionId {
    /// Selects the number of the current transaction.
    pub(super) const SELECTED: &str = "pg_current_xact_id()::text";

    #[must_use]
    pub fn of(selected: String) -> Self {
        Self(selected)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
