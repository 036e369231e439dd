//! The harness: servers, receivers and callers as real processes and sockets, and the books that the tests compare.

pub(crate) mod canary;
pub(crate) mod cases;
pub(crate) mod checker;
pub(crate) mod client;
pub(crate) mod contract;
pub(crate) mod databases;
pub(crate) mod exposition;
pub(crate) mod fact;
pub(crate) mod fleet;
pub(crate) mod hook;
pub(crate) mod load;
pub(crate) mod operations;
pub(crate) mod raw;
pub(crate) mod receiver;
pub(crate) mod rows;
pub(crate) mod secure;
pub(crate) mod server;
pub(crate) mod sources;
pub(crate) mod verify;
pub(crate) mod world;
