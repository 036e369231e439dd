//! This node among the others, as the API sees it: the last survey of nodes and shards, and which node serves a
//! webhook. With PostgreSQL the engine runs the [`member`], which makes the surveys, and sends [`notifications`].

pub(super) mod member;
pub(super) mod notifications;
pub(super) mod shard_log;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::domain::id::WebhookNum;
use crate::domain::shard::ShardNum;
use crate::host::Host;
use crate::store::leases::Survey;

use super::Engine;

/// How long a start waits for the first survey, which takes milliseconds as a rule, so that the engine is at work when
/// the start returns.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// The last survey. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cluster {
    seen: Arc<ArcSwapOption<(Survey, Instant)>>,
    settled: watch::Sender<bool>,
    host: Host,
}

impl Cluster {
    pub(super) fn new(is_alone: bool, host: Host) -> Self {
        Self { seen: Arc::default(), settled: watch::Sender::new(is_alone), host }
    }

    /// Whether this node has made a survey and acquired the shards that it should own and that were free.
    pub(super) fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// Waits until the node is settled, for [`FIRST_LOOK`] at most.
    pub(super) async fn settle(&self) {
        let mut settled = self.settled.subscribe();
        if self.host.timeout(FIRST_LOOK, settled.wait_for(|settled| *settled)).await.is_none() {
            tracing::warn!(
                "first survey of the cluster not completed; the node starts without its shards and keeps trying"
            );
        }
    }

    /// The last survey, and how long ago it was made.
    pub(super) fn seen(&self) -> Option<(Survey, Duration)> {
        let now = self.host.steady();
        self.seen.load().as_ref().map(|seen| (seen.0.clone(), now.saturating_duration_since(seen.1)))
    }

    /// This survey was made just now.
    fn has_seen(&self, survey: Survey) {
        self.seen.store(Some(Arc::new((survey, self.host.steady()))));
    }

    /// Whether the node has acquired what it should own and what was free.
    fn set_settled(&self, is_settled: bool) {
        self.settled.send_replace(is_settled);
    }
}

/// Which node serves a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Here,
    /// Another node, with the URL of its API.
    Elsewhere(Arc<str>),
    /// No node that can be reached: the shard is on its way from one node to another, or its owner advertises no URL.
    Unreachable,
}

impl Engine {
    /// Whether there can be no other nodes.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        !self.inner.store.is_clustered()
    }

    /// Which node serves this webhook, by the last survey.
    #[must_use]
    pub fn owner_of(&self, webhook: WebhookNum) -> Owner {
        let shard_set = &self.inner.context.shard_set;
        if shard_set.serves(webhook) {
            return Owner::Here;
        }
        let Some((survey, _)) = self.inner.cluster.seen() else { return Owner::Unreachable };
        let owner = survey.shards.get(ShardNum::of(webhook).place()).and_then(|(owner, _)| *owner);
        let node = survey.nodes.iter().find(|node| Some(node.num) == owner && Some(node.num) != shard_set.node());
        node.and_then(|node| node.address.as_deref())
            .map_or(Owner::Unreachable, |address| Owner::Elsewhere(address.into()))
    }

    /// The URLs of the other living nodes' APIs, by the last survey.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        let Some((survey, _)) = self.inner.cluster.seen() else { return Vec::new() };
        let me = self.inner.context.shard_set.node();
        let others = survey.nodes.into_iter().filter(|node| node.is_alive && Some(node.num) != me);
        others.filter_map(|node| node.address).collect()
    }

    /// The last survey of nodes and shards, and how long ago it was made; `None` before the first one, and with SQLite.
    #[must_use]
    pub fn cluster(&self) -> Option<(Survey, Duration)> {
        self.inner.cluster.seen()
    }

    /// Names this process and its machine, for people.
    #[must_use]
    pub fn node_name(&self) -> &str {
        self.inner.context.lease.name()
    }

    /// Whether the store has committed events that were not handed to their endpoints yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.inner.feed.is_idle()
    }

    /// This node's number; `None` with SQLite.
    #[must_use]
    pub fn node(&self) -> Option<i64> {
        self.inner.context.shard_set.node()
    }
}
