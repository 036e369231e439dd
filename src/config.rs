//! Reads the settings: defaults, then a file, then the environment, then flags; later ones win. Called by the command
//! line. An unknown key is an error that names the key.

mod admin_key;
mod api;
mod file;
mod log;
mod master_key;
mod networks;
mod retention;
mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use self::api::{ApiSettings, Rate, TlsSettings};
pub use self::log::log_filter;
pub use self::settings::refused_flag;

use crate::domain::retention::Retention;
use crate::secrets::MasterKey;
use crate::store::{CONNECTIONS, DEFAULT_CONNECTIONS, DEFAULT_LEASE, Options};

/// The prefix of the variables: `listen` is `POSTHASTE_LISTEN`, `--listen`, and `listen` in the file.
const PREFIX: &str = "POSTHASTE_";

/// Variables that are not settings of the server.
const OTHER_VARIABLES: [&str; 3] = ["POSTHASTE_CONFIG", "POSTHASTE_FAULT", "POSTHASTE_FAULT_WEBHOOK"];

/// The default port of DNS servers (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;

/// A day. No supervisor waits for longer.
const LONGEST_STOP_MS: usize = 24 * 60 * 60 * 1000;

/// The queues in front of the endpoints may hold this much; with less, the endpoints would have no memory left. There
/// is no upper limit.
const LEAST_PAYLOAD_MEMORY: usize = 64 << 20;

/// A setting that cannot be used, and what is accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}: unknown setting; known are {}", settings::variables().collect::<Vec<_>>().join(", "))]
    Unknown { key: String },
    #[error("{}: `{value}` is not accepted; expected {expected}", settings::names(key))]
    Value { key: &'static str, value: String, expected: &'static str },
    #[error(
        "{}: `{value}` is not accepted, it is an address inside of a network; expected {network} for the whole network",
        settings::names(key)
    )]
    InsideNetwork { key: &'static str, value: String, network: ipnet::IpNet },
    /// The value is a secret and is not repeated.
    #[error("{}: `***` is not accepted, {why}; expected {expected}", settings::names(key))]
    Hidden { key: &'static str, why: &'static str, expected: &'static str },
    #[error("{}: `{}` cannot be read ({source}); expected {expected}", settings::names(key), path.display())]
    Unreadable { key: &'static str, path: PathBuf, expected: &'static str, source: std::io::Error },
    #[error("{}: line {line}{}", path.display(), if why.starts_with("column") { format!(", {why}") } else { format!(": {why}") })]
    File { path: PathBuf, line: usize, why: String },
    #[error(
        "--{flag}: a secret is not taken from the command line, where every user of this machine can read it; set {variable}, or \
         name a file with --{file}"
    )]
    Argument { flag: &'static str, variable: &'static str, file: &'static str },
}

