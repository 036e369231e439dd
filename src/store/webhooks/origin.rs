//! The origin of a URL: scheme, host and port (RFC 6454). A webhook's credentials are for one origin. Pure.

use std::fmt;

use url::Url;

/// Two URLs with the same origin lead to the same receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin(String);

impl Origin {
    /// The origin of a URL. A text that is no URL shares its origin with no other text.
    #[must_use]
    pub fn of(url: &str) -> Self {
        let Ok(mut url) = Url::parse(url) else { return Self(url.to_owned()) };
        let without_dot = url.host_str().and_then(|host| host.strip_suffix('.')).map(str::to_owned);
        if let Some(host) = without_dot
            && url.set_host(Some(&host)).is_err()
        {
            return Self(url.into());
        }
        let origin = url.origin();
        Self(if origin.is_tuple() { origin.ascii_serialization() } else { url.into() })
    }

    /// An origin that no URL has.
    pub(super) fn nobody() -> Self {
        Self::default()
    }

    pub(in crate::store) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Origin {
    fn from(origin: String) -> Self {
        Self(origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "several origins" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_however_they_are_written() {
        let origin = |url| Origin::of(url).to_string();
        assert_eq!(origin("https://Example.com:443/a?b#c"), "https://example.com");
        assert_eq!(origin("https://example.com./"), "https://example.com");
        assert_eq!(origin("https://example.com"), "https://example.com");
        assert_eq!(origin("http://[::1]:8080/x"), "http://[::1]:8080");
        for other in ["http://example.com/", "https://example.com:8443/", "https://www.example.com/", "not a url", ""] {
            assert_ne!(Origin::of("https://example.com/"), Origin::of(other), "{other}");
        }
        assert_ne!(Origin::of("data:a"), Origin::of("data:b"));
    }

    #[test]
    fn an_origin_is_its_own_origin_and_fits_one_line() {
        for url in ["https://example.com:8443/a", "http://xn--bcher-kva.example/", "https://bücher.example/\n/"] {
            let origin = Origin::of(url);
            assert_eq!(Origin::of(origin.as_str()), origin);
            assert!(!origin.as_str().contains('\n'));
        }
    }
}
