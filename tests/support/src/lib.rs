//! What the tests of the library and of the binary share: a PostgreSQL of one's own, a proxy in front of it, a DNS
//! server that says what it is told, an authority that issues certificates, and an HTTP/2 client that breaks rules.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, a panic is how a broken promise is reported")]
#![allow(clippy::new_without_default, reason = "`new` starts something")]

pub mod certificates;
pub mod cluster;
pub mod frames;
pub mod names;
pub mod proxy;
