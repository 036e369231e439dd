//! Requires that a request names its host, once and clearly (RFC 9112, section 3.2; RFC 9113, section 8.3.1). A request
//! that names it twice, or not at all, means one host to a proxy in front and another one here. The response layer
//! calls it.

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version};

use super::problem::Problem;

/// # Errors
///
/// `400` unless the request names its host once.
pub(super) fn require(request: &Request) -> Result<(), Problem> {
    match wrong(request.version(), request.uri(), request.headers()) {
        Some(detail) => Err(Problem::bad_request("invalid_host", detail)),
        None => Ok(()),
    }
}

/// Why the host that a request names cannot be accepted.
fn wrong(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let mut fields = headers.get_all(HOST).iter();
    let (field, more) = (fields.next(), fields.next());
    if more.is_some() {
        return Some("the request has several Host fields; give one");
    }
    let Some(field) = field else {
        return match version {
            Version::HTTP_09 | Version::HTTP_10 => None,
            Version::HTTP_2 | Version::HTTP_3 if uri.authority().is_some() => None,
            _ => Some("the request has no Host field; give one"),
        };
    };
    let Ok(text) = field.to_str() else { return Some("the Host field is not a host with a port or without") };
    let is_host = |authority: Authority| !authority.as_str().contains('@');
    if !text.is_empty() && !text.parse().is_ok_and(is_host) {
        return Some("the Host field is not a host with a port or without");
    }
    let differs = |authority: &Authority| !authority.as_str().eq_ignore_ascii_case(text);
    if uri.authority().is_some_and(differs) {
        return Some("the Host field differs from the host in the request line or in :authority; give one host");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wrong(version: Version, uri: &str, hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        wrong(version, &uri.parse().unwrap(), &headers).is_some()
    }

    #[test]
    fn a_host_is_named_once_and_is_one() {
        let is_wrong = |hosts: &[&'static str]| is_wrong(Version::HTTP_11, "/livez", hosts);
        for good in ["a.example", "a.example:8080", "127.0.0.1:1", "[::1]:8080", ""] {
            assert!(!is_wrong(&[good]), "{good}");
        }
        for bad in ["a b", "user@a.example", "a.example/", "a.example, b.example", "http://a.example"] {
            assert!(is_wrong(&[bad]), "{bad}");
        }
        assert!(is_wrong(&[]) && is_wrong(&["a.example", "a.example"]));
    }

    #[test]
    fn http10_needs_none() {
        assert!(!is_wrong(Version::HTTP_10, "/livez", &[]));
        assert!(is_wrong(Version::HTTP_10, "/livez", &["a.example", "a.example"]));
    }

    #[test]
    fn the_two_ways_to_name_a_host_agree() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let is_wrong = |hosts: &[&'static str]| is_wrong(version, "http://a.example/livez", hosts);
            assert!(!is_wrong(&["A.example"]));
            assert!(is_wrong(&["b.example"]) && is_wrong(&["a.example", "a.example"]));
        }
        assert!(!is_wrong(Version::HTTP_2, "http://a.example/livez", &[]));
        assert!(super::wrong(Version::HTTP_2, &"/livez".parse().unwrap(), &HeaderMap::new()).is_some());
    }
}
