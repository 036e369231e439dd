//! Makes one webhook request, from a stored configuration to a classified outcome.
//!
//! The engine passes a [`Target`] and a [`Message`] to the [`Sender`] and gets a [`Report`]. [`decide`] says what
//! follows from the outcome, the [`Limiter`] when the next request may start. The API validates settings with the same
//! rules. Nothing here knows actors, routes or rows.

mod answer;
pub mod breaker;
mod called_address;
pub mod client;
pub mod credentials;
mod failure;
pub mod guard;
pub mod headers;
pub mod hops;
pub mod limiter;
pub mod local_network;
mod lru;
mod peer_check;
pub mod resolver;
pub mod retry;
pub mod sender;
pub mod signature;
pub mod target;
pub mod token;

pub use client::{ClientError, Clients, build_client};
pub use credentials::{certificate_ends_at, check_credentials, tls_digest};
pub use guard::{Guard, GuardError, Own};
pub use headers::{HeaderProblem, check_headers, is_secret_header};
pub use hops::EngineName;
pub use limiter::Limiter;
pub use local_network::LocalNetwork;
pub use resolver::dns::Dns;
pub use resolver::{ResolveError, VettedResolver};
pub use retry::{Verdict, decide};
pub use sender::{Message, Report, Sender};
pub use signature::{SecretError, SigningSecret, standard_webhooks, x_webhook_signature};
pub use target::{Target, TargetError};
pub use token::Tokens;
