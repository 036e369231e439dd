//! Checks how a webhook's requests authenticate to its receiver, and makes the headers for it. Used by targets and
//! token requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;

use super::{problem, too_long};
use crate::delivery::guard::Guard;
use crate::domain::credentials::{Auth, ClientCredentials};
use crate::domain::policy::PolicyProblem;

/// Values that no header or form can carry, and a token endpoint that may not be called. Never quotes a value.
pub(in crate::delivery) fn auth_problems(auth: &Auth, guard: &Guard) -> Vec<PolicyProblem> {
    match auth {
        Auth::Basic { username, password } => {
            let colon = username.contains(':').then(|| {
                problem("/auth/username", "a colon was given, which ends the name; a name without one is accepted")
            });
            let username = text_problem("/auth/username", username, Auth::NAME_BYTES);
            let password = text_problem("/auth/password", password.reveal(), Auth::NAME_BYTES);
            [colon, username, password].into_iter().flatten().collect()
        }
        Auth::Bearer { token } => token_problem("/auth/token", token.reveal()).into_iter().collect(),
        Auth::OAuth2(credentials) => client_problems(credentials, guard),
    }
}

fn client_problems(credentials: &ClientCredentials, guard: &Guard) -> Vec<PolicyProblem> {
    let ClientCredentials { token_url, client_id, client_secret, scope, audience, .. } = credentials;
    let url = guard.check_url(token_url).err().map(|refused| problem("/auth/tokenUrl", refused.to_string()));
    let scope = scope.as_ref().and_then(|scope| text_problem("/auth/scope", scope, Auth::SCOPE_BYTES));
    let audience = audience.as_ref().and_then(|audience| text_problem("/auth/audience", audience, Auth::SCOPE_BYTES));
    let id = text_problem("/auth/clientId", client_id, Auth::NAME_BYTES);
    let secret = text_problem("/auth/clientSecret", client_secret.reveal(), Auth::NAME_BYTES);
    [url, id, secret, scope, audience].into_iter().flatten().collect()
}

/// The header that goes with every request, if it is the same each time.
pub(in crate::delivery) fn fixed_header(auth: &Auth) -> Option<HeaderValue> {
    match auth {
        Auth::Basic { username, password } => basic(username, password.reveal()),
        Auth::Bearer { token } => bearer(token.reveal()),
        Auth::OAuth2(_) => None,
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
    too_long(pointer, token, Auth::TOKEN_BYTES)
}

/// `None` when no header can carry the value, which [`auth_problems`] reports beforehand.
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
        let problems = auth_problems(&auth, &Guard::new(false, Vec::new()));
        assert!(problems.iter().all(|problem| !problem.message.contains("hunter")), "{problems:?}");
        problems.into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn a_name_and_a_password_make_one_header() {
        let auth = Auth::Basic { username: "Aladdin".to_owned(), password: "open sesame".to_owned().into() };
        let header = fixed_header(&auth).unwrap();
        // RFC 7617, 2.
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(header.is_sensitive());
        let auth = Auth::Bearer { token: "mF_9.B5f-4.1JqM".to_owned().into() };
        // RFC 6750, 2.1.
        assert_eq!(fixed_header(&auth).unwrap(), "Bearer mF_9.B5f-4.1JqM");
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
