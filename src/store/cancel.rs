//! Takes pending deliveries back: one by its owner, or all that a deleted webhook or tenant is owed.

use sea_orm::{ConnectionTrait, DbErr, Statement, Value};

use crate::clock::UnixMillis;
use crate::id::WebhookNum;

use super::{Store, StoreError};

/// `$1` is when. A delivery of which merely one more attempt is wanted is again what it was before.
const TAKE_BACK: &str = "UPDATE delivery SET next_at = NULL, manual_from = NULL, manual_next_at = NULL, \
    status = CASE WHEN manual_from > 0 THEN manual_from ELSE 3 END, \
    settled_at = CASE WHEN manual_from > 0 THEN settled_at ELSE $1 END WHERE status = 0 AND";

/// Takes back what is pending and matches `which`, whose parameters start at `$2`. Answers how many deliveries that
/// were.
pub(super) async fn take_back<C: ConnectionTrait>(
    on: &C,
    which: &str,
    of: impl IntoIterator<Item = i64>,
    at: UnixMillis,
) -> Result<u64, DbErr> {
    let values = [at.0].into_iter().chain(of).map(Value::from);
    let sql = format!("{TAKE_BACK} {which}");
    let done = on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values)).await?;
    Ok(done.rows_affected())
}

impl Store {
    /// Takes back what those of these webhooks that are deleted are still owed: an attempt that was under way when its
    /// webhook was deleted may have left a row. Answers how many deliveries that were.
    pub async fn cancel_pending_of(&self, nums: &[WebhookNum], now: UnixMillis) -> Result<u64, StoreError> {
        let deleted = "webhook_num = $2 AND EXISTS ( \
                       SELECT 1 FROM webhook WHERE num = webhook_num AND deleted_at IS NOT NULL)";
        self.write(async |on| {
            let mut cancelled = 0;
            for num in nums {
                cancelled += take_back(on, deleted, [num.0], now).await?;
            }
            Ok(cancelled)
        })
        .await
    }
}
