//! The credentials of a webhook: its own TLS options, and how its requests authenticate. Stored sealed as one document.
//! The API checks the document when it is saved, a target once more when it is built.

mod auth;
mod tls;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::guard::Guard;
use crate::domain::policy::PolicyProblem;

pub use auth::{Auth, ClientCredentials, TokenAuthMethod};
pub(super) use auth::{basic, bearer, is_token};
pub(super) use tls::TlsMaterial;
pub use tls::TlsOptions;

/// TLS options and authentication; most webhooks have neither.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Credentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
}

impl Credentials {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tls.is_none() && self.auth.is_none()
    }

    /// Whether the credentials hold a secret; authorities are public.
    #[must_use]
    pub fn are_secret(&self) -> bool {
        self.auth.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_key.is_some())
    }

    /// Every problem, with JSON pointers into the webhook.
    #[must_use]
    pub fn problems(&self, guard: &Guard) -> Vec<PolicyProblem> {
        let tls = self.tls.iter().filter_map(|tls| tls.material().err()).flatten();
        tls.chain(self.auth.iter().flat_map(|auth| auth.problems(guard))).collect()
    }

    /// A digest of the TLS options, the key included: two sets differ in it if they mean something else. `None` without
    /// usable options.
    #[must_use]
    pub fn tls_digest(&self) -> Option<[u8; 32]> {
        self.tls.as_ref()?.material().ok().map(|material| material.digest)
    }
}

/// A text that is never shown, neither by `Debug` nor in a log.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Concealed(String);

impl Concealed {
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Concealed {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Concealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Concealed(..)")
    }
}

fn problem(pointer: &str, message: impl Into<String>) -> PolicyProblem {
    PolicyProblem { pointer: pointer.to_owned(), message: message.into() }
}

/// The problem of a text that has more than `most` bytes.
fn too_long(pointer: &str, text: &str, most: usize) -> Option<PolicyProblem> {
    let bytes = text.len();
    (bytes > most).then(|| problem(pointer, format!("{bytes} bytes were given, at most {most} are accepted")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_read_as_they_were_written_and_debug_shows_none() {
        let json = r#"{"tls":{"ca":"CA","clientCertificate":"CERT","clientKey":"hunter1"},
            "auth":{"type":"oauth2","tokenUrl":"https://id.example.com/token","clientId":"me","clientSecret":"hunter2",
            "scope":"hooks","tokenEndpointAuthMethod":"client_secret_post"}}"#;
        let read: Credentials = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::from_str::<serde_json::Value>(json).unwrap());
        assert!(!format!("{read:?}").contains("hunter"));
        for simple in [
            r#"{"auth":{"type":"basic","username":"a","password":"hunter3"}}"#,
            r#"{"auth":{"type":"bearer","token":"hunter4"}}"#,
        ] {
            let read: Credentials = serde_json::from_str(simple).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), simple);
            assert!(!format!("{read:?}").contains("hunter"));
        }
        assert_eq!(serde_json::to_string(&Credentials::default()).unwrap(), "{}");
    }
}
