//! Decides whom the engine may call. A webhook's URL is written by its owner, who may be an attacker.
//!
//! Called when a URL is saved, when a target is built, before a literal address is dialled, for every address that a
//! name resolves to, and for the remote address of a new connection. `url_rules` checks the text, `addresses` has the
//! tables, `embedded` finds addresses inside an address, and `local_network` tells this machine's own addresses. Never
//! touches the network.

mod addresses;
mod embedded;
mod url_rules;

use std::net::{IpAddr, SocketAddr};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use url::{Host, Url};

use self::embedded::notations;

pub use url_rules::{MAX_URL_BYTES, is_invisible};

/// The rules of this process: the fixed tables, the networks that the operator opened, and our own addresses.
#[derive(Debug)]
pub struct Guard {
    /// Development only: bodies and secrets travel in the clear.
    allow_http: bool,
    /// Networks that may be called although the tables refuse them.
    egress_allow: Vec<IpNet>,
    own: ArcSwap<Own>,
}

/// The addresses of this process, which no webhook needs to call.
#[derive(Debug, Default)]
pub struct Own {
    /// Refused even if they are public, unless the operator opened them.
    pub addresses: Vec<IpAddr>,
    /// Where this process listens and where other nodes reach it. Refused even if the operator opened the address.
    pub listeners: Vec<SocketAddr>,
}

impl Guard {
    #[must_use]
    pub fn new(allow_http: bool, egress_allow: Vec<IpNet>) -> Self {
        Self { allow_http, egress_allow, own: ArcSwap::default() }
    }

    /// Replaces the set of our own addresses.
    pub fn refuse_own(&self, Own { addresses, listeners }: Own) {
        let addresses = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
        let listeners = listeners.into_iter().map(|at| SocketAddr::new(at.ip().to_canonical(), at.port())).collect();
        self.own.store(Own { addresses, listeners }.into());
    }

    /// Parses a webhook's URL and returns its normalised form, which is the one to store, show and call.
    ///
    /// # Errors
    ///
    /// The error says what was found and what is accepted.
    pub fn check_url(&self, raw: &str) -> Result<Url, GuardError> {
        let url = url_rules::read(raw, self.allow_http)?;
        self.check_literal(&url)?;
        match url_rules::literal(&url) {
            Some(ip) if notations(ip).all(|ip| self.is_opened(ip)) => url_rules::check_opened_port(&url)?,
            Some(_) | None => url_rules::check_port(&url)?,
        }
        Ok(url)
    }

    /// Checks an address before it is dialled: the address as written, and every IPv4 address inside it as if it stood
    /// alone. A network that the operator opened covers only addresses in its own notation, so `::/0` opens no IPv4
    /// address.
    ///
    /// # Errors
    ///
    /// When the address is neither public nor opened by the operator, or is a cloud's metadata service, which nobody
    /// can open.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), GuardError> {
        let closed = notations(ip).find_map(|inner| Some((inner, addresses::never_open(inner)?)));
        let refused = closed.or_else(|| notations(ip).find_map(|inner| Some((inner, self.refusal(inner)?))));
        match refused {
            None => Ok(()),
            Some((inner, reason)) if inner == ip => Err(GuardError::Address { ip, reason }),
            Some((inner, reason)) => Err(GuardError::Embedded { ip, inner, reason }),
        }
    }

    /// Why one notation is refused. An address that is not public is refused as such even if it is ours, so that nobody
    /// can ask which of those addresses is ours.
    fn refusal(&self, ip: IpAddr) -> Option<&'static str> {
        if self.is_opened(ip) {
            return None;
        }
        let is_own = || self.own.load().addresses.contains(&ip);
        addresses::not_public(ip).or_else(|| is_own().then_some("one of our own addresses"))
    }

    /// Checks the address in a target's URL, if its host is one. HTTP clients ask no resolver about literal addresses.
    ///
    /// # Errors
    ///
    /// As [`Self::check_address`], or when the address is one of our listeners. A name always passes; its addresses are
    /// checked once they are known.
    pub fn check_literal(&self, url: &Url) -> Result<(), GuardError> {
        let Some(ip) = url_rules::literal(url) else { return Ok(()) };
        self.check_address(ip)?;
        let is_ours = self.is_listener(SocketAddr::new(ip, url.port_or_known_default().unwrap_or_default()));
        if is_ours { Err(GuardError::OwnListener) } else { Ok(()) }
    }

    /// Checks the remote address of a new connection, before anything is sent through it.
    ///
    /// # Errors
    ///
    /// The error does not show the address, because a name may have led to it.
    pub fn check_connection(&self, remote: SocketAddr) -> Result<(), GuardError> {
        if self.check_address(remote.ip()).is_err() || self.is_listener(remote) {
            return Err(GuardError::Connection);
        }
        Ok(())
    }

    fn is_opened(&self, ip: IpAddr) -> bool {
        self.egress_allow.iter().any(|net| net.contains(&ip))
    }

    fn is_listener(&self, called: SocketAddr) -> bool {
        let own = self.own.load();
        let is_here = |ip: IpAddr| ip.is_loopback() || own.addresses.contains(&ip);
        let leads_to = |listener: IpAddr, ip: IpAddr| {
            // A connection to the unspecified address reaches this machine.
            listener == ip || ip.is_unspecified() || (listener.is_unspecified() && is_here(ip))
        };
        let mut on_this_port = own.listeners.iter().filter(|listener| listener.port() == called.port());
        on_this_port.any(|listener| notations(called.ip()).any(|ip| leads_to(listener.ip(), ip)))
    }
}

