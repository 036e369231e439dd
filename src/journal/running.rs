//! Starts a journal: makes its writer, and hands out what the writer feeds.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::host::Host;
use crate::store::StoreError;
use crate::store::leases::ShardSet;
use crate::store::log::LogBuffer;

use super::answers::Answers;
use super::feed::Feed;
use super::remote_shards::RemoteShards;
use super::shared_ledger::SharedLedger;
use super::{Journal, JournalBounds, JournalStats, PUBLISH_QUEUE_KIB, ledger_load, writer};
use crate::store::journal_db::JournalDb;

/// The writer's task, to be spawned. It ends after [`Journal::close`], once everything is written and every
/// [`JournalSlot`](super::JournalSlot) is used or dropped.
pub type WriterTask = BoxFuture<'static, ()>;

/// A journal with its writer's outputs.
pub struct Running {
    pub journal: Journal,
    /// Committed fan-outs, in order.
    pub feed: Arc<Feed>,
    /// Shards of other nodes that events were committed for here.
    pub remote_shards: Arc<RemoteShards>,
    /// Delivery rows that the log index lacks.
    pub log: Arc<LogBuffer>,
    /// What every webhook is owed.
    pub ledger: SharedLedger,
}

impl Journal {
    /// Makes the writer for the shards that this process owns. The journal answers nothing until the writer is spawned.
    pub async fn start(
        db: Arc<dyn JournalDb>,
        host: Host,
        shard_set: &ShardSet,
        bounds: JournalBounds,
    ) -> Result<(Running, WriterTask), StoreError> {
        let (publishes, publish_queue) = mpsc::channel(bounds.publish_queue);
        let (records, record_queue) = mpsc::channel(bounds.record_queue);
        let stats = Arc::new(JournalStats::default());
        let last = db.last_event().await?;
        let feed = Arc::new(Feed::starting_behind(last, !shard_set.is_everything(), bounds.feed_bytes));
        let (remote_shards, log) = (Arc::new(RemoteShards::default()), Arc::new(LogBuffer::default()));
        let ledger = Arc::new(Mutex::new(ledger_load::load(db.as_ref(), &shard_set.served(), host.now()).await?.0));
        let outputs = writer::Outputs {
            feed: feed.clone(),
            remote_shards: remote_shards.clone(),
            log: log.clone(),
            ledger: ledger.clone(),
            stats: stats.clone(),
        };
        let queues = (publish_queue, record_queue);
        let writer = writer::Writer::new((db.clone(), host, bounds), shard_set.clone(), queues, last, outputs);
        let room = Arc::new(Semaphore::new(PUBLISH_QUEUE_KIB));
        let journal = Self { publishes, records, room, answers: Answers::default(), stats };
        let ledger = SharedLedger::new(ledger, db, journal.clone());
        Ok((Running { journal, feed, remote_shards, log, ledger }, Box::pin(writer.run())))
    }
}