/// The settings as given, each one optional.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Where events are kept: sqlite://path or postgres://user@host/database [default: sqlite://posthaste.db]
    #[arg(long, env = "POSTHASTE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<SecretString>,
    /// PostgreSQL: most connections of this process [default: 12]
    #[arg(long, env = "POSTHASTE_DATABASE_CONNECTIONS", value_name = "N")]
    database_connections: Option<usize>,
    /// PostgreSQL: how long a process may send after it last reached the database, in milliseconds [default: 15000]
    #[arg(long, env = "POSTHASTE_LEASE_MS", value_name = "MS")]
    lease_ms: Option<usize>,
    /// PostgreSQL behind a pooler: URL of the server itself, for LISTEN [default: the database URL]
    #[arg(long, env = "POSTHASTE_DATABASE_LISTEN_URL", hide_env_values = true, value_name = "URL")]
    database_listen_url: Option<SecretString>,
    /// PostgreSQL: poll once a second for what other nodes have committed, and do not LISTEN [default: false]
    #[arg(long, env = "POSTHASTE_DATABASE_POLL_ONLY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    database_poll_only: Option<bool>,
    /// PostgreSQL: where other nodes reach this one's API [default: http:// and the address of the API]
    #[arg(long, env = "POSTHASTE_ADVERTISE_URL", value_name = "URL")]
    advertise_url: Option<String>,
    /// PostgreSQL: use the server even if it may lose commits or its clock is far off [default: false]
    #[arg(
        long,
        env = "POSTHASTE_FORCE_UNSAFE_DATABASE",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    force_unsafe_database: Option<bool>,
    /// Bring the schema up to date on start [default: true]
    #[arg(long, env = "POSTHASTE_MIGRATE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    migrate: Option<bool>,
    /// Address of the API [default: 127.0.0.1:8080]
    #[arg(long, env = "POSTHASTE_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Accepted as a variable only; an argument is refused.
    #[arg(long, env = "POSTHASTE_ADMIN_KEY", hide = true)]
    admin_key: Option<SecretString>,
    /// A file with an admin key, at least 32 characters; or the key itself in the variable POSTHASTE_ADMIN_KEY
    /// [default: generated and printed on the first start]
    #[arg(long, env = "POSTHASTE_ADMIN_KEY_FILE", value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// Accepted as a variable only; an argument is refused.
    #[arg(long, env = "POSTHASTE_MASTER_KEY", hide = true)]
    master_key: Option<SecretString>,
    /// A file with the key that encrypts secrets at rest, 32 bytes in base64, in its first line, and previous keys
    /// below it; or the variables POSTHASTE_MASTER_KEY and POSTHASTE_PREVIOUS_MASTER_KEYS [default: a file beside the
    /// database]
    #[arg(long, env = "POSTHASTE_MASTER_KEY_FILE", value_name = "FILE")]
    master_key_file: Option<PathBuf>,
    /// Accepted as a variable only; an argument is refused.
    #[arg(long, env = "POSTHASTE_PREVIOUS_MASTER_KEYS", hide = true)]
    previous_master_keys: Option<SecretString>,
    /// Development: accept http:// URLs [default: false]
    #[arg(long, env = "POSTHASTE_ALLOW_HTTP", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    allow_http: Option<bool>,
    /// Networks that may be called although they are private, e.g. 127.0.0.0/8,10.1.0.0/16
    #[arg(long, env = "POSTHASTE_EGRESS_ALLOW", value_name = "CIDR,…")]
    egress_allow: Option<String>,
    /// DNS servers that resolve the names of receivers, e.g. 10.0.0.53:53 [default: the system's]
    #[arg(long, env = "POSTHASTE_DNS_SERVERS", value_name = "HOST:PORT,…")]
    dns_servers: Option<String>,
    /// Threads for endpoint actors [default: one per core]
    #[arg(long, env = "POSTHASTE_ENDPOINT_THREADS", value_name = "N")]
    endpoint_threads: Option<usize>,
    /// Requests to receivers at once, over all endpoints [default: 1024]
    #[arg(long, env = "POSTHASTE_MAX_IN_FLIGHT", value_name = "N")]
    max_in_flight: Option<usize>,
    /// Event payloads in memory, in bytes, beyond which deliveries wait as rows [default: 134217728]
    #[arg(long, env = "POSTHASTE_PAYLOAD_MEMORY_BYTES", value_name = "BYTES")]
    payload_memory_bytes: Option<usize>,
    /// How long settled events are kept, with their deliveries: off, or e.g. 30d or 12h [default: 30d]
    #[arg(long, env = "POSTHASTE_RETENTION_EVENTS", value_name = "DURATION")]
    retention_events: Option<String>,
    /// How long receivers' answers are kept: off, or e.g. 7d or 12h [default: 7d]
    #[arg(long, env = "POSTHASTE_RETENTION_RESPONSES", value_name = "DURATION")]
    retention_responses: Option<String>,
    /// How long the audit log is kept: off, or e.g. 400d [default: 400d]
    #[arg(long, env = "POSTHASTE_RETENTION_AUDIT", value_name = "DURATION")]
    retention_audit: Option<String>,
    /// How long a stop waits for attempts and requests under way, in milliseconds [default: 10000]
    #[arg(long, env = "POSTHASTE_STOP_GRACE_MS", value_name = "MS")]
    stop_grace_ms: Option<usize>,
    /// How long a stopping process reports that it is not ready before it stops, in milliseconds [default: 0]
    #[arg(long, env = "POSTHASTE_STOP_DELAY_MS", value_name = "MS")]
    stop_delay_ms: Option<usize>,
    /// Largest request body that the API accepts, in bytes [default: 1048576]
    #[arg(long, env = "POSTHASTE_BODY_LIMIT_BYTES", value_name = "BYTES")]
    body_limit_bytes: Option<usize>,
    /// Connections to the API at once; beyond that, the most dispensable one is closed [default: 2048]
    #[arg(long, env = "POSTHASTE_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// HTTPS: a PEM file with the certificate of the API and its intermediates [default: none, plain HTTP]
    #[arg(long, env = "POSTHASTE_TLS_CERT_FILE", value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,
    /// HTTPS: a PEM file with the key of the certificate
    #[arg(long, env = "POSTHASTE_TLS_KEY_FILE", value_name = "FILE")]
    tls_key_file: Option<PathBuf>,
    /// Origins whose pages may call the API from a browser, e.g. `https://console.example.com` [default: none]
    #[arg(long, env = "POSTHASTE_CORS_ORIGINS", value_name = "ORIGIN,…")]
    cors_origins: Option<String>,
    /// Requests per second with one tenant key; 0 is no limit [default: 0]
    #[arg(long, env = "POSTHASTE_KEY_REQUESTS_PER_SECOND", value_name = "N")]
    key_requests_per_second: Option<usize>,
    /// Requests with one tenant key that may come at once [default: one second's worth]
    #[arg(long, env = "POSTHASTE_KEY_REQUESTS_BURST", value_name = "N")]
    key_requests_burst: Option<usize>,
    /// Requests per second of one tenant, over all its keys; 0 is no limit [default: 0]
    #[arg(long, env = "POSTHASTE_TENANT_REQUESTS_PER_SECOND", value_name = "N")]
    tenant_requests_per_second: Option<usize>,
    /// Requests of one tenant that may come at once [default: one second's worth]
    #[arg(long, env = "POSTHASTE_TENANT_REQUESTS_BURST", value_name = "N")]
    tenant_requests_burst: Option<usize>,
    /// Address at which /metrics and /metrics/endpoints are served without a key [default: none]
    #[arg(long, env = "POSTHASTE_METRICS_LISTEN", value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// What to log: a tracing filter such as info or posthaste=debug [default: info]
    #[arg(long, env = "POSTHASTE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// Settings that have been checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub database_url: SecretString,
    pub database_connections: u32,
    /// `None`: the node polls only.
    pub database_listen_url: Option<SecretString>,
    pub advertise_url: Option<String>,
    pub lease: Duration,
    pub force_unsafe_database: bool,
    pub migrate: bool,
    pub listen: SocketAddr,
    pub admin_key: Option<SecretString>,
    pub master_key: Option<MasterKey>,
    /// Previous master keys.
    pub previous_keys: Vec<MasterKey>,
    pub allow_http: bool,
    pub egress_allow: Vec<ipnet::IpNet>,
    /// Empty: the system's.
    pub dns_servers: Vec<SocketAddr>,
    pub endpoint_threads: usize,
    pub max_in_flight: usize,
    pub payload_memory_bytes: usize,
    pub retention: Retention,
    pub stop_grace: Duration,
    /// How long `/readyz` says that the process is not ready before it stops.
    pub stop_delay: Duration,
    pub body_limit_bytes: usize,
    pub api: ApiSettings,
    pub log: String,
}

