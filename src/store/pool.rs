//! Connections to a database with a time limit on every use. A PostgreSQL whose packets get lost refuses nothing: it
//! falls silent, and the driver waits for answers, and for a sign of life from each connection that is returned. So a
//! caller that has waited too long has the connections replaced. Their pool is closed, which makes the driver close
//! connections that return to it, and a fresh pool takes its place.
//!
//! A file always answers: with SQLite there are no limits.

mod timings;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use parking_lot::RwLock;
use sea_orm::prelude::async_trait::async_trait;
use sea_orm::{
    AccessMode, ConnAcquireErr, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    IsolationLevel, QueryResult, RuntimeErr, SqlxPostgresConnector, Statement, StreamTrait, TransactionTrait,
};
use tokio::time::Instant;

pub use self::timings::TimingFigures;

use self::timings::{Operation, Timings};

/// Time limit for one answer. No statement after the start takes nearly as long, and a person still waits that long.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Time limit for one answer to a statement that reads whole tables: at the start, and when a database is checked.
const LIMIT_OF_SCANS: Duration = Duration::from_secs(30 * 60);

/// A stopping process waits this long for its connections, then ends without them.
const LIMIT_OF_CLOSING: Duration = Duration::from_secs(2);

const SILENT: &str = "the database does not answer; its connections are replaced";

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// Time limit for one answer; `None`: no limit.
    limit: Option<Duration>,
}

struct Shared {
    current: RwLock<Lent>,
    /// How often the database has answered.
    answers: AtomicU64,
    /// Transactions that have a connection.
    open: AtomicUsize,
    timings: Timings,
}

#[derive(Clone)]
struct Lent {
    /// How often the connections had been replaced before.
    generation: u64,
    connection: DatabaseConnection,
}

impl Pool {
    /// Connections to a file.
    pub(super) fn unlimited(connection: DatabaseConnection) -> Self {
        let current = RwLock::new(Lent { generation: 0, connection });
        let shared = Shared { current, answers: AtomicU64::new(0), open: AtomicUsize::new(0), timings: Timings::new() };
        Self { shared: Arc::new(shared), limit: None }
    }

    /// Connections to a server.
    pub(super) fn limited(connection: DatabaseConnection) -> Self {
        Self { limit: Some(LIMIT), ..Self::unlimited(connection) }
    }

    /// How long the database took to answer through any of these connections.
    pub(super) fn timings<'a>(pools: impl IntoIterator<Item = &'a Self>) -> TimingFigures {
        Timings::sum(pools.into_iter().map(|pool| &pool.shared.timings))
    }

    /// The same connections with another limit.
    pub(super) fn within(&self, limit: Duration) -> Self {
        Self { limit: self.limit.map(|_| limit), ..self.clone() }
    }

    /// The same connections with the limit for reading whole tables.
    pub(super) fn for_scans(&self) -> Self {
        self.within(LIMIT_OF_SCANS)
    }

    pub(super) async fn begin(&self) -> Result<Transaction, DbErr> {
        self.begin_with(None, None, None).await
    }

    /// Begins a transaction with one deadline instead of a limit for each step.
    pub(super) async fn begin_until(&self, end: Instant) -> Result<Transaction, DbErr> {
        self.begin_with(None, None, Some(end)).await
    }

    /// Begins reads on one snapshot; PostgreSQL has to be told so.
    pub(super) async fn begin_moment(&self) -> Result<Transaction, DbErr> {
        match ConnectionTrait::get_database_backend(self) {
            DbBackend::Postgres => {
                let (all_alike, reads) = (Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly));
                self.begin_with(all_alike, reads, None).await
            }
            _ => self.begin().await,
        }
    }

    async fn begin_with(
        &self,
        isolation: Option<IsolationLevel>,
        access: Option<AccessMode>,
        end: Option<Instant>,
    ) -> Result<Transaction, DbErr> {
        let lent = self.lent();
        let begun = lent.connection.begin_with_config(isolation, access);
        let inner = self.ask(&lent, left(end, self.limit), Operation::Begin, begun).await?;
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Ok(Transaction { inner, pool: self.clone(), lent, end, _open: Open(self.shared.clone()) })
    }

    /// Waits for connections that are in use, but not for a database that is silent.
    pub(super) async fn close(&self) -> Result<(), DbErr> {
        let Lent { connection, .. } = self.lent();
        let closed = connection.close_by_ref();
        match self.limit {
            Some(_) => tokio::time::timeout(LIMIT_OF_CLOSING, closed).await.unwrap_or_else(|_| Err(silent())),
            None => closed.await,
        }
    }

    fn lent(&self) -> Lent {
        self.shared.current.read().clone()
    }

    async fn ask<T>(
        &self,
        lent: &Lent,
        limit: Option<Duration>,
        operation: Operation,
        question: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let began = Instant::now();
        let answer = self.wait(lent, limit, question).await;
        self.shared.timings.count(operation, began.elapsed());
        answer
    }

    async fn wait<T>(
        &self,
        lent: &Lent,
        limit: Option<Duration>,
        question: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let Some(limit) = limit else { return question.await };
        let mut question = pin!(question);
        // Declared after the question and so dropped before it: when the connection goes back, its pool must be closed
        // already.
        let mut patience = Patience {
            pool: self,
            generation: lent.generation,
            limit,
            began: Instant::now(),
            answers: self.shared.answers.load(Ordering::Relaxed),
            has_ended: false,
        };
        let answer = tokio::time::timeout(limit, &mut question).await.map_err(|_| silent())?;
        patience.end(answer.as_ref().err());
        answer
    }

    /// Replaces the connections: open ones may lead to a server that is no longer the right one.
    pub(super) fn renew(&self) {
        let generation = self.lent().generation;
        if self.limit.is_some() {
            self.replace(generation, "the database server has changed; its connections are replaced");
        }
    }

    /// Puts a fresh pool in place, unless that has happened since this generation.
    fn replace(&self, generation: u64, why: &str) {
        // The driver spawns a task for the fresh pool. Without a runtime the process is at its end.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let mut current = self.shared.current.write();
        if current.generation != generation {
            return;
        }
        let old = current.connection.get_postgres_connection_pool().clone();
        let fresh = old.options().clone().connect_lazy_with(old.connect_options().as_ref().clone());
        let connection = SqlxPostgresConnector::from_sqlx_postgres_pool(fresh);
        *current = Lent { generation: generation + 1, connection };
        drop(current);
        tracing::info!("{why}");
        // The first call closes the pool at once; the spawned task only waits for its connections.
        drop(old.close());
        tokio::spawn(async move { old.close().await });
    }
}

