//! This node among the nodes that share one PostgreSQL database: its lease, which shards it owns, and how a shard moves
//! from node to node.
//!
//! The `member` surveys nodes and shards, and acts on what it sees: it reaps nodes whose lease has ended, acquires the
//! shards that [`placement`] gives to this node, and hands off the others. The endpoints of a shard are the engine's
//! work, which the member asks for through `shard_runtime`; the records of a shard are the journal's. The `node_lease`
//! says until when the node may send. `db` is all that this room asks of the database.
//!
//! With SQLite there is one process: its lease never ends, it owns everything, and no member runs.

pub(crate) mod db;
pub(crate) mod member;
pub(crate) mod node_lease;
pub(crate) mod notifications;
pub mod placement;
pub(crate) mod shard_log;
pub(crate) mod shard_runtime;
pub(crate) mod state;

mod hand_off_delay;
mod survey;
