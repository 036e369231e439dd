//! Why a request got no answer, found by walking down the client's error. Asked by the sender alone.
//!
//! The texts are for the webhook's owner: short, with what to do where that is known, and never with an address that
//! a name was resolved to. So the client's own messages are shown only for what the receiver said over an open
//! connection.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::guard::GuardError;
use super::outcome::Outcome;
use super::resolver::ResolveError;

/// Longer texts are cut; HTTP/2 lets the receiver put its own words into an error.
const MAX_TEXT: usize = 200;

/// errno(3) on every Linux that Rust runs on: too many open files in this process, and in the system.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// What happened, and the words for it.
pub(super) fn explain(error: &reqwest::Error) -> (Outcome, String) {
    // The request itself is built from vetted parts; what reqwest refuses to build is the redirect's target, which it
    // reads although it is told to follow none.
    if error.is_builder() || error.is_redirect() {
        let text = "answered with a redirect to an unreadable location; redirects are not followed";
        return (Outcome::Rejected, text.to_owned());
    }
    let cause = causes(error).find_map(named_cause);
    cause.unwrap_or_else(|| unnamed_cause(error))
}

/// Whether nothing was sent because this process, or the machine, has no descriptor left for a connection. That is no
/// fault of the receiver.
pub(super) fn is_lack_of_descriptors(error: &reqwest::Error) -> bool {
    let is_lack = |error: &io::Error| matches!(error.raw_os_error(), Some(EMFILE | ENFILE));
    error.is_connect() && causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_lack)
}

/// Causes that name themselves wherever they stand in the chain.
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
    cause.downcast_ref::<rustls::Error>().map(|error| (Outcome::TlsFailed, tls_text(error).to_owned()))
}

fn unnamed_cause(error: &reqwest::Error) -> (Outcome, String) {
    let io_kind = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last().map(io::Error::kind);
    if !error.is_connect() {
        return (Outcome::ProtocolError, exchange_text(error, io_kind));
    }
    match io_kind {
        // A TCP connection cannot end before it exists: this was the TLS handshake.
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
            format!("no valid HTTP answer: {innermost}").chars().take(MAX_TEXT).collect()
        }
    }
}

fn tls_text(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(problem) => certificate_text(problem),
        rustls::Error::InvalidMessage(_) => "the receiver does not speak TLS on this port",
        rustls::Error::AlertReceived(_) => "the receiver refused the TLS handshake",
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
            "the receiver speaks no TLS version or cipher that is accepted; TLS 1.2 and 1.3 are"
        }
        _ => "the TLS handshake failed",
    }
}

fn certificate_text(problem: &CertificateError) -> &'static str {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate not valid yet",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownIssuer => "certificate not signed by a known authority; is an intermediate missing?",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate made out to another name"
        }
        _ => "certificate not valid",
    }
}

/// The error, its source, and so on. An `io::Error` skips what it wraps when asked for its source, so it is asked for
/// its content first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => cause.source(),
    })
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn certificate_problems_are_told_apart() {
        let text = |problem| tls_text(&rustls::Error::InvalidCertificate(problem));
        assert_eq!(text(CertificateError::NotValidForName), "certificate made out to another name");
        assert!(text(CertificateError::UnknownIssuer).starts_with("certificate not signed"));
        assert_eq!(text(CertificateError::BadEncoding), "certificate not valid");
    }
}
