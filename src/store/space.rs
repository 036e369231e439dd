//! The size of a SQLite file. Deleted rows leave free pages, which new rows take. What is free beyond that is given back
//! to the file system a few pages at a time, if the file was made for it: SQLite notes in a new file, and in no other,
//! how to move its pages. PostgreSQL needs none of this.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement};

use super::{Store, StoreError};

/// How much of a SQLite file is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    pub free_pages: u64,
    pub all_pages: u64,
    pub page_bytes: u64,
    /// Whether free pages can be given back while a server runs.
    pub can_shrink: bool,
}

#[derive(Debug, FromQueryResult)]
struct SpaceRow {
    free_pages: i64,
    all_pages: i64,
    page_bytes: i64,
    auto_vacuum: i64,
}

/// `auto_vacuum` of a file whose pages can be given back.
const INCREMENTAL: i64 = 2;

const SPACE: &str = "SELECT freelist_count AS free_pages, page_count AS all_pages, page_size AS page_bytes, auto_vacuum \
    FROM pragma_freelist_count, pragma_page_count, pragma_page_size, pragma_auto_vacuum";

impl Store {
    /// `None` with PostgreSQL.
    pub async fn free_space(&self) -> Result<Option<FreeSpace>, StoreError> {
        if self.backend() != DbBackend::Sqlite {
            return Ok(None);
        }
        let statement = Statement::from_string(DbBackend::Sqlite, SPACE);
        let row = SpaceRow::find_by_statement(statement).one(self.engine_readers()).await?;
        Ok(row.map(|row| FreeSpace {
            free_pages: row.free_pages.unsigned_abs(),
            all_pages: row.all_pages.unsigned_abs(),
            page_bytes: row.page_bytes.unsigned_abs(),
            can_shrink: row.auto_vacuum == INCREMENTAL,
        }))
    }

    /// Gives back this many free pages at most. SQLite frees one for each row that is read.
    pub async fn give_back(&self, pages: u32) -> Result<(), StoreError> {
        let statement = Statement::from_string(DbBackend::Sqlite, format!("PRAGMA incremental_vacuum({pages})"));
        self.write_async_commit(async |on| {
            on.query_all_raw(statement).await?;
            Ok(())
        })
        .await
    }

    /// Rewrites the file without its free pages, and so that pages can be given back from then on. Takes as long as
    /// copying the file; no server may use it.
    pub async fn compact(&self) -> Result<(), StoreError> {
        self.inner.writer.execute_unprepared("PRAGMA auto_vacuum = INCREMENTAL").await?;
        self.inner.writer.execute_unprepared("VACUUM").await?;
        Ok(())
    }
}