impl Config {
    /// Merges file, environment and flags. `given` holds the flags, and the variables where there is no flag.
    pub fn load(given: Written, file: Option<&Path>) -> Result<Self, ConfigError> {
        check_variables()?;
        let Some(path) = file else { return Self::try_from(given) };
        given.with_file(&file::read(path)?)
    }

    /// The options for opening the database.
    #[must_use]
    pub fn database(&self) -> Options {
        Options {
            url: self.database_url.expose_secret().to_owned(),
            master_key: self.master_key.clone(),
            previous_keys: self.previous_keys.clone(),
            migrate: self.migrate,
            connections: self.database_connections,
            listen: self.database_listen_url.as_ref().map(|url| url.expose_secret().to_owned()),
            lease: self.lease,
            force_unsafe: self.force_unsafe_database,
            reads_secrets: true,
        }
    }
}

/// Refuses an environment variable that looks like a setting and is not one.
pub fn check_variables() -> Result<(), ConfigError> {
    refuse_unknown_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

fn refuse_unknown_variables(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    let known: Vec<String> = settings::variables().collect();
    let unknown =
        |name: &String| name.starts_with(PREFIX) && !known.contains(name) && !OTHER_VARIABLES.contains(&name.as_str());
    names.into_iter().find(unknown).map_or(Ok(()), |key| Err(ConfigError::Unknown { key }))
}

impl ConfigError {
    /// The setting whose value is refused.
    fn key(&self) -> Option<&'static str> {
        match self {
            Self::Value { key, .. }
            | Self::InsideNetwork { key, .. }
            | Self::Hidden { key, .. }
            | Self::Unreadable { key, .. } => Some(*key),
            Self::Unknown { .. } | Self::File { .. } | Self::Argument { .. } => None,
        }
    }
}

