//! Creates many webhooks at once, for callers that fill a database before an engine serves it.

use std::collections::HashMap;

use entity::webhook_secret as secret;
use sea_orm::EntityTrait;

use crate::domain::id::WebhookNum;

use super::config_changes::{self, Change};
use super::{Entity, NewWebhook, Store, StoreError};

/// Rows in one statement; the parameters of one are limited to 32,766, and a webhook takes 17.
const ROWS: usize = 1000;

impl Store {
    /// Creates all of them or none. A running engine learns of them only with PostgreSQL, as of changes by other nodes.
    pub async fn create_webhooks(&self, new: &[NewWebhook]) -> Result<(), StoreError> {
        self.write(async |on| {
            for some in new.chunks(ROWS) {
                let rows: Vec<_> = some.iter().map(|new| self.row_of(new)).collect::<Result<_, _>>()?;
                let rows = Entity::insert_many(rows).exec_with_returning(on).await?;
                // Rows are returned in no particular order.
                let nums: HashMap<Vec<u8>, WebhookNum> =
                    rows.into_iter().map(|row| (row.id, WebhookNum(row.num))).collect();
                let secret = |new: &NewWebhook| {
                    let num = nums.get(&new.id.bytes()).copied();
                    let num = num.ok_or_else(|| StoreError::unreadable("webhook", "the database did not return it"))?;
                    self.secret_row_of(num, (new.tenant, new.id), &new.secret, new.created_at)
                };
                let secrets: Vec<_> = some.iter().map(secret).collect::<Result<_, _>>()?;
                secret::Entity::insert_many(secrets).exec_without_returning(on).await?;
            }
            Ok(config_changes::note(on, Change::Anything).await?)
        })
        .await
    }
}
