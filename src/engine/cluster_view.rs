//! This node among the others, as the API asks: by the last survey, which node serves a webhook, and which nodes there
//! are.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::id::WebhookNum;
use crate::domain::shard::ShardNum;
use crate::store::leases::Survey;

use super::Engine;

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
        let Some((survey, _)) = self.inner.cluster.last_survey() else { return Owner::Unreachable };
        let owner = survey.shards.get(ShardNum::of(webhook).place()).and_then(|(owner, _)| *owner);
        let node = survey.nodes.iter().find(|node| Some(node.num) == owner && Some(node.num) != shard_set.node());
        node.and_then(|node| node.address.as_deref())
            .map_or(Owner::Unreachable, |address| Owner::Elsewhere(address.into()))
    }

    /// The URLs of the other living nodes' APIs, by the last survey.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        let Some((survey, _)) = self.inner.cluster.last_survey() else { return Vec::new() };
        let me = self.inner.context.shard_set.node();
        let others = survey.nodes.into_iter().filter(|node| node.is_alive && Some(node.num) != me);
        others.filter_map(|node| node.address).collect()
    }

    /// The last survey of nodes and shards, and how long ago it was made; `None` before the first one, and with SQLite.
    #[must_use]
    pub fn cluster(&self) -> Option<(Survey, Duration)> {
        self.inner.cluster.last_survey()
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
