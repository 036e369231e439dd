//! Posthaste is a self-hosted webhook delivery engine. A publisher hands it an event once; it pushes the event to every
//! subscribed endpoint, signed, retried and logged. Each busy endpoint is a supervised actor. An accepted event is a
//! committed row, so what is owed survives a crash of the process.
//!
//! The binary `posthaste` parses its command line and runs this library. `docs/ARCHITECTURE.md` has the complete code
//! map, the invariants, state diagrams and a glossary.
//!
//! # The modules
//!
//! Imports point downwards; the last six may be named by all others.
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | the command line: `serve`, `demo`, `bench`, `migrate`, `keys`, `check`, `openapi` |
//! | [`app`] | the composition root: builds the parts, starts and stops them in order |
//! | [`config`] | settings: defaults, then a file, then the environment, then flags |
//! | [`telemetry`] | sets up the log |
//! | [`listener`] | takes the connections of the API: how many, for how long, with TLS |
//! | [`api`] | the management API over HTTP: routes, keys, problems, the OpenAPI document |
//! | [`engine`] | the door to everything that is sent or owed: publishes, dispatches, runs the endpoint actors |
//! | [`cluster`] | this node among others: its lease, the shards that it owns, and how a shard moves |
//! | [`delivery`] | one webhook request: guard, signature, HTTP client, outcome, retry decision |
//! | [`journal`] | group commit: one writer makes durable what the hot path records, feeds the dispatcher, and counts what is owed |
//! | [`store`] | everything durable, on SQLite or PostgreSQL: rows, leases, queries |
//! | [`secrets`] | secrets at rest: master keys, sealing, the keys that sign cursors |
//! | [`domain`] | plain data that every layer may name: ids and event keys, moments, policies, credentials, events, deliveries, outcomes, health |
//! | [`clock`] | the clock of this process, which follows a reference clock and does not jump |
//! | [`host`] | what the engine asks of its process: time, timers, tasks, chance; live or simulated |
//! | [`fault`] | what happens when a part that all others rely on fails, and fault points for tests |
//! | [`log_limit`] | how many log lines one subject may fill in a second |
//! | [`histogram`] | durations, counted in buckets without waiting |
//!
//! # The life of an event
//!
//! 1. [`api`] authenticates the request, checks the events in its body, and calls [`engine::Engine::publish`].
//! 2. The route table ([`engine::routes`]) says which webhooks of the tenant match.
//! 3. The draft enters the bounded queue of the journal ([`journal`]). A full queue refuses the publish.
//! 4. The journal's writer gives the event its key and commits event and fan-out in one transaction. The publisher is
//!    answered after that.
//! 5. The dispatcher takes the fan-out from the feed ([`journal::feed`]) and offers its targets to the actors of
//!    their endpoints, tenants in turn. It activates sleeping endpoints; what an endpoint cannot take becomes a row.
//! 6. The endpoint's lane ([`engine::lane`]) decides when to start the attempt: order, concurrency, breaker, limiter.
//! 7. The attempt takes a permit ([`engine::permits`]), reserves the place for its outcome in the journal, and sends
//!    ([`delivery::sender`]).
//! 8. [`delivery::decide`] says what follows from the outcome. The journal records attempt and delivery; the batch that
//!    records the last target deletes the fan-out.
//!
//! # Without a network or a database
//!
//! Much of the library is plain computation. This is the signature that Standard Webhooks publishes as an example:
//!
//! ```
//! use posthaste::delivery::{SigningSecret, standard_webhooks};
//!
//! let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let body = br#"{"test": 2432232314}"#;
//! let signature = standard_webhooks(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
//! assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
//! # Ok::<(), posthaste::delivery::SecretError>(())
//! ```
//!
//! Code that decides is pure: time and chance are arguments. A failed attempt waits for its webhook's schedule, or for
//! the receiver's `Retry-After` if that is longer:
//!
//! ```
//! use std::time::Duration;
//!
//! use posthaste::delivery::{Verdict, decide};
//! use posthaste::domain::moment::UnixMillis;
//! use posthaste::domain::outcome::Outcome;
//! use posthaste::domain::policy::RetryPolicy;
//!
//! let (policy, now, no_jitter) = (RetryPolicy::default(), UnixMillis(1_800_000_000_000), 0.0);
//! let hint = Some(Duration::from_secs(60));
//! let after = |tries, outcome| decide(&policy, tries, &outcome, now, no_jitter);
//!
//! let in_seconds = |seconds| Verdict::RetryAt(now.plus(Duration::from_secs(seconds)));
//! assert_eq!(after(1, Outcome::of_status(500, None)), in_seconds(2));
//! assert_eq!(after(2, Outcome::of_status(500, None)), in_seconds(4));
//! assert_eq!(after(1, Outcome::of_status(429, hint)), in_seconds(60));
//! assert_eq!(after(1, Outcome::of_status(204, None)), Verdict::Done);
//! assert_eq!(after(4, Outcome::of_status(500, None)), Verdict::Exhausted);
//! assert_eq!(after(1, Outcome::of_status(410, None)), Verdict::Gone);
//! ```
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod delivery;
pub mod domain;
pub mod engine;
pub mod fault;
pub mod histogram;
pub mod host;
pub mod journal;
pub mod listener;
pub mod log_limit;
pub mod secrets;
pub mod store;
pub mod telemetry;
