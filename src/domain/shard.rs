//! Shards: the parts into which the webhooks are divided, and which nodes own. Pure.

use std::num::TryFromIntError;

use super::id::WebhookNum;

/// A power of two, many more than there will be nodes, and few enough to lock all of them in a batch.
pub const SHARDS: usize = 256;

/// A 256th of all webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNum(u8);

impl ShardNum {
    /// The first shard. It has the undivided fan-outs of a process that has everything, and the node that serves it does
    /// what one node does for all.
    pub const WHOLE: Self = Self(0);

    /// The low byte: webhook numbers are dense, so it spreads them evenly.
    #[must_use]
    pub fn of(webhook: WebhookNum) -> Self {
        Self(webhook.0.to_le_bytes()[0])
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    #[must_use]
    pub fn num(self) -> i16 {
        i16::from(self.0)
    }

    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.0)
    }
}

impl From<u8> for ShardNum {
    fn from(num: u8) -> Self {
        Self(num)
    }
}

/// Reads the number that a row has.
impl TryFrom<i16> for ShardNum {
    type Error = TryFromIntError;

    fn try_from(num: i16) -> Result<Self, TryFromIntError> {
        u8::try_from(num).map(Self)
    }
}
