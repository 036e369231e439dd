//! Whom the engine may call. A webhook's URL is written by its owner, who may be an attacker.
//!
//! Asked when a URL is saved, when a target is built, before a literal address is dialled and about every address
//! that a name resolves to. `url_rules` reads the text, `addresses` knows the tables. Never touches the network.

mod addresses;
mod url_rules;

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

pub use url_rules::MAX_URL_BYTES;

/// The rules of this process: the fixed tables and what the operator opened.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Development only: the body and its secrets travel in the clear.
    allow_http: bool,
    /// Networks that may be called although the tables refuse them.
    egress_allow: Vec<IpNet>,
    /// Addresses of this machine, refused even where they are public.
    own: Vec<IpAddr>,
}

impl Guard {
    #[must_use]
    pub fn new(allow_http: bool, egress_allow: Vec<IpNet>) -> Self {
        Self { allow_http, egress_allow, own: Vec::new() }
    }

    /// The same rules, and these addresses of our own interfaces and listeners are refused too, unless the operator
    /// opened them.
    #[must_use]
    pub fn refusing_own(self, own: Vec<IpAddr>) -> Self {
        Self { own, ..self }
    }

    /// Reads a webhook's URL and returns its normalised form, which is the one to store, show and call.
    ///
    /// # Errors
    ///
    /// What was found and what is accepted.
    pub fn check_url(&self, raw: &str) -> Result<Url, GuardError> {
        let url = url_rules::read(raw, self.allow_http)?;
        match url_rules::literal(&url) {
            Some(ip) => {
                self.check_address(ip)?;
                if !self.is_opened(ip) {
                    url_rules::check_port(&url)?;
                }
            }
            None => url_rules::check_port(&url)?,
        }
        Ok(url)
    }

    /// Decides about an address that is about to be dialled.
    ///
    /// # Errors
    ///
    /// When it is not public and not opened by the operator, or a cloud's metadata service, which nobody can open.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), GuardError> {
        let refusal = if let Some(reason) = addresses::never_open(ip) {
            Some(reason)
        } else if self.is_opened(ip) {
            None
        } else if self.own.contains(&ip) {
            Some("one of our own addresses")
        } else {
            addresses::not_public(ip)
        };
        refusal.map_or(Ok(()), |reason| Err(GuardError::Address { ip, reason }))
    }

    /// Decides about the address in a target's URL, if it is one. HTTP clients ask no resolver about literals.
    ///
    /// # Errors
    ///
    /// As [`Self::check_address`]; a name always passes, its addresses are vetted when they are known.
    pub fn check_literal(&self, url: &Url) -> Result<(), GuardError> {
        url_rules::literal(url).map_or(Ok(()), |ip| self.check_address(ip))
    }

    fn is_opened(&self, ip: IpAddr) -> bool {
        self.egress_allow.iter().any(|net| net.contains(&ip))
    }
}

/// The address in a URL's host, if the host is one.
fn address_of(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(*ip)),
    }
}

/// Why a URL or an address may not be called, in words for the webhook's owner.
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
    #[error("the name resolves to an address that may not be called")]
    ResolvedAddress,
    #[error("the header `{name}` cannot be sent: {message}")]
    Header { name: String, message: String },
}

#[cfg(test)]
mod tests;
