//! Decides which custom headers a webhook may have. The API checks them when they are saved, a target once more when it
//! is built.

use std::collections::BTreeMap;

use http::header::{HeaderName, HeaderValue};

/// No known gateway needs more than twenty custom headers, and receivers limit their number.
const MAX_HEADERS: usize = 20;

/// Name and value of one header together. Receivers commonly limit all headers to 8 KiB.
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// Names that the engine sets, that frame the message, or that a receiver behind a proxy trusts as set by the proxy.
const RESERVED: &[&str] = &[
    "cdn-loop",
    "cf-connecting-ip",
    "client-ip",
    "connection",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "user-agent",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
];

/// Prefixes of further reserved names.
const RESERVED_PREFIXES: &[&str] = &["content-", "proxy-", "webhook-", "x-forwarded", "x-original-", "x-webhook-"];

/// Standard headers (RFC 9110, RFC 9111, RFC 7240, RFC 9218) that never carry credentials.
const SHOWN: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "pragma",
    "prefer",
    "priority",
];

/// Whether the value of a custom header is a secret. A name does not tell, so every value is a secret except those of a
/// few standard headers and of headers that the owner has declared public.
#[must_use]
pub fn is_secret_header(name: &str, public: &[String]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    !SHOWN.iter().any(|shown| is(shown)) && !public.iter().any(|public| is(public))
}

/// A custom header that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderProblem {
    /// The header's name as given; empty when the problem is the number of headers.
    pub name: String,
    /// What is wrong and what is accepted. Never quotes the value, which may be a secret.
    pub message: String,
}

/// Every problem of a webhook's custom headers; empty when all can be sent.
#[must_use]
pub fn check_headers(headers: &BTreeMap<String, String>) -> Vec<HeaderProblem> {
    let mut problems = Vec::new();
    if headers.len() > MAX_HEADERS {
        let message = format!("{} headers were given, at most {MAX_HEADERS} are accepted", headers.len());
        problems.push(HeaderProblem { name: String::new(), message });
    }
    let mut seen = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        if let Some(message) = problem_of(&lower, value, &seen) {
            problems.push(HeaderProblem { name: name.clone(), message });
        }
        seen.push(lower);
    }
    problems
}

fn problem_of(lower: &str, value: &str, seen: &[String]) -> Option<String> {
    let bytes = lower.len() + value.len();
    if HeaderName::from_bytes(lower.as_bytes()).is_err() {
        Some("not a header name; letters, digits and !#$%&'*+-.^_`|~ are accepted".to_owned())
    } else if is_reserved(lower) {
        Some("reserved: set by the engine or by the connection; choose another name".to_owned())
    } else if seen.iter().any(|earlier| earlier == lower) {
        Some("given twice; names are the same whatever their case".to_owned())
    } else if HeaderValue::from_str(value).is_err() {
        Some("the value holds control characters; one line of text is accepted".to_owned())
    } else if bytes > MAX_HEADER_BYTES {
        Some(format!("name and value take {bytes} bytes, at most {MAX_HEADER_BYTES} are accepted"))
    } else {
        None
    }
}

fn is_reserved(lower: &str) -> bool {
    RESERVED.contains(&lower) || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(headers: &[(&str, &str)]) -> Vec<HeaderProblem> {
        check_headers(&headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_value_is_secret_unless_its_name_is_standard_or_declared_public() {
        let public = ["X-Team".to_owned()];
        for name in ["X-Trace", "X-Session", "DD-API", "X-Vault", "Authorization", "X-Teams"] {
            assert!(is_secret_header(name, &public), "{name}");
        }
        for name in ["x-team", "ACCEPT", "Accept-Language"] {
            assert!(!is_secret_header(name, &public), "{name}");
        }
    }

    #[test]
    fn ordinary_headers_are_accepted() {
        let ordinary = [("X-Team", "billing"), ("Authorization", "Bearer abc"), ("Cookie", "a=b"), ("Accept", "*/*")];
        assert_eq!(problems(&ordinary), []);
        assert_eq!(problems(&[("X-Empty", "")]), []);
    }

    #[test]
    fn a_reserved_name_is_refused_whatever_its_case() {
        for name in [
            "Host",
            "HOST",
            "Content-Type",
            "content-length",
            "CONTENT-ENCODING",
            "User-Agent",
            "Connection",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Upgrade",
            "Keep-Alive",
            "Expect",
            "Proxy-Authorization",
            "Proxy-Connection",
            "X-Forwarded-For",
            "x-forwarded-host",
            "Forwarded",
            "Via",
            "X-Real-IP",
            "X-Webhook-Signature",
            "x-webhook-anything",
            "Webhook-Id",
            "webhook-signature",
        ] {
            assert_eq!(problems(&[(name, "x")]).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_name_or_value_that_http_cannot_carry_is_refused() {
        for (name, value) in [("", "x"), ("a b", "x"), ("a:b", "x"), ("ä", "x"), ("X-A", "a\r\nB: c"), ("X-A", "\0")] {
            assert_eq!(problems(&[(name, value)]).len(), 1, "{name:?}: {value:?}");
        }
    }

    #[test]
    fn names_that_differ_by_case_only_are_refused() {
        let found = problems(&[("X-Team", "a"), ("x-team", "b")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "x-team");
    }

    #[test]
    fn number_and_size_are_limited() {
        let many = |number: usize| (0..number).map(|place| (format!("X-{place}"), String::new())).collect();
        assert_eq!(check_headers(&many(MAX_HEADERS)), []);
        assert_eq!(check_headers(&many(MAX_HEADERS + 1))[0].name, "");
        assert_eq!(problems(&[("X-A", &"a".repeat(MAX_HEADER_BYTES - 3))]), []);
        assert_eq!(problems(&[("X-A", &"a".repeat(MAX_HEADER_BYTES - 2))]).len(), 1);
    }

    #[test]
    fn a_message_never_quotes_the_value() {
        assert!(!problems(&[("X-Key", "hunter2\n")])[0].message.contains("hunter2"));
    }
}
