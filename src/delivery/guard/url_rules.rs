//! Decides from its text whether a webhook's URL is accepted. Called by the guard alone. Pure.
//!
//! Parsers forgive too much: `url` drops tabs, line breaks and zero-width characters and turns `①②⑦`, hex, octal,
//! decimal and short forms into 127.0.0.1. So the raw text is checked before it is parsed, and the parsed host is
//! compared with the text that it came from.

use std::net::IpAddr;

use url::{Host, Url};

use super::{GuardError, address_of};

/// Too many servers and proxies on the way refuse longer URLs.
pub const MAX_URL_BYTES: usize = 2048;

/// RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// Suffixes of names that no public DNS answers: RFC 6761, RFC 6762, RFC 8375, and what hosts files, home routers,
/// container engines and clusters use (`localhost.localdomain`, `gateway.docker.internal`, `kubernetes.default`).
const PRIVATE_SUFFIXES: [&str; 14] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "home.arpa",
    "svc",
    "default",
    "onion",
    "test",
    "invalid",
];

/// Below this port only HTTP's own ports are called: the others belong to mail, shells, file shares and directories.
const FIRST_FREE_PORT: u16 = 1024;

/// Ports of internal services that something resembling HTTP can harm.
#[rustfmt::skip]
const INTERNAL_SERVICE_PORTS: [u16; 36] = [
    // Databases: SQL Server, Oracle, MySQL, PostgreSQL, CouchDB, Redis, Cassandra, Elasticsearch, memcached, MongoDB.
    1433, 1521, 3306, 5432, 5984, 6379, 6380, 9042, 9160, 9200, 9300, 11_211, 27_017, 27_018, 27_019,
    // Clusters: ZooKeeper, Docker, etcd, Kubernetes, Consul, kubelet.
    2181, 2375, 2376, 2379, 2380, 6443, 8500, 8501, 10_250, 10_255,
    // Queues and storage: NFS, Erlang, AMQP, Kafka, RabbitMQ, HDFS.
    2049, 4369, 5672, 9092, 15_672, 25_672, 50_070,
    // Remote control: RDP, VNC, WinRM.
    3389, 5900, 5985, 5986,
];

/// Characters that are invisible or change the direction of the text, beyond control characters and white space:
/// Unicode's `Default_Ignorable_Code_Point`, the bidirectional controls, and the empty Braille cell.
const INVISIBLE: [std::ops::RangeInclusive<char>; 18] = [
    '\u{00ad}'..='\u{00ad}',
    '\u{034f}'..='\u{034f}',
    '\u{061c}'..='\u{061c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Parses a URL whose text follows the rules and normalises it: lower-case ASCII host without the final dot, no default
/// port, no fragment (which is never sent). The caller checks addresses and ports.
pub(super) fn read(raw: &str, allow_http: bool) -> Result<Url, GuardError> {
    check_text(raw)?;
    let (scheme, rest) = raw.split_once("://").ok_or(GuardError::NotAbsolute)?;
    check_scheme(scheme, allow_http)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(GuardError::Userinfo);
    }
    // The parser decodes percent signs, and the result is not the text that was checked. Zone ids contain one, too.
    if authority.contains('%') {
        return Err(GuardError::EncodedHost);
    }
    // The parser skips further slashes and would read the path's first segment as the host.
    if authority.is_empty() {
        return Err(GuardError::EmptyLabel);
    }
    normalised(Url::parse(raw)?, authority)
}

fn normalised(mut url: Url, authority: &str) -> Result<Url, GuardError> {
    match url.host().ok_or(GuardError::EmptyLabel)? {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_owned();
            check_name(&name)?;
            url.set_host(Some(&name))?;
        }
        Host::Ipv4(ip) if host_text(authority) != ip.to_string() => return Err(GuardError::UnusualAddress(ip)),
        Host::Ipv4(_) | Host::Ipv6(_) => {}
    }
    url.set_fragment(None);
    Ok(url)
}

fn check_text(raw: &str) -> Result<(), GuardError> {
    if raw.len() > MAX_URL_BYTES {
        return Err(GuardError::TooLong { bytes: raw.len() });
    }
    raw.chars().find(|found| is_refused(*found)).map_or(Ok(()), |found| Err(GuardError::Character(found)))
}

fn is_refused(found: char) -> bool {
    found == '\\' || found.is_control() || found.is_whitespace() || is_invisible(found)
}

/// Whether a character is invisible or changes the direction of the text, and is neither a control character nor white
/// space.
#[must_use]
pub fn is_invisible(found: char) -> bool {
    INVISIBLE.iter().any(|invisible| invisible.contains(&found))
}

fn check_scheme(given: &str, allow_http: bool) -> Result<(), GuardError> {
    let is = |scheme: &str| given.eq_ignore_ascii_case(scheme);
    if is("https") || (allow_http && is("http")) {
        return Ok(());
    }
    let accepted = if allow_http { "`https` or `http`" } else { "`https`" };
    Err(GuardError::Scheme { given: given.to_owned(), accepted })
}

fn check_name(name: &str) -> Result<(), GuardError> {
    let labels: Vec<&str> = name.split('.').collect();
    if labels.contains(&"") {
        return Err(GuardError::EmptyLabel);
    }
    if name.len() > MAX_NAME || !labels.iter().all(|label| is_label(label)) {
        return Err(GuardError::MalformedName);
    }
    match labels.as_slice() {
        [] | [_] => Err(GuardError::SingleLabel(name.to_owned())),
        [.., last] if last.bytes().all(|byte| byte.is_ascii_digit()) => Err(GuardError::NumericName),
        [..] => check_suffix(name),
    }
}

fn is_label(label: &str) -> bool {
    label.len() <= MAX_LABEL && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn check_suffix(name: &str) -> Result<(), GuardError> {
    let is_under = |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let private = PRIVATE_SUFFIXES.into_iter().find(|suffix| is_under(suffix));
    private.map_or(Ok(()), |suffix| Err(GuardError::PrivateName(suffix)))
}

/// The host as written: everything before the port. Called for IPv4 hosts only, which have no brackets.
fn host_text(authority: &str) -> &str {
    authority.split(':').next().unwrap_or_default()
}

/// Accepts HTTP's own ports and those from 1024, except for well-known internal services.
pub(super) fn check_port(url: &Url) -> Result<(), GuardError> {
    let port = url.port_or_known_default().unwrap_or_default();
    match port {
        80 | 443 => Ok(()),
        FIRST_FREE_PORT.. if !INTERNAL_SERVICE_PORTS.contains(&port) => Ok(()),
        _ => Err(GuardError::Port(port)),
    }
}

/// Accepts every port but 0: an operator who opened a network knows its services.
pub(super) fn check_opened_port(url: &Url) -> Result<(), GuardError> {
    match url.port_or_known_default() {
        Some(1..) => Ok(()),
        Some(0) | None => Err(GuardError::Port(0)),
    }
}

/// The address in a URL, if its host is a literal one.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    url.host().as_ref().and_then(address_of)
}
