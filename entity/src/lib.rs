//! The tables as types, one table per file. `migration` explains the columns that are clear only in the context of
//! their table.

pub mod api_key;
pub mod attempt;
pub mod audit;
pub mod delivery;
pub mod endpoint_health;
pub mod engine_state;
pub mod event;
pub mod event_type;
pub mod fanout;
pub mod idempotency;
pub mod operation;
pub mod operation_item;
pub mod tenant;
pub mod webhook;
pub mod webhook_secret;
