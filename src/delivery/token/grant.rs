//! Builds token requests and reads their answers (RFC 6749, 4.4 and 5). The texts of a token endpoint are not passed
//! on: they may repeat the secret that they refuse.

use std::time::Duration;

use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::{self, byte_serialize};

use super::{Refusal, of_endpoint};
use crate::delivery::answer::MAX_BODY;
use crate::delivery::credentials::{basic, bearer, is_token};
use crate::domain::credentials::{ClientCredentials, TokenAuthMethod};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, parse_retry_after};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("Posthaste/", env!("CARGO_PKG_VERSION")));

/// Receivers commonly limit all headers to this size.
const MAX_TOKEN: usize = 8 * 1024;

/// RFC 6749, 5.2, and RFC 8707, 2.
const KNOWN_ERRORS: [&str; 7] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
];

/// A token, and how long it lives if the answer says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// The value of `Authorization`.
    pub(super) header: HeaderValue,
    pub(super) expires_in: Option<Duration>,
}

/// Builds the request for a token. Client id and secret are form-encoded before they become user name and password (RFC
/// 6749, 2.3.1).
pub(super) fn request(url: &Url, with: &ClientCredentials) -> reqwest::Request {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &with.scope), ("audience", &with.audience)] {
        form.extend_pairs(value.iter().map(|value| (name, value)));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, FORM);
    headers.insert(ACCEPT, JSON);
    headers.insert(USER_AGENT, AGENT);
    match with.token_endpoint_auth_method {
        TokenAuthMethod::ClientSecretBasic => {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let header = basic(&encoded(&with.client_id), &encoded(with.client_secret.reveal()));
            headers.extend(header.map(|header| (AUTHORIZATION, header)));
        }
        TokenAuthMethod::ClientSecretPost => {
            form.append_pair("client_id", &with.client_id);
            form.append_pair("client_secret", with.client_secret.reveal());
        }
    }
    let mut request = reqwest::Request::new(Method::POST, url.clone());
    *request.headers_mut() = headers;
    *request.body_mut() = Some(form.finish().into());
    request
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Value>,
}

#[derive(Deserialize)]
struct Problem {
    error: String,
}

/// Classifies an answer. Every refusal is `rejected`, because without a token the receiver cannot be reached. Only
/// `throttled` counts as if the receiver had asked for time.
pub(super) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Result<Granted, Refusal> {
    match status {
        200..=299 if body.len() < MAX_BODY => token(body),
        200..=299 => Err(no_token("the answer is too long")),
        _ => Err(refused(status, headers, body)),
    }
}

fn refused(status: u16, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let hint = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let hint = hint.and_then(|hint| parse_retry_after(hint, UnixMillis::now_reference()));
    let outcome = match Outcome::of_status(status, hint) {
        throttled @ Outcome::Throttled { .. } => throttled,
        _ => Outcome::Rejected,
    };
    let code = serde_json::from_slice(body)
        .ok()
        .and_then(|Problem { error }| KNOWN_ERRORS.into_iter().find(|known| *known == error));
    let text = match (status, code) {
        (300..=399, _) => format!("answered {status}; redirects are not followed, give the final URL"),
        (_, Some(code @ ("invalid_client" | "unauthorized_client"))) => {
            format!("answered {status} {code}; check `clientId`, `clientSecret` and `tokenEndpointAuthMethod`")
        }
        (_, Some(code)) => format!("answered {status} {code}"),
        (401 | 403, None) => format!("answered {status}; check `clientId` and `clientSecret`"),
        (_, None) => format!("answered {status}, expected 200 and a token"),
    };
    Refusal { outcome, text: of_endpoint(&text) }
}

fn token(body: &[u8]) -> Result<Granted, Refusal> {
    let Answer { access_token, token_type, expires_in } =
        serde_json::from_slice(body).map_err(|_| no_token("the answer is no JSON with an `access_token`"))?;
    if token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(no_token("the token is not of the type `Bearer`"));
    }
    if !is_token(&access_token) || access_token.len() > MAX_TOKEN {
        return Err(no_token("the token is empty, too long, or no header can carry it"));
    }
    let header = bearer(&access_token).ok_or_else(|| no_token("no header can carry the token"))?;
    Ok(Granted { header, expires_in: expires_in.as_ref().and_then(seconds) })
}

