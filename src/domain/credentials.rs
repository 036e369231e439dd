//! The credentials of a webhook: its own TLS options, and how its requests authenticate. They are stored sealed, as one
//! document. `delivery` says which of them can be used. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

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

    /// `None` without TLS options and authentication, as for most webhooks.
    #[must_use]
    pub fn non_empty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }

    /// Whether the credentials hold a secret; authorities are public.
    #[must_use]
    pub fn are_secret(&self) -> bool {
        self.auth.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_key.is_some())
    }
}

/// TLS options in PEM, as given and as stored. Everything but the key is public and is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsOptions {
    /// Certificates of authorities to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The engine's own certificate, followed by its intermediates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Concealed>,
}

impl TlsOptions {
    /// Most bytes of `ca`: enough for some thirty authorities.
    pub const CA_BYTES: usize = 64 * 1024;

    /// Most bytes of `clientCertificate`: enough for a certificate and more intermediates than any chain has.
    pub const CERTIFICATE_BYTES: usize = 32 * 1024;

    /// Most bytes of `clientKey`: four times an RSA key of 8,192 bits.
    pub const KEY_BYTES: usize = 16 * 1024;

    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { ca, client_certificate, client_key } = self;
        ca.is_none() && client_certificate.is_none() && client_key.is_none()
    }
}

/// What the receiver checks: a password or a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Auth {
    /// RFC 7617.
    Basic { username: String, password: Concealed },
    /// RFC 6750, with a token that the owner has obtained.
    Bearer { token: Concealed },
    /// RFC 6749, 4.4: a token is fetched with the client's credentials, and sent as RFC 6750 says.
    OAuth2(Box<ClientCredentials>),
}

impl Auth {
    /// Most bytes of a name and of a password: both together still fit into one header that receivers accept.
    pub const NAME_BYTES: usize = 1024;

    /// Most bytes of a token: the limit of a custom header.
    pub const TOKEN_BYTES: usize = 4 * 1024;

    /// Most bytes of the scopes of one token, and of an audience.
    pub const SCOPE_BYTES: usize = 2 * 1024;
}

/// Where a token is fetched, and as which client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCredentials {
    pub token_url: String,
    pub client_id: String,
    pub client_secret: Concealed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Not in the RFC, but well-known servers ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    #[serde(default)]
    pub token_endpoint_auth_method: TokenAuthMethod,
}

/// How the client authenticates to the token endpoint (RFC 6749, 2.3.1); the names are those of RFC 7591, 2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenAuthMethod {
    #[default]
    ClientSecretBasic,
    ClientSecretPost,
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
