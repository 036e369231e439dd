//! Checks the credentials of a webhook, and parses them for connections and requests. The API checks them when they are
//! saved, a target once more when it is built.

mod auth;
mod tls;

use super::guard::Guard;
use crate::domain::credentials::Credentials;
use crate::domain::policy::PolicyProblem;

pub(super) use auth::{auth_problems, basic, bearer, fixed_header, is_token};
pub use tls::certificate_ends_at;
pub(super) use tls::{TlsMaterial, tls_material};

/// Every problem, with JSON pointers into the webhook.
#[must_use]
pub fn check_credentials(credentials: &Credentials, guard: &Guard) -> Vec<PolicyProblem> {
    let tls = credentials.tls.iter().filter_map(|tls| tls_material(tls).err()).flatten();
    tls.chain(credentials.auth.iter().flat_map(|auth| auth_problems(auth, guard))).collect()
}

/// A digest of the TLS options, the key included: two sets differ in it if they mean something else. `None` without
/// usable options.
#[must_use]
pub fn tls_digest(credentials: &Credentials) -> Option<[u8; 32]> {
    tls_material(credentials.tls.as_ref()?).ok().map(|material| material.digest)
}

fn problem(pointer: &str, message: impl Into<String>) -> PolicyProblem {
    PolicyProblem { pointer: pointer.to_owned(), message: message.into() }
}

/// The problem of a text that has more than `most` bytes.
fn too_long(pointer: &str, text: &str, most: usize) -> Option<PolicyProblem> {
    let bytes = text.len();
    (bytes > most).then(|| problem(pointer, format!("{bytes} bytes were given, at most {most} are accepted")))
}
