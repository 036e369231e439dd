//! Posthaste, a webhook delivery engine.
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod engine;
pub mod fault;
pub mod id;
pub mod listener;
pub mod log_limit;
pub mod store;
pub mod telemetry;
