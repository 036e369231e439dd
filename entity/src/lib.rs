//! The rows, one table a file. Columns that are clear only with their table's story are explained in `migration`.

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
pub mod tenant;
pub mod webhook;
pub mod webhook_secret;