/// Accepts a number, also with a fraction or as a text. Any other value counts as not given.
fn seconds(expires_in: &Value) -> Option<Duration> {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    Duration::try_from_secs_f64(seconds?.max(0.0)).ok()
}

fn no_token(why: &str) -> Refusal {
    Refusal { outcome: Outcome::ProtocolError, text: of_endpoint(&why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(json: &str) -> ClientCredentials {
        serde_json::from_str(json).unwrap()
    }

    fn asked(json: &str) -> (Option<String>, String) {
        let url = Url::parse("https://id.example.com/token").unwrap();
        let request = request(&url, &credentials(json));
        let header = request.headers().get(AUTHORIZATION).map(|header| header.to_str().unwrap().to_owned());
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap();
        (header, String::from_utf8(body.to_vec()).unwrap())
    }

    fn read_text(status: u16, body: &str) -> Result<Granted, Refusal> {
        read(status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn a_client_shows_itself_as_the_rfc_says() {
        let with = r#"{"tokenUrl":"","clientId":"s6BhdRkqt3:1","clientSecret":"a b/ü","scope":"a b","audience":"x"}"#;
        let (header, body) = asked(with);
        // base64("s6BhdRkqt3%3A1:a+b%2F%C3%BC")
        assert_eq!(header.as_deref(), Some("Basic czZCaGRSa3F0MyUzQTE6YStiJTJGJUMzJUJD"));
        assert_eq!(body, "grant_type=client_credentials&scope=a+b&audience=x");
        let post =
            r#"{"tokenUrl":"","clientId":"me","clientSecret":"s&t","tokenEndpointAuthMethod":"client_secret_post"}"#;
        let body = "grant_type=client_credentials&client_id=me&client_secret=s%26t".to_owned();
        assert_eq!(asked(post), (None, body));
    }

    #[test]
    fn a_token_comes_with_its_life_or_without() {
        let life = |json: &str| read_text(200, json).unwrap().expires_in.map(|life| life.as_secs());
        assert_eq!(life(r#"{"access_token":"a","token_type":"Bearer","expires_in":3600}"#), Some(3600));
        assert_eq!(life(r#"{"access_token":"a","token_type":"bearer","expires_in":"60"}"#), Some(60));
        assert_eq!(life(r#"{"access_token":"a","expires_in":-5}"#), Some(0));
        for unsaid in [
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"a","expires_in":"soon"}"#,
            r#"{"access_token":"a","expires_in":1e300}"#,
        ] {
            assert_eq!(life(unsaid), None, "{unsaid}");
        }
        assert_eq!(read_text(200, r#"{"access_token":"a.b","x":1}"#).unwrap().header, "Bearer a.b");
    }

    #[test]
    fn what_is_no_token_is_a_protocol_error() {
        let long = format!(r#"{{"access_token":"{}"}}"#, "a".repeat(MAX_TOKEN + 1));
        let endless = " ".repeat(MAX_BODY);
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"access_token":""}"#,
            r#"{"access_token":"a\r\nb"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
            &long,
            &endless,
        ] {
            let refusal = read_text(200, body).unwrap_err();
            assert_eq!(refusal.outcome, Outcome::ProtocolError);
            assert!(refusal.text.starts_with("token endpoint: "), "{refusal:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_check_and_repeats_nothing() {
        let refusal =
            read_text(401, r#"{"error":"invalid_client","error_description":"hunter2 is wrong"}"#).unwrap_err();
        assert_eq!(refusal.outcome, Outcome::Rejected);
        assert_eq!(
            refusal.text,
            "token endpoint: answered 401 invalid_client; check `clientId`, `clientSecret` and `tokenEndpointAuthMethod`"
        );
        assert_eq!(
            read_text(400, r#"{"error":"hunter2"}"#).unwrap_err().text,
            "token endpoint: answered 400, expected 200 and a token"
        );
        for status in [302, 404, 410, 500, 503] {
            assert_eq!(read_text(status, "").unwrap_err().outcome, Outcome::Rejected, "{status}");
        }
    }

    #[test]
    fn a_wish_for_time_is_heard() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        for status in [429, 503] {
            let outcome = read(status, &headers, b"").unwrap_err().outcome;
            assert_eq!(outcome, Outcome::Throttled { retry_after: Some(Duration::from_secs(7)) });
        }
    }
}
