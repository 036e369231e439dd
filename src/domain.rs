//! What the product is about, as plain data: ids, moments, shards, the policy and the credentials that a webhook's owner
//! chooses, events, the state of a delivery, the outcome of an attempt, the health of an endpoint, and operations on many
//! deliveries. Every layer may name this module, and it names none. Each limit of a policy and of credentials stands here once: the check, the
//! message and the schema of the API follow it.

pub mod credentials;
pub mod delivery;
pub mod event;
pub mod health;
pub mod id;
pub mod in_doubt;
pub mod moment;
pub mod operation;
pub mod operational_event;
pub mod outcome;
pub mod policy;
pub mod request;
pub mod retention;
pub mod shard;
