//! What an attempt called: the URL, the address, and the headers that were sent. Kept as one short text, written once
//! for each attempt: what follows from the delivery, such as `webhook-id`, is left out of it. Pure.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The parts of a request that its delivery does not tell. Those of [`Proof`] are kept of requests that failed: a receiver
/// that has accepted a request has accepted its signatures, and attempts that succeed are very many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestParts<'a> {
    #[serde(rename = "u", borrow)]
    pub url: Cow<'a, str>,
    /// `None` if no connection was made, or a kept one gave no answer.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// `webhook-timestamp`
    #[serde(rename = "t")]
    pub unix_seconds: i64,
    #[serde(flatten, borrow)]
    pub proof: Option<Proof<'a>>,
    /// Names of the webhook's own headers, whose values are not kept.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty", borrow)]
    pub hidden: Vec<Cow<'a, str>>,
}

/// What a receiver may have found fault with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof<'a> {
    /// `X-Webhook-Signature`
    #[serde(rename = "x", borrow)]
    pub signature: Cow<'a, str>,
    /// `webhook-signature`
    #[serde(rename = "s", borrow)]
    pub standard_signature: Cow<'a, str>,
    #[serde(rename = "l", borrow)]
    pub cdn_loop: Cow<'a, str>,
    #[serde(rename = "g", borrow)]
    pub user_agent: Cow<'a, str>,
}

/// [`RequestParts`] as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentRequest(Box<str>);

impl SentRequest {
    /// `None` never happens: a text can be made of all parts.
    #[must_use]
    pub fn of(parts: &RequestParts<'_>) -> Option<Self> {
        serde_json::to_string(parts).ok().map(|text| Self(text.into()))
    }

    /// # Errors
    ///
    /// When the text was not written by [`Self::of`].
    pub fn try_new(text: String) -> Result<Self, serde_json::Error> {
        let request = Self(text.into());
        request.parts()?;
        Ok(request)
    }

    /// # Errors
    ///
    /// Never: both constructors see to it.
    pub fn parts(&self) -> Result<RequestParts<'_>, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> RequestParts<'static> {
        RequestParts {
            url: "https://a.example/?q=\"1\"".into(),
            address: Some(([192, 0, 2, 7], 443).into()),
            unix_seconds: 1_764_000_000,
            proof: Some(Proof {
                signature: "5257".into(),
                standard_signature: "v1,K5o=".into(),
                cdn_loop: "posthaste-1".into(),
                user_agent: "Posthaste/0.1.0".into(),
            }),
            hidden: vec!["x-team".into()],
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let written = SentRequest::of(&parts()).unwrap();
        let read = SentRequest::try_new(written.as_str().to_owned()).unwrap();
        assert_eq!(read.parts().unwrap(), parts());
    }

    #[test]
    fn what_is_missing_takes_no_room() {
        let bare = RequestParts { address: None, hidden: Vec::new(), proof: None, ..parts() };
        let written = SentRequest::of(&bare).unwrap();
        assert_eq!(written.as_str(), r#"{"u":"https://a.example/?q=\"1\"","t":1764000000}"#);
        assert_eq!(written.parts().unwrap(), bare);
    }

    #[test]
    fn a_damaged_text_is_no_request() {
        SentRequest::try_new("{\"u\": 1}".to_owned()).unwrap_err();
    }
}
