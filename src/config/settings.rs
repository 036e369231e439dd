//! The table of all settings: what each is called, and what it accepts. Errors of `config` and of the command line use
//! it.

use super::{ConfigError, PREFIX};

/// What kind of value a setting has, which decides how it is written in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Never repeated in an error, and refused on the command line.
    Secret,
    Number,
    Switch,
    /// Parts separated by commas; in the file an array as well.
    List,
}

#[derive(Debug)]
pub(super) struct Setting {
    /// The name in the file; the variable and the flag follow from it.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) expected: &'static str,
}

const fn of(key: &'static str, kind: Kind, expected: &'static str) -> Setting {
    Setting { key, kind, expected }
}

const SWITCH: &str = "true or false";
const REQUESTS: &str = "0, which is no limit, to 1000000";
const RETENTION: &str = "off, or a whole number of seconds, minutes, hours or days, 10s to 3650d, such as 30d or 12h";
const STOP: &str = "0 to 86400000";
const BURST: &str = "1 to 1000000";
const KEY_FILE: &str = "a file with a key of 32 bytes in base64 on each line";

pub(super) const SETTINGS: &[Setting] = &[
    of("database_url", Kind::Text, "sqlite://path or postgres://user@host/database"),
    of("database_connections", Kind::Number, "6 to 200"),
    of("database_listen_url", Kind::Text, "postgres://user@host/database"),
    of("database_poll_only", Kind::Switch, SWITCH),
    of("advertise_url", Kind::Text, "a URL such as http://10.0.0.5:8080"),
    of("lease_ms", Kind::Number, "1000 to 60000"),
    of("force_unsafe_database", Kind::Switch, SWITCH),
    of("migrate", Kind::Switch, SWITCH),
    of("listen", Kind::Text, "an address and a port such as 127.0.0.1:8080"),
    of("metrics_listen", Kind::Text, "an address and a port such as 127.0.0.1:9090"),
    of(
        "admin_key",
        Kind::Secret,
        "at least 32 characters, all of them printable ASCII and none at either end a space: it travels in a header",
    ),
    of("admin_key_file", Kind::Text, "a file with an admin key"),
    of("master_key", Kind::Secret, "32 bytes in base64"),
    of("master_key_file", Kind::Text, KEY_FILE),
    of("previous_master_keys", Kind::Secret, "keys of 32 bytes in base64, separated by commas"),
    of("allow_http", Kind::Switch, SWITCH),
    of(
        "egress_allow",
        Kind::List,
        "networks in CIDR notation such as 10.1.0.0/16, IPv4 ones in their own notation, separated by commas",
    ),
    of("dns_servers", Kind::List, "addresses such as 10.0.0.53:53 or [2001:db8::53]:53, separated by commas"),
    of("endpoint_threads", Kind::Number, "1 to 256"),
    of("max_in_flight", Kind::Number, "2 to 8192"),
    of("payload_memory_bytes", Kind::Number, "67108864 or more"),
    of("retention_events", Kind::Text, RETENTION),
    of("retention_responses", Kind::Text, RETENTION),
    of("retention_audit", Kind::Text, RETENTION),
    of("stop_grace_ms", Kind::Number, STOP),
    of("stop_delay_ms", Kind::Number, STOP),
    of("body_limit_bytes", Kind::Number, "1024 to 67108864"),
    of("max_connections", Kind::Number, "8 to 1000000"),
    of("tls_cert_file", Kind::Text, "a file in PEM"),
    of("tls_key_file", Kind::Text, "a file in PEM"),
    of(
        "cors_origins",
        Kind::List,
        "origins as browsers write them, separated by commas, such as https://console.example.com",
    ),
    of("key_requests_per_second", Kind::Number, REQUESTS),
    of("key_requests_burst", Kind::Number, BURST),
    of("tenant_requests_per_second", Kind::Number, REQUESTS),
    of("tenant_requests_burst", Kind::Number, BURST),
    of(
        "log",
        Kind::Text,
        "a tracing filter such as info or posthaste=debug, with one of the levels off, error, warn, info, debug, trace",
    ),
];

/// The setting with this name in the file.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The setting whose variable or flag has this name, or nearly.
pub(super) fn find_by_other_name(name: &str) -> Option<&'static Setting> {
    let key = name.trim_start_matches('-').to_lowercase().replace('-', "_");
    find(key.trim_start_matches(&PREFIX.to_lowercase()))
}

/// What a setting accepts.
pub(super) fn expected(key: &str) -> &'static str {
    find(key).map_or("another value", |setting| setting.expected)
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

pub(super) fn variables() -> impl Iterator<Item = String> {
    SETTINGS.iter().map(|setting| variable(setting.key))
}

/// The variable, the flag and the key of a setting, as errors show them.
pub(super) fn names(key: &str) -> String {
    let flag = key.replace('_', "-");
    match find(key) {
        Some(Setting { kind: Kind::Secret, .. }) => format!("{} ({key} in the file)", variable(key)),
        Some(_) => format!("{} (--{flag}, {key} in the file)", variable(key)),
        None => format!("{} (--{flag})", variable(key)),
    }
}

/// The error for a refused value of a flag, from the flag as the parser of the command line shows it.
#[must_use]
pub fn refused_flag(flag: &str, value: &str) -> Option<ConfigError> {
    let key = flag.trim_start_matches("--").split([' ', '=']).next()?.replace('-', "_");
    let Setting { key, kind, expected } = find(&key)?;
    let value = if *kind == Kind::Secret { "***" } else { value }.to_owned();
    Some(ConfigError::Value { key, value, expected })
}
