//! A journal at work: starts its writer and hands out what the writer feeds.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::domain::moment::UnixMillis;
use crate::fault::or_abort;
use crate::store::journal::backlog::Backlog;
use crate::store::leases::ShardSet;
use crate::store::log::LogBuffer;
use crate::store::{Store, StoreError};

use super::answers::Answers;
use super::feed::Feed;
use super::remote_shards::RemoteShards;
use super::{Journal, JournalStats, PUBLISH_QUEUE, PUBLISH_QUEUE_KIB, RECORD_QUEUE, writer};

/// The writer's task and its outputs.
pub struct Running {
    pub journal: Journal,
    /// Committed fan-outs, in order.
    pub feed: Arc<Feed>,
    /// Shards of other nodes that events were committed for here.
    pub remote_shards: Arc<RemoteShards>,
    /// Delivery rows that the log index lacks.
    pub log: Arc<LogBuffer>,
    /// What every webhook is owed.
    pub ledger: Backlog,
    /// Ends after [`Journal::close`], once everything is written and every [`Slot`](super::Slot) is used or dropped.
    pub writer: JoinHandle<()>,
}

impl Journal {
    /// Starts the writer for the shards that this process owns.
    pub async fn start(store: &Store, shard_set: &ShardSet) -> Result<Running, StoreError> {
        let (publishes, publish_queue) = mpsc::channel(PUBLISH_QUEUE);
        let (records, record_queue) = mpsc::channel(RECORD_QUEUE);
        let stats = Arc::new(JournalStats::default());
        let last = store.last_event().await?;
        let (feed, remote_shards) =
            (Arc::new(Feed::behind(last, store.is_clustered())), Arc::new(RemoteShards::default()));
        let log = Arc::new(LogBuffer::default());
        let ledger = Arc::new(Mutex::new(store.ledger(&shard_set.served(), UnixMillis::now()).await?.0));
        let outputs = writer::Outputs {
            feed: feed.clone(),
            remote_shards: remote_shards.clone(),
            log: log.clone(),
            ledger: ledger.clone(),
            stats: stats.clone(),
        };
        let queues = (publish_queue, record_queue);
        let writer = writer::Writer::new(store.clone(), shard_set.clone(), queues, last, outputs);
        let writer = tokio::spawn(or_abort("the journal's writer", writer.run()));
        let room = Arc::new(Semaphore::new(PUBLISH_QUEUE_KIB));
        let journal = Self { publishes, records, room, answers: Answers::default(), stats };
        let ledger = Backlog::new(ledger, store.clone(), journal.clone());
        Ok(Running { journal, feed, remote_shards, log, ledger, writer })
    }
}