impl Written {
    /// Merges these settings over those of a file. An error in a value of the file names its line.
    fn with_file(self, file: &file::Settings) -> Result<Config, ConfigError> {
        Config::try_from(self.clone().over(file.written.clone())).map_err(|error| {
            // An error that occurs without the file as well is not the file's.
            let without = Config::try_from(self).err().and_then(|error| error.key());
            if error.key().is_some() && error.key() == without { error } else { file.located(error) }
        })
    }

    /// These settings; where one is missing, that of `below`.
    fn over(self, below: Self) -> Self {
        Self {
            database_url: self.database_url.or(below.database_url),
            database_connections: self.database_connections.or(below.database_connections),
            database_listen_url: self.database_listen_url.or(below.database_listen_url),
            database_poll_only: self.database_poll_only.or(below.database_poll_only),
            advertise_url: self.advertise_url.or(below.advertise_url),
            lease_ms: self.lease_ms.or(below.lease_ms),
            force_unsafe_database: self.force_unsafe_database.or(below.force_unsafe_database),
            migrate: self.migrate.or(below.migrate),
            listen: self.listen.or(below.listen),
            admin_key: self.admin_key.or(below.admin_key),
            admin_key_file: self.admin_key_file.or(below.admin_key_file),
            master_key: self.master_key.or(below.master_key),
            master_key_file: self.master_key_file.or(below.master_key_file),
            previous_master_keys: self.previous_master_keys.or(below.previous_master_keys),
            allow_http: self.allow_http.or(below.allow_http),
            egress_allow: self.egress_allow.or(below.egress_allow),
            dns_servers: self.dns_servers.or(below.dns_servers),
            endpoint_threads: self.endpoint_threads.or(below.endpoint_threads),
            max_in_flight: self.max_in_flight.or(below.max_in_flight),
            payload_memory_bytes: self.payload_memory_bytes.or(below.payload_memory_bytes),
            retention_events: self.retention_events.or(below.retention_events),
            retention_responses: self.retention_responses.or(below.retention_responses),
            retention_audit: self.retention_audit.or(below.retention_audit),
            stop_grace_ms: self.stop_grace_ms.or(below.stop_grace_ms),
            stop_delay_ms: self.stop_delay_ms.or(below.stop_delay_ms),
            body_limit_bytes: self.body_limit_bytes.or(below.body_limit_bytes),
            max_connections: self.max_connections.or(below.max_connections),
            tls_cert_file: self.tls_cert_file.or(below.tls_cert_file),
            tls_key_file: self.tls_key_file.or(below.tls_key_file),
            cors_origins: self.cors_origins.or(below.cors_origins),
            key_requests_per_second: self.key_requests_per_second.or(below.key_requests_per_second),
            key_requests_burst: self.key_requests_burst.or(below.key_requests_burst),
            tenant_requests_per_second: self.tenant_requests_per_second.or(below.tenant_requests_per_second),
            tenant_requests_burst: self.tenant_requests_burst.or(below.tenant_requests_burst),
            metrics_listen: self.metrics_listen.or(below.metrics_listen),
            log: self.log.or(below.log),
        }
    }
}

fn parse<T: FromStr>(key: &'static str, value: &str) -> Result<T, ConfigError> {
    value.parse().map_err(|_| refused(key, value))
}

