//! What the product is about, as plain data: ids, moments, shards, the policy that a webhook's owner chooses, events,
//! the state of a delivery, the outcome of an attempt, and the health of an endpoint. Every layer may name this module,
//! and it names none. Each limit of a policy stands here once: the check, the message and the schema of the API take it
//! from here.

pub mod delivery;
pub mod event;
pub mod health;
pub mod id;
pub mod in_doubt;
pub mod moment;
pub mod outcome;
pub mod policy;
pub mod shard;
