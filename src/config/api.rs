//! Reads the settings of the API: who may call it, how, and how often. Called by `config`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::{ConfigError, Written, parse, refused, within};

/// The default: more than publishers keep. With HTTP/2 this many take less than 200 MiB under any load.
const CONNECTIONS: usize = 2_048;

/// A higher rate would limit nothing.
const MOST_REQUESTS: usize = 1_000_000;

/// How the API is served.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The most connections at once.
    pub max_connections: usize,
    /// `None`: plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Origins whose pages may call the API from a browser, each as a browser writes it.
    pub cors_origins: Vec<String>,
    /// The limit of each key of a tenant.
    pub key_rate: Option<Rate>,
    /// The limit of each tenant, over all its keys.
    pub tenant_rate: Option<Rate>,
    /// Where metrics are served without a key; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Requests a second in the long run, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

impl ApiSettings {
    pub(super) fn read(written: &mut Written) -> Result<Self, ConfigError> {
        let connections = written.max_connections.unwrap_or(CONNECTIONS);
        Ok(Self {
            max_connections: within("max_connections", connections, 8..=1_000_000)?,
            tls: tls(written.tls_cert_file.take(), written.tls_key_file.take())?,
            cors_origins: origins(written.cors_origins.as_deref().unwrap_or_default())?,
            key_rate: rate(
                ("key_requests_per_second", written.key_requests_per_second),
                ("key_requests_burst", written.key_requests_burst),
            )?,
            tenant_rate: rate(
                ("tenant_requests_per_second", written.tenant_requests_per_second),
                ("tenant_requests_burst", written.tenant_requests_burst),
            )?,
            metrics_listen: written.metrics_listen.as_deref().map(metrics_listen).transpose()?,
        })
    }
}

fn metrics_listen(text: &str) -> Result<SocketAddr, ConfigError> {
    parse("metrics_listen", text)
}

fn tls(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsSettings>, ConfigError> {
    let missing = |key, expected| ConfigError::Value { key, value: String::new(), expected };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsSettings { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing("tls_key_file", "the key of the certificate in tls_cert_file")),
        (None, Some(_)) => Err(missing("tls_cert_file", "the certificate of the key in tls_key_file")),
    }
}

/// Reads a rate. 0 or no value is no limit. The burst defaults to a second's worth.
fn rate(
    (per_second_key, per_second): (&'static str, Option<usize>),
    (burst_key, burst): (&'static str, Option<usize>),
) -> Result<Option<Rate>, ConfigError> {
    let count = |key, value: usize, least| {
        let value = within(key, value, least..=MOST_REQUESTS)?;
        Ok(u32::try_from(value).ok().and_then(NonZeroU32::new))
    };
    let per_second = count(per_second_key, per_second.unwrap_or(0), 0)?;
    let burst = burst.map(|burst| count(burst_key, burst, 1)).transpose()?.flatten();
    match (per_second, burst) {
        (Some(per_second), burst) => Ok(Some(Rate { per_second, burst: burst.unwrap_or(per_second) })),
        (None, None) => Ok(None),
        (None, Some(burst)) => {
            let expected = "nothing as long as there is no limit of requests per second";
            Err(ConfigError::Value { key: burst_key, value: burst.to_string(), expected })
        }
    }
}

fn origins(text: &str) -> Result<Vec<String>, ConfigError> {
    let refused = |part: &str| refused("cors_origins", part);
    let origin = |part: &str| {
        let url = url::Url::parse(part).map_err(|_| refused(part))?;
        let is_exact = matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == part;
        if is_exact { Ok(part.to_owned()) } else { Err(refused(part)) }
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ApiSettings, String> {
        ApiSettings::read(&mut toml::from_str(text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_limited_or_open_unless_it_is_said() {
        let settings = read("key_requests_per_second = 0").unwrap();
        assert_eq!((settings.key_rate, settings.tenant_rate, settings.tls), (None, None, None));
        assert!(settings.cors_origins.is_empty() && settings.metrics_listen.is_none());
        assert_eq!(settings.max_connections, CONNECTIONS);
    }

    #[test]
    fn a_burst_is_a_seconds_worth_unless_given_and_nothing_without_a_rate() {
        let rate = |text| read(text).unwrap().key_rate.map(|rate| (rate.per_second.get(), rate.burst.get()));
        assert_eq!(rate("key_requests_per_second = 5"), Some((5, 5)));
        assert_eq!(rate("key_requests_per_second = 5\nkey_requests_burst = 50"), Some((5, 50)));
        assert!(read("key_requests_burst = 50").unwrap_err().contains("key_requests_burst in the file): `50`"));
        assert!(read("tenant_requests_per_second = 1000001").unwrap_err().contains("0, which is no limit, to 1000000"));
        assert!(read("tenant_requests_per_second = 1\ntenant_requests_burst = 0").is_err());
    }

    #[test]
    fn one_file_of_tls_asks_for_the_other() {
        assert!(read("tls_cert_file = 'a.pem'").unwrap_err().starts_with("POSTHASTE_TLS_KEY_FILE "));
        assert!(read("tls_key_file = 'a.pem'").unwrap_err().starts_with("POSTHASTE_TLS_CERT_FILE "));
        assert!(read("tls_cert_file = 'a.pem'\ntls_key_file = 'b.pem'").unwrap().tls.is_some());
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        let given = "https://a.example, http://localhost:3000,";
        assert_eq!(read(&format!("cors_origins = '{given}'")).unwrap().cors_origins.len(), 2);
        for odd in ["*", "null", "https://a.example/", "https://A.example", "https://a.example:443", "ftp://a.example"]
        {
            let said = read(&format!("cors_origins = '{odd}'")).unwrap_err();
            assert!(said.contains(&format!("cors_origins in the file): `{odd}` is not accepted")), "{said}");
        }
    }
}
