//! Whether a webhook gets its events in order, as a column: the route table reads it for every webhook.
//!
//! Older versions write the policy alone. Until a later version contracts, a trigger keeps the column true to what they write;
//! they write JSON without blanks, and a quote within one of its texts is escaped, so that the pattern fits nothing else.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    "ALTER TABLE webhook ADD COLUMN ordered BOOLEAN NOT NULL DEFAULT FALSE",
    "UPDATE webhook SET ordered = TRUE WHERE policy LIKE '%\"ordered\":true%'",
];

const FOLLOW_ON_POSTGRES: &[&str] = &[
    "CREATE FUNCTION webhook_ordered() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN NEW.ordered := NEW.policy LIKE '%\"ordered\":true%'; RETURN NEW; END $$",
    "CREATE TRIGGER webhook_ordered BEFORE INSERT OR UPDATE OF policy ON webhook \
     FOR EACH ROW EXECUTE FUNCTION webhook_ordered()",
];

const FOLLOW_ON_SQLITE: &[&str] = &[
    "CREATE TRIGGER webhook_ordered_insert AFTER INSERT ON webhook \
     WHEN NEW.ordered <> (NEW.policy LIKE '%\"ordered\":true%') \
     BEGIN UPDATE webhook SET ordered = NOT NEW.ordered WHERE num = NEW.num; END",
    "CREATE TRIGGER webhook_ordered_update AFTER UPDATE OF policy ON webhook \
     WHEN NEW.ordered <> (NEW.policy LIKE '%\"ordered\":true%') \
     BEGIN UPDATE webhook SET ordered = NOT NEW.ordered WHERE num = NEW.num; END",
];

const UNFOLLOW_ON_POSTGRES: &[&str] = &["DROP TRIGGER webhook_ordered ON webhook", "DROP FUNCTION webhook_ordered()"];

const UNFOLLOW_ON_SQLITE: &[&str] = &["DROP TRIGGER webhook_ordered_update", "DROP TRIGGER webhook_ordered_insert"];

const DOWN: &[&str] = &["ALTER TABLE webhook DROP COLUMN ordered"];

fn is_postgres(manager: &SchemaManager) -> bool {
    manager.get_database_backend() == DbBackend::Postgres
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await?;
        run(manager, if is_postgres(manager) { FOLLOW_ON_POSTGRES } else { FOLLOW_ON_SQLITE }).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, if is_postgres(manager) { UNFOLLOW_ON_POSTGRES } else { UNFOLLOW_ON_SQLITE }).await?;
        run(manager, DOWN).await
    }
}
