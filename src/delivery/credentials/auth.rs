//! How a webhook's requests authenticate to its receiver: with a password, a token, or a token that is fetched first.
//! Used by targets and token requests; the API validates with it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use serde::{Deserialize, Serialize};

use super::{Concealed, problem, too_long};
use crate::delivery::guard::Guard;
use crate::domain::policy::PolicyProblem;

/// A name and a password of this length still fit into one header that receivers accept.
const MAX_NAME: usize = 1024;

/// The limit of a custom header.
const MAX_TOKEN: usize = 4 * 1024;

/// The scopes of one token; also the limit of an audience.
const MAX_SCOPE: usize = 2 * 1024;

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

impl Auth {
    /// Values that no header or form can carry, and a token endpoint that may not be called. Never quotes a value.
    pub(in crate::delivery) fn problems(&self, guard: &Guard) -> Vec<PolicyProblem> {
        match self {
            Self::Basic { username, password } => {
                let colon = username.contains(':').then(|| {
                    problem("/auth/username", "a colon was given, which ends the name; a name without one is accepted")
                });
                let username = text_problem("/auth/username", username, MAX_NAME);
                let password = text_problem("/auth/password", password.reveal(), MAX_NAME);
                [colon, username, password].into_iter().flatten().collect()
            }
            Self::Bearer { token } => token_problem("/auth/token", token.reveal()).into_iter().collect(),
            Self::OAuth2(credentials) => credentials.problems(guard),
        }
    }

    /// The header that goes with every request, if it is the same each time.
    pub(in crate::delivery) fn fixed_header(&self) -> Option<HeaderValue> {
        match self {
            Self::Basic { username, password } => basic(username, password.reveal()),
            Self::Bearer { token } => bearer(token.reveal()),
            Self::OAuth2(_) => None,
        }
    }
}

impl ClientCredentials {
    fn problems(&self, guard: &Guard) -> Vec<PolicyProblem> {
        let url = guard.check_url(&self.token_url).err().map(|refused| problem("/auth/tokenUrl", refused.to_string()));
        let scope = self.scope.as_ref().and_then(|scope| text_problem("/auth/scope", scope, MAX_SCOPE));
        let audience = self.audience.as_ref().and_then(|audience| text_problem("/auth/audience", audience, MAX_SCOPE));
        let id = text_problem("/auth/clientId", &self.client_id, MAX_NAME);
        let secret = text_problem("/auth/clientSecret", self.client_secret.reveal(), MAX_NAME);
        [url, id, secret, scope, audience].into_iter().flatten().collect()
    }
}

fn text_problem(pointer: &str, text: &str, most: usize) -> Option<PolicyProblem> {
    if text.is_empty() {
        return Some(problem(pointer, "nothing was given, a text is required"));
    }
    if text.chars().any(char::is_control) {
        return Some(problem(pointer, "control characters were given, one line of text is accepted"));
    }
    too_long(pointer, text, most)
}

/// Wider than RFC 6750, 2.1: any visible ASCII without blanks.
pub(in crate::delivery) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn token_problem(pointer: &str, token: &str) -> Option<PolicyProblem> {
    if !is_token(token) {
        return Some(problem(
            pointer,
            "visible ASCII characters without blanks are accepted, and no `Bearer` before them",
        ));
    }
    too_long(pointer, token, MAX_TOKEN)
}

/// `None` when no header can carry the value, which [`Auth::problems`] reports beforehand.
pub(in crate::delivery) fn basic(name: &str, password: &str) -> Option<HeaderValue> {
    concealed(&format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

/// As [`basic`].
pub(in crate::delivery) fn bearer(token: &str) -> Option<HeaderValue> {
    concealed(&format!("Bearer {token}"))
}

fn concealed(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(json: &str) -> Vec<String> {
        let auth: Auth = serde_json::from_str(json).unwrap();
        let problems = auth.problems(&Guard::new(false, Vec::new()));
        assert!(problems.iter().all(|problem| !problem.message.contains("hunter")), "{problems:?}");
        problems.into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn a_name_and_a_password_make_one_header() {
        let auth = Auth::Basic { username: "Aladdin".to_owned(), password: "open sesame".to_owned().into() };
        let header = auth.fixed_header().unwrap();
        // RFC 7617, 2.
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(header.is_sensitive());
        let auth = Auth::Bearer { token: "mF_9.B5f-4.1JqM".to_owned().into() };
        // RFC 6750, 2.1.
        assert_eq!(auth.fixed_header().unwrap(), "Bearer mF_9.B5f-4.1JqM");
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        assert_eq!(
            pointers(r#"{"type":"basic","username":"a:b","password":"hunter\n2"}"#),
            ["/auth/username", "/auth/password"]
        );
        assert_eq!(pointers(r#"{"type":"basic","username":"ä","password":"hunter2 ü"}"#), [""; 0]);
        for token in ["", "Bearer hunter2", "hunter\\u00fc", "hunter\\n"] {
            assert_eq!(pointers(&format!(r#"{{"type":"bearer","token":"{token}"}}"#)), ["/auth/token"], "{token}");
        }
        assert_eq!(pointers(&format!(r#"{{"type":"bearer","token":"{}"}}"#, "x".repeat(4097))), ["/auth/token"]);
    }

    #[test]
    fn a_token_endpoint_follows_the_rules_for_urls() {
        let with = |url: &str| format!(r#"{{"type":"oauth2","tokenUrl":"{url}","clientId":"a","clientSecret":"b"}}"#);
        assert_eq!(pointers(&with("https://id.example.com/token")), [""; 0]);
        for url in [
            "http://id.example.com/",
            "https://127.0.0.1/",
            "https://u:hunter2@id.example.com/",
            "https://id.internal/",
            "",
        ] {
            assert_eq!(pointers(&with(url)), ["/auth/tokenUrl"], "{url}");
        }
        let empty = r#"{"type":"oauth2","tokenUrl":"","clientId":"","clientSecret":"","scope":"","audience":"\n"}"#;
        assert_eq!(
            pointers(empty),
            ["/auth/tokenUrl", "/auth/clientId", "/auth/clientSecret", "/auth/scope", "/auth/audience"]
        );
    }
}