fn refused(key: &'static str, value: impl ToString) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), expected: settings::expected(key) }
}

fn within(key: &'static str, value: usize, accepted: std::ops::RangeInclusive<usize>) -> Result<usize, ConfigError> {
    if accepted.contains(&value) { Ok(value) } else { Err(refused(key, value)) }
}

/// A duration of the stop, from milliseconds.
fn pause(key: &'static str, ms: usize) -> Result<Duration, ConfigError> {
    Ok(Duration::from_millis(within(key, ms, 0..=LONGEST_STOP_MS)? as u64))
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Accepts addresses only: nothing could resolve the name of a DNS server.
fn dns_servers(text: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let server = |part: &str| match part.parse() {
        Ok(ip) => Ok(SocketAddr::new(ip, DNS_PORT)),
        Err(_) => parse("dns_servers", part),
    };
    let servers: Vec<SocketAddr> = parts(text).map(server).collect::<Result<_, _>>()?;
    match servers.iter().find(|server| server.port() == 0 || server.ip().is_unspecified()) {
        Some(nowhere) => Err(refused("dns_servers", nowhere)),
        None => Ok(servers),
    }
}

/// The URL of a node, without a slash at its end.
fn address_of(text: &str) -> Result<String, ConfigError> {
    let url: url::Url = parse("advertise_url", text)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.path() != "/" || url.query().is_some() {
        return Err(refused("advertise_url", text));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The database URL on which the node listens for notifications of other nodes.
fn listen_url(
    given: Option<SecretString>,
    polls_only: Option<bool>,
    database: &SecretString,
) -> Result<Option<SecretString>, ConfigError> {
    let is_of_postgres = |url: &SecretString| {
        let url = url.expose_secret();
        ["postgres://", "postgresql://"].into_iter().any(|scheme| url.starts_with(scheme))
    };
    if given.as_ref().is_some_and(|url| !is_of_postgres(url)) {
        return Err(hidden("database_listen_url", settings::expected("database_listen_url")));
    }
    Ok(if polls_only == Some(true) { None } else { Some(given.unwrap_or_else(|| database.clone())) })
}

/// The error for a refused secret, which does not repeat the secret.
fn hidden(key: &'static str, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, value: "***".to_owned(), expected }
}

impl TryFrom<Written> for Config {
    type Error = ConfigError;

    fn try_from(mut written: Written) -> Result<Self, ConfigError> {
        let api = ApiSettings::read(&mut written)?;
        let retention = retention::read(&written)?;
        let listen = written.listen.as_deref().unwrap_or("127.0.0.1:8080");
        let admin_key = admin_key::read(written.admin_key, written.admin_key_file)?;
        let (master_key, previous_keys) =
            master_key::read(written.master_key, written.master_key_file, written.previous_master_keys)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = written.endpoint_threads.unwrap_or(cores);
        let in_flight = written.max_in_flight.unwrap_or(1024);
        let payload_memory = written.payload_memory_bytes.unwrap_or(128 << 20);
        let body_limit = written.body_limit_bytes.unwrap_or(1024 * 1024);
        let database_url = written.database_url.unwrap_or_else(|| "sqlite://posthaste.db".into());
        let names_a_database =
            |scheme| database_url.expose_secret().strip_prefix(scheme).is_some_and(|rest| !rest.is_empty());
        if !["sqlite://", "postgres://", "postgresql://"].into_iter().any(names_a_database) {
            // Not repeated: the URL may hold a password.
            return Err(hidden("database_url", settings::expected("database_url")));
        }
        let database_listen_url = listen_url(written.database_listen_url, written.database_poll_only, &database_url)?;
        let advertise_url = written.advertise_url.as_deref().map(address_of).transpose()?;
        let lease_ms = written.lease_ms.unwrap_or(DEFAULT_LEASE.as_millis() as usize);
        let lease_ms = within("lease_ms", lease_ms, 1000..=60_000)?;
        let connections = written.database_connections.unwrap_or(DEFAULT_CONNECTIONS as usize);
        let accepted = *CONNECTIONS.start() as usize..=*CONNECTIONS.end() as usize;
        let connections = within("database_connections", connections, accepted)?;
        let log = written.log.unwrap_or_else(|| "info".to_owned());
        log_filter(&log)?;
        Ok(Self {
            database_url,
            database_listen_url,
            advertise_url,
            database_connections: u32::try_from(connections).unwrap_or(DEFAULT_CONNECTIONS),
            lease: Duration::from_millis(lease_ms as u64),
            force_unsafe_database: written.force_unsafe_database.unwrap_or(false),
            migrate: written.migrate.unwrap_or(true),
            listen: parse("listen", listen)?,
            admin_key,
            master_key,
            previous_keys,
            allow_http: written.allow_http.unwrap_or(false),
            egress_allow: networks::read(written.egress_allow.as_deref().unwrap_or_default())?,
            dns_servers: dns_servers(written.dns_servers.as_deref().unwrap_or_default())?,
            endpoint_threads: within("endpoint_threads", threads, 1..=256)?,
            max_in_flight: within("max_in_flight", in_flight, 2..=8192)?,
            payload_memory_bytes: within("payload_memory_bytes", payload_memory, LEAST_PAYLOAD_MEMORY..=usize::MAX)?,
            retention,
            stop_grace: pause("stop_grace_ms", written.stop_grace_ms.unwrap_or(10_000))?,
            stop_delay: pause("stop_delay_ms", written.stop_delay_ms.unwrap_or(0))?,
            body_limit_bytes: within("body_limit_bytes", body_limit, 1024..=64 * 1024 * 1024)?,
            api,
            log,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file: Written = toml::from_str("listen = '127.0.0.1:1'\nmax_in_flight = 7").unwrap();
        let flags = Written { listen: Some("127.0.0.1:2".to_owned()), ..Written::default() };
        let config = Config::try_from(flags.over(file)).unwrap();
        assert_eq!((config.listen.port(), config.max_in_flight, config.body_limit_bytes), (2, 7, 1_048_576));
    }

    #[test]
    fn every_setting_has_its_names_and_says_what_it_accepts() {
        let command = <Written as clap::Args>::augment_args(clap::Command::new("posthaste"));
        let written: BTreeSet<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        assert_eq!(written, settings::SETTINGS.iter().map(|setting| setting.key).collect());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let names = ["PATH", "POSTHASTE_LISTEN", "POSTHASTE_NONSENSE"].map(str::to_owned);
        let error = refuse_unknown_variables(names.into_iter()).unwrap_err().to_string();
        assert!(error.starts_with("POSTHASTE_NONSENSE: unknown setting; known are POSTHASTE_DATABASE_URL"), "{error}");
    }

    #[test]
    fn dns_servers_are_addresses_with_or_without_a_port() {
        let servers = |text: &str| dns_servers(text).map(|servers| servers.iter().map(ToString::to_string).collect());
        let read: Vec<String> = servers("10.0.0.53, 127.0.0.1:5353,[2001:db8::53]:54 ,2001:db8::53").unwrap();
        assert_eq!(read, ["10.0.0.53:53", "127.0.0.1:5353", "[2001:db8::53]:54", "[2001:db8::53]:53"]);
        for wrong in
            ["dns.example.com:53", "10.0.0.53:", "10.0.0.53:99999", "10.0.0.53 10.0.0.54", "10.0.0.53:0", "0.0.0.0"]
        {
            let error = dns_servers(&format!("10.0.0.53,{wrong}")).unwrap_err().to_string();
            assert!(
                error.starts_with("POSTHASTE_DNS_SERVERS (--dns-servers, ")
                    && error.contains("expected addresses such as"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_bad_value_says_what_is_accepted_and_hides_secrets() {
        let written = Written { listen: Some("here".to_owned()), ..Written::default() };
        let error = Config::try_from(written).unwrap_err().to_string();
        assert_eq!(
            error,
            "POSTHASTE_LISTEN (--listen, listen in the file): `here` is not accepted; expected an address and a port such as \
             127.0.0.1:8080"
        );
        let written = Written { admin_key: Some("short".into()), ..Written::default() };
        let error = Config::try_from(written).unwrap_err().to_string();
        assert!(
            error.starts_with("POSTHASTE_ADMIN_KEY (admin_key in the file): `***` is not accepted, it is too short"),
            "{error}"
        );
    }
}
