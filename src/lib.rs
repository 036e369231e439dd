//! Posthaste, a webhook delivery engine.

pub mod clock;
pub mod fault;
pub mod id;
pub mod delivery;
pub mod engine;
pub mod store;
