//! Explains why a request got no answer, by walking down the client's error. Called by the sender and by token
//! requests.
//!
//! The texts are for the webhook's owner: short, with advice where there is any, and never with an address that a name
//! resolved to. The client's own messages are therefore shown only for what the receiver said over an open connection.

mod tls;

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use super::guard::GuardError;
use super::peer_check::remote_of;
use super::resolver::ResolveError;
use crate::domain::outcome::Outcome;

pub(super) use tls::STALLED_HANDSHAKE;

/// Longer texts are cut: over HTTP/2 the receiver can put its own words into an error.
const MAX_TEXT: usize = 200;

/// errno(3) on every Linux that Rust runs on: too many open files in this process, and in the system.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// The outcome, and its text for the owner.
pub(super) fn explain(error: &reqwest::Error) -> (Outcome, String) {
    // The request is built from vetted parts, so the URL that reqwest refused is a redirect's target. reqwest parses
    // that target even though redirects are off.
    if error.is_builder() || error.is_redirect() {
        let text = "answered with a redirect to an unreadable location; redirects are not followed";
        return (Outcome::Rejected, text.to_owned());
    }
    let cause = causes(error).find_map(named_cause);
    cause.unwrap_or_else(|| unnamed_cause(error))
}

/// Whether nothing was sent because this process, or the machine, has no file descriptor left. The receiver is not at
/// fault then.
pub(super) fn is_lack_of_descriptors(error: &reqwest::Error) -> bool {
    let is_lack = |error: &io::Error| matches!(error.raw_os_error(), Some(EMFILE | ENFILE));
    error.is_connect() && causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_lack)
}

/// The address of the connection that failed, if one was open.
pub(super) fn address(error: &reqwest::Error) -> Option<SocketAddr> {
    let error = causes(error).find_map(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>())?;
    remote_of(error.connect_info()?)
}

/// Recognises a cause by its type, at any depth of the chain.
fn named_cause(cause: &(dyn Error + 'static)) -> Option<(Outcome, String)> {
    if let Some(error) = cause.downcast_ref::<ResolveError>() {
        let outcome = match error {
            ResolveError::NoSuchName
            | ResolveError::Empty
            | ResolveError::TooMany
            | ResolveError::Failed
            | ResolveError::TooSlow => Outcome::DnsFailed,
            ResolveError::Refused(_) => Outcome::Blocked,
        };
        return Some((outcome, error.to_string()));
    }
    if let Some(refusal) = cause.downcast_ref::<GuardError>() {
        return Some((Outcome::Blocked, refusal.to_string()));
    }
    cause.downcast_ref::<rustls::Error>().map(|error| (Outcome::TlsFailed, short(&tls::text(error))))
}

fn unnamed_cause(error: &reqwest::Error) -> (Outcome, String) {
    let io_kind = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last().map(io::Error::kind);
    if !error.is_connect() {
        return (Outcome::ProtocolError, exchange_text(error, io_kind));
    }
    match io_kind {
        // A TCP connection cannot end before it is open, so the TLS handshake was cut off.
        Some(io::ErrorKind::UnexpectedEof) => {
            (Outcome::TlsFailed, "the receiver closed the connection during the TLS handshake".to_owned())
        }
        kind => (Outcome::ConnectFailed, connect_text(kind).to_owned()),
    }
}

fn connect_text(kind: Option<io::ErrorKind>) -> &'static str {
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused",
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) => "connection reset while connecting",
        Some(io::ErrorKind::TimedOut) => "no answer while connecting",
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => "no route to the receiver",
        Some(io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) => "no free local port to connect from",
        Some(_) | None => "cannot connect",
    }
}

fn exchange_text(error: &reqwest::Error, io_kind: Option<io::ErrorKind>) -> String {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match io_kind {
        Some(ConnectionReset | BrokenPipe) => "the receiver reset the connection".to_owned(),
        Some(UnexpectedEof) => "the receiver closed the connection within the answer".to_owned(),
        Some(_) | None => {
            let innermost = causes(error).last().map_or_else(String::new, ToString::to_string);
            short(&format!("no valid HTTP answer: {innermost}"))
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// The error, its source, and so on. `io::Error::source` skips the error that it wraps, so `get_ref` comes first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => cause.source(),
    })
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn a_tls_error_is_found_inside_an_io_error() {
        let inner = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let nested = io::Error::other(io::Error::other(inner));
        let (outcome, text) = causes(&nested).find_map(named_cause).unwrap();
        assert_eq!((outcome, text.as_str()), (Outcome::TlsFailed, "certificate expired"));
    }

    #[test]
    fn a_refused_name_is_blocked_and_an_unknown_one_a_dns_failure() {
        let outcome = |error: ResolveError| named_cause(&error).unwrap().0;
        assert_eq!(outcome(ResolveError::Refused(GuardError::ResolvedAddress)), Outcome::Blocked);
        assert_eq!(named_cause(&GuardError::Connection).unwrap().0, Outcome::Blocked);
        assert_eq!(outcome(ResolveError::NoSuchName), Outcome::DnsFailed);
        assert_eq!(outcome(ResolveError::Empty), Outcome::DnsFailed);
    }
}
