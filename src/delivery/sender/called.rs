//! What an attempt calls: noted before the request goes to the client, written down once the address is known.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use url::Host;

use super::request::{WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, X_WEBHOOK_SIGNATURE};
use crate::delivery::hops::CDN_LOOP;
use crate::delivery::target::Target;
use crate::domain::outcome::Outcome;
use crate::domain::request::{Proof, RequestParts, SentRequest};

/// The parts of a request that differ from attempt to attempt. A clone of a header value copies nothing.
pub(super) struct Called<'a> {
    target: &'a Target,
    has_token: bool,
    timestamp: Option<HeaderValue>,
    signature: Option<HeaderValue>,
    standard_signature: Option<HeaderValue>,
    cdn_loop: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
}

impl<'a> Called<'a> {
    pub(super) fn of(request: &reqwest::Request, target: &'a Target) -> Self {
        let headers = request.headers();
        let sends_own = || target.headers.iter().any(|(name, _)| name == AUTHORIZATION);
        Self {
            target,
            has_token: headers.contains_key(AUTHORIZATION) && !sends_own(),
            timestamp: headers.get(WEBHOOK_TIMESTAMP).cloned(),
            signature: headers.get(X_WEBHOOK_SIGNATURE).cloned(),
            standard_signature: headers.get(WEBHOOK_SIGNATURE).cloned(),
            cdn_loop: headers.get(CDN_LOOP).cloned(),
            user_agent: headers.get(USER_AGENT).cloned(),
        }
    }

    /// The request as it is stored, with the address that was called as far as it is known.
    pub(super) fn at(&self, noted: Option<SocketAddr>, outcome: &Outcome) -> Option<SentRequest> {
        let own = self.target.headers.iter().map(|(name, _)| name.as_str());
        let token = self.has_token.then_some(AUTHORIZATION.as_str());
        let url = &self.target.url;
        let port = url.port_or_known_default().unwrap_or_default();
        let literal = || literal(url.host()?).map(|ip| SocketAddr::new(ip, port));
        // The resolver knows no ports.
        let with_port = |address: SocketAddr| SocketAddr::new(address.ip(), port);
        SentRequest::of(&RequestParts {
            url: url.as_str().into(),
            address: noted.map(with_port).or_else(literal),
            unix_seconds: text(self.timestamp.as_ref()).parse().unwrap_or_default(),
            proof: (*outcome != Outcome::Success).then(|| self.proof()),
            hidden: own.chain(token).map(Cow::from).collect(),
        })
    }
}

impl Called<'_> {
    fn proof(&self) -> Proof<'_> {
        Proof {
            signature: text(self.signature.as_ref()),
            standard_signature: text(self.standard_signature.as_ref()),
            cdn_loop: text(self.cdn_loop.as_ref()),
            user_agent: text(self.user_agent.as_ref()),
        }
    }
}

fn literal(host: Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(_) => None,
    }
}

/// The engine sets these headers, in ASCII.
fn text(value: Option<&HeaderValue>) -> Cow<'_, str> {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().into()
}
