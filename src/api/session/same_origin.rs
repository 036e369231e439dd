//! Tells whether a page of ours made a request that carries a cookie. A browser sends cookies with the requests of any
//! page; it also sends where that page is from (`Sec-Fetch-Site`, `Origin`), which no page can forge.

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Method, Request};
use url::Url;

/// Fetch Metadata, W3C; all current browsers send it to trustworthy origins.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A read changes nothing, and pages of other origins cannot see the answer.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether the request may use its cookie. A request that changes something must say where it comes from.
pub(super) fn may_use_cookie<B>(request: &Request<B>) -> bool {
    let text = |name: &HeaderName| text(request.headers(), name);
    if is_safe(request.method()) {
        return true;
    }
    match (text(&SEC_FETCH_SITE), text(&ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => is_of_host(origin, host(request)),
        (None, None) => false,
    }
}

/// Whether the page was loaded over TLS, wherever TLS ended. A request without `Origin` comes from no page and passes.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    text(headers, &ORIGIN).is_none_or(|origin| origin.starts_with("https://"))
}

/// Whether the request names a page that was loaded over TLS.
pub(super) fn is_page_over_tls(headers: &HeaderMap) -> bool {
    text(headers, &ORIGIN).is_some_and(|origin| origin.starts_with("https://"))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The host of the request; HTTP/2 names it in the URI.
fn host<B>(request: &Request<B>) -> &str {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    authority.or_else(|| text(request.headers(), &HOST)).unwrap_or_default()
}

/// Compares host and port, with the port that the origin's scheme implies. The scheme itself is not compared: a proxy
/// that ends TLS may have changed it.
fn is_of_host(origin: &str, host: &str) -> bool {
    let Ok(origin) = Url::parse(origin) else { return false };
    let Ok(ours) = Url::parse(&format!("{}://{host}", origin.scheme())) else { return false };
    origin.host_str().is_some()
        && ours.host_str() == origin.host_str()
        && ours.port_or_known_default() == origin.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn allows(method: &str, headers: &[(&str, &str)]) -> bool {
        let request = Request::builder().method(method).uri("/api/v1/webhooks").header("host", "hooks.example:8080");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        may_use_cookie(&request.body(()).unwrap())
    }

    #[test]
    fn what_changes_something_must_come_from_our_own_pages() {
        assert!(allows("POST", &[("sec-fetch-site", "same-origin"), ("origin", "http://hooks.example:8080")]));
        assert!(allows("DELETE", &[("origin", "https://hooks.example:8080")]));
        for foreign in
            ["http://evil.example:8080", "http://hooks.example", "http://hooks.example:8081", "null", "", "x"]
        {
            assert!(!allows("POST", &[("origin", foreign)]), "{foreign}");
        }
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!allows("PATCH", &[("sec-fetch-site", site), ("origin", "http://hooks.example:8080")]), "{site}");
        }
        assert!(!allows("POST", &[]), "a browser says where it comes from");
    }

    #[test]
    fn reading_needs_no_proof() {
        assert!(allows("GET", &[("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn the_port_that_a_scheme_implies_is_the_same_as_none() {
        assert!(is_of_host("https://hooks.example", "hooks.example:443"));
        assert!(is_of_host("https://hooks.example:443", "hooks.example"));
        assert!(is_of_host("http://[::1]:8080", "[::1]:8080"));
        assert!(!is_of_host("https://hooks.example", "hooks.example:80"));
    }
}
