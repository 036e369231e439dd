//! Black-box tests of the `posthaste` binary. Each test starts the real program on its own database, talks to it over
//! real sockets as users do, and compares three books: what publishers were promised (P), what receivers saw (R), and
//! what the program says it did (D).
//!
//! No test names a module of the product. `support` is the harness: `world` is its entry point, and `checker` has the invariants
//! that must hold after every fault.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, a panic is how a broken promise is reported")]
#![allow(clippy::disallowed_methods, reason = "receivers and callers have clocks of their own")]

mod support;

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
mod conventions;
mod crash;
mod credentials;
mod deliveries;
mod document;
mod examples;
mod explain;
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
mod metrics;
mod migrations;
mod misbehaving;
mod nodes;
mod observe;
mod operations;
mod origins;
mod panics;
mod pending;
mod pgbouncer;
mod postgres;
mod publish;
mod races;
mod rates;
mod recall;
mod receivers;
mod recovery;
mod redaction;
mod reference;
mod resolving;
mod retention;
mod rotation;
mod schedule;
mod search;
mod secrets;
mod sessions;
mod signatures;
mod silence;
mod slowness;
mod startup;
mod suspension;
mod unreadable;
mod untaken;
mod versions;
mod webhooks;
mod why;
mod writes;
