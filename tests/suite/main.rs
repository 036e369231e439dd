//! Black-box tests of the `posthaste` binary. Each test starts the real program on its own database, talks to it over
//! real sockets as users do, and compares three books: what publishers were promised (P), what receivers saw (R), and
//! what the program says it did (D).
//!
//! No test names a module of the product. `world` is the entry point; `checker` has the invariants that must hold after
//! every fault.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, a panic is how a broken promise is reported")]
#![allow(clippy::disallowed_methods, reason = "receivers and callers have clocks of their own")]

// The test harness.
mod canary;
mod cases;
#[path = "../support/certificates.rs"]
mod certificates;
mod checker;
mod client;
#[path = "../support/cluster.rs"]
mod cluster;
mod contract;
mod databases;
mod fact;
mod fleet;
mod frames;
mod hook;
mod load;
#[path = "../support/names.rs"]
mod names;
mod operations;
#[path = "../support/proxy.rs"]
mod proxy;
mod raw;
mod receiver;
mod rows;
mod secure;
mod server;
mod untaken;
mod verify;
mod world;
mod writes;

// The tests, one module for each kind of promise.
mod access;
mod admin_keys;
mod architecture;
mod audit;
mod backlogs;
mod characters;
mod circles;
mod clocks;
mod commands;
mod crash;
mod credentials;
mod deliveries;
mod examples;
mod fanout;
mod forwarding;
mod headers;
mod history;
mod hops;
mod hostile;
mod http2;
mod https;
mod inputs;
mod isolation;
mod libraries;
mod lifecycle;
mod listener;
mod lists;
mod logs;
mod malformed;
mod migrations;
mod misbehaving;
mod nodes;
mod observe;
mod origins;
mod panics;
mod pending;
mod pgbouncer;
mod postgres;
mod publish;
mod races;
mod rates;
mod receivers;
mod recovery;
mod redaction;
mod resolving;
mod rotation;
mod schedule;
mod secrets;
mod sessions;
mod signatures;
mod silence;
mod slowness;
mod startup;
mod unreadable;
mod versions;
mod webhooks;
mod why;