/// One wait for an answer, which may time out or be cancelled.
struct Patience<'a> {
    pool: &'a Pool,
    generation: u64,
    limit: Duration,
    began: Instant,
    answers: u64,
    has_ended: bool,
}

impl Patience<'_> {
    fn end(&mut self, error: Option<&DbErr>) {
        self.has_ended = true;
        let Shared { answers, open, .. } = self.pool.shared.as_ref();
        if !matches!(error, Some(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))) {
            answers.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // No connection was free: others are at work, or none came back.
        let nobody_was_answered = answers.load(Ordering::Relaxed) == self.answers;
        if nobody_was_answered && open.load(Ordering::Relaxed) == 0 {
            self.pool.replace(self.generation, SILENT);
        }
    }
}

impl Drop for Patience<'_> {
    /// A caller that cancels before half the limit has reasons of its own, and an answer may still come.
    fn drop(&mut self) {
        if !self.has_ended && self.began.elapsed() >= self.limit / 2 {
            self.pool.replace(self.generation, SILENT);
        }
    }
}

fn left(end: Option<Instant>, limit: Option<Duration>) -> Option<Duration> {
    let left = |limit| end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
    limit.map(left)
}

fn silent() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal("the database does not answer".to_owned()))
}

/// A transaction in which every wait has a limit.
pub(super) struct Transaction {
    inner: DatabaseTransaction,
    pool: Pool,
    lent: Lent,
    end: Option<Instant>,
    _open: Open,
}

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Transaction {
    /// # Errors
    ///
    /// An error does not mean that nothing was committed: the answer may have been lost.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        let Self { inner, pool, lent, end, _open } = self;
        pool.ask(&lent, left(end, pool.limit), Operation::Commit, inner.commit()).await
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        let Self { inner, pool, lent, end, _open } = self;
        pool.ask(&lent, left(end, pool.limit), Operation::Rollback, inner.rollback()).await
    }

    async fn ask<T>(&self, operation: Operation, question: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        self.pool.ask(&self.lent, left(self.end, self.pool.limit), operation, question).await
    }

    async fn wait<T>(&self, question: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        self.pool.wait(&self.lent, left(self.end, self.pool.limit), question).await
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        ConnectionTrait::get_database_backend(&self.inner)
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.ask(Operation::Execute, self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.ask(Operation::Execute, self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.ask(Operation::Query, self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.ask(Operation::Query, self.inner.query_all_raw(statement)).await
    }
}

#[async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        ConnectionTrait::get_database_backend(&self.shared.current.read().connection)
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let lent = self.lent();
        self.ask(&lent, self.limit, Operation::Execute, lent.connection.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let lent = self.lent();
        self.ask(&lent, self.limit, Operation::Execute, lent.connection.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let lent = self.lent();
        self.ask(&lent, self.limit, Operation::Query, lent.connection.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let lent = self.lent();
        self.ask(&lent, self.limit, Operation::Query, lent.connection.query_all_raw(statement)).await
    }
}

type Rows<'a> = Pin<Box<dyn Stream<Item = Result<QueryResult, DbErr>> + Send + 'a>>;

impl StreamTrait for Transaction {
    type Stream<'a> = Rows<'a>;

    fn get_database_backend(&self) -> DbBackend {
        ConnectionTrait::get_database_backend(&self.inner)
    }

    /// Each row counts as one answer.
    fn stream_raw<'a>(
        &'a self,
        statement: Statement,
    ) -> Pin<Box<dyn Future<Output = Result<Rows<'a>, DbErr>> + Send + 'a>> {
        Box::pin(async move {
            let rows = self.ask(Operation::Query, self.inner.stream_raw(statement)).await?;
            let rows = stream::unfold(rows, async |mut rows| {
                let next = self.wait(async { rows.next().await.transpose() }).await.transpose();
                next.map(|row| (row, rows))
            });
            Ok(Box::pin(rows) as Rows<'a>)
        })
    }
}
