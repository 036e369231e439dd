//! Explains a TLS error to a webhook's owner, with advice where there is any. Called by `failure`. Pure.

use rustls::{AlertDescription, CertificateError, Error};

use crate::domain::moment::UnixMillis;

/// How many names of a certificate are shown. More would not tell which one was meant.
const SHOWN_NAMES: usize = 3;

/// The text when the deadline passes during the handshake.
pub(in crate::delivery) const STALLED_HANDSHAKE: &str =
    "the receiver accepted the connection, but the TLS handshake was not complete within the time limit";

pub(super) fn text(error: &Error) -> String {
    let text = match error {
        Error::InvalidCertificate(problem) => return certificate_text(problem),
        Error::InvalidMessage(_) => "the receiver does not speak TLS on this port",
        Error::AlertReceived(alert) => alert_text(*alert),
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TOO_OLD,
        Error::PeerMisbehaved(_) | Error::DecryptError => "the receiver breaks the rules of TLS",
        _ => "the TLS handshake failed",
    };
    text.to_owned()
}

const TOO_OLD: &str = "the receiver speaks no TLS version or cipher that is accepted; TLS 1.2 and 1.3 are";

/// An alert is about the engine's own certificate, as a rule.
fn alert_text(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "the receiver requires a client certificate; give `tls.clientCertificate` and `tls.clientKey`"
        }
        AlertDescription::UnknownCA => {
            "the receiver does not know who issued the client certificate; are intermediates missing from \
             `tls.clientCertificate`?"
        }
        AlertDescription::CertificateExpired => "the receiver says that the client certificate has expired",
        AlertDescription::CertificateRevoked => "the receiver says that the client certificate was revoked",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "the receiver refused the client certificate, or the lack of one",
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => TOO_OLD,
        AlertDescription::UnrecognisedName => "the receiver knows no such host name",
        AlertDescription::NoApplicationProtocol => "the receiver speaks neither HTTP/1.1 nor HTTP/2",
        AlertDescription::HandshakeFailure => {
            "the receiver refused the TLS handshake; does it accept TLS 1.2 or 1.3, or want a client certificate?"
        }
        _ => "the receiver refused the TLS handshake",
    }
}

fn certificate_text(problem: &CertificateError) -> String {
    let text = match problem {
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!("certificate expired at {}", moment(not_after.as_secs()));
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!("certificate not valid before {}", moment(not_before.as_secs()));
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            return format!("certificate not made out to {}, but to {}", expected.to_str(), names(presented));
        }
        CertificateError::Expired => "certificate expired",
        CertificateError::NotValidYet => "certificate not valid yet",
        CertificateError::NotValidForName => "certificate made out to another name",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownIssuer => {
            "certificate self-signed or issued by an authority that is not known; is an intermediate missing? A private \
             authority belongs into `tls.ca`"
        }
        CertificateError::BadSignature => {
            "certificate not signed by the authority of the name that it gives; was a private authority renewed? `tls.ca` \
             must hold the new one"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate not made for a server"
        }
        _ if is_authority(problem) => {
            "certificate is that of an authority; the receiver must show one for a server, issued by it"
        }
        _ => "certificate not valid",
    };
    text.to_owned()
}

/// A self-signed certificate that may sign others is refused as a server's own.
fn is_authority(problem: &CertificateError) -> bool {
    match problem {
        CertificateError::Other(other) => other.to_string().contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// The names in a certificate, without control characters: its owner chose them freely.
fn names(presented: &[String]) -> String {
    // rustls gives kind and name: `DnsName("example.com")`.
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').chars().filter(|sign| !sign.is_control()).collect::<String>()
    };
    let mut shown: Vec<String> = presented.iter().take(SHOWN_NAMES).map(bare).collect();
    match presented.len().checked_sub(SHOWN_NAMES) {
        _ if presented.is_empty() => return "no name".to_owned(),
        None | Some(0) => {}
        Some(more) => shown.push(format!("{more} more")),
    }
    shown.join(", ")
}

fn moment(seconds: u64) -> String {
    UnixMillis(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)).to_string()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn certificate(problem: CertificateError) -> String {
        text(&Error::InvalidCertificate(problem))
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    }

    #[test]
    fn times_are_told() {
        let expired = CertificateError::ExpiredContext { time: at(1_764_000_100), not_after: at(1_764_000_000) };
        assert_eq!(certificate(expired), "certificate expired at 2025-11-24T16:00:00.000Z");
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(1_764_000_000) };
        assert_eq!(certificate(early), "certificate not valid before 2025-11-24T16:00:00.000Z");
    }

    #[test]
    fn the_names_of_a_certificate_are_told_and_their_number_is_limited() {
        let wrong = |presented: &[&str]| {
            let presented = presented.iter().map(|name| (*name).to_owned()).collect();
            let expected = ServerName::try_from("hooks.example.com").unwrap();
            certificate(CertificateError::NotValidForNameContext { expected, presented })
        };
        assert_eq!(
            wrong(&["DnsName(\"a.example\")", "IpAddress(1.2.3.4)"]),
            "certificate not made out to hooks.example.com, but to a.example, 1.2.3.4"
        );
        assert_eq!(wrong(&[]), "certificate not made out to hooks.example.com, but to no name");
        let many = ["a", "b", "c", "d\n", "e"].map(|name| format!("DnsName(\"{name}\")"));
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(wrong(&many), "certificate not made out to hooks.example.com, but to a, b, c, 2 more");
    }

    #[test]
    fn what_can_be_done_about_it_is_told() {
        assert!(certificate(CertificateError::UnknownIssuer).contains("`tls.ca`"));
        let alert = |alert| text(&Error::AlertReceived(alert));
        assert!(alert(AlertDescription::CertificateRequired).contains("`tls.clientCertificate`"));
        assert!(alert(AlertDescription::ProtocolVersion).contains("TLS 1.2 and 1.3"));
        assert_eq!(alert(AlertDescription::InternalError), "the receiver refused the TLS handshake");
        assert_eq!(certificate(CertificateError::BadEncoding), "certificate not valid");
    }
}