/// The address and port of a URL whose host is an address.
#[must_use]
pub fn address_in(url: &str) -> Option<SocketAddr> {
    let url = Url::parse(url).ok()?;
    Some(SocketAddr::new(url_rules::literal(&url)?, url.port_or_known_default()?))
}

/// The address in a URL's host, if the host is one.
fn address_of(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(*ip)),
    }
}

/// Why a URL or an address may not be called. The webhook's owner sees the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("the URL has {bytes} bytes, at most {MAX_URL_BYTES} are accepted")]
    TooLong { bytes: usize },
    #[error("the URL contains {}, write it percent-encoded or leave it out", .0.escape_unicode())]
    Character(char),
    #[error("the URL must be absolute and start with `https://`")]
    NotAbsolute,
    #[error("the scheme `{given}` is not accepted, only {accepted}")]
    Scheme { given: String, accepted: &'static str },
    #[error("the URL contains a user name or password, send credentials in a custom header")]
    Userinfo,
    #[error("the host contains `%`, write it as it is")]
    EncodedHost,
    #[error("the URL cannot be read: {0}")]
    Unreadable(#[from] url::ParseError),
    #[error("the host is missing or has an empty label, give a full name such as `hooks.example.com`")]
    EmptyLabel,
    #[error(
        "a label of the host is not 1 to 63 letters, digits, `-` or `_`, or the host is longer than 253 characters"
    )]
    MalformedName,
    #[error("the host `{0}` has one label only, give a full name such as `hooks.example.com`")]
    SingleLabel(String),
    #[error("the host ends in a number, give a name or an address such as `192.0.2.1`")]
    NumericName,
    #[error("an IPv4 address is accepted in its plain form only, here `{0}`")]
    UnusualAddress(std::net::Ipv4Addr),
    #[error("names under `{0}` belong to private networks, give a public name")]
    PrivateName(&'static str),
    #[error("port {0} is not accepted, use 80, 443 or one from 1024 that is no well-known internal service")]
    Port(u16),
    #[error("{ip} is {reason}, only public addresses may be called")]
    Address { ip: IpAddr, reason: &'static str },
    #[error("{ip} leads to {inner}, which is {reason}; only public addresses may be called")]
    Embedded { ip: IpAddr, inner: IpAddr, reason: &'static str },
    #[error("this is our own API, give another address")]
    OwnListener,
    #[error("the name resolves to an address that may not be called")]
    ResolvedAddress,
    #[error("the connection came to an address that may not be called")]
    Connection,
    #[error("the header `{name}` cannot be sent: {message}")]
    Header { name: String, message: String },
}

#[cfg(test)]
mod tests;
