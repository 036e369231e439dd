//! Verifies both signatures of a request as a receiver would, from the published description alone (I4). It shares no
//! code with the signing side.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::support::receiver::Request;

/// The format of `X-Webhook-Signature`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Hex,
    Prefixed,
    Timestamped,
}

/// Verifies the signatures of `request`, given every secret that its webhook ever had, newest first.
pub(crate) fn signatures(request: &Request, secrets: &[String], format: Format) -> Result<(), String> {
    let plain = plain_signers(request.header("x-webhook-signature"), &request.body, secrets, format)?;
    let standard = standard_signers(request, secrets)?;
    if plain != standard {
        return Err(format!("X-Webhook-Signature is by secrets {plain:?}, webhook-signature by {standard:?}"));
    }
    if plain.is_empty() || !plain.is_sorted() {
        return Err(format!("signed by secrets {plain:?}: must be at least one, newest first"));
    }
    Ok(())
}

/// The secrets (indices in `secrets`) that made the digests of `X-Webhook-Signature`, in the order of the header.
pub(crate) fn plain_signers(
    header: &str,
    body: &[u8],
    secrets: &[String],
    format: Format,
) -> Result<Vec<usize>, String> {
    let (text, label, digests) = match format {
        Format::Hex => (body.to_vec(), "", header),
        Format::Prefixed => (body.to_vec(), "sha256=", header),
        Format::Timestamped => {
            let (time, digests) = header.strip_prefix("t=").and_then(|rest| rest.split_once(',')).ok_or(header)?;
            ([time.as_bytes(), b".", body].concat(), "v1=", digests)
        }
    };
    let signer = |item: &str| {
        let digest = item.strip_prefix(label)?;
        secrets.iter().position(|secret| hex(&hmac(secret.as_bytes(), &text)) == digest)
    };
    digests
        .split(',')
        .map(|item| signer(item).ok_or_else(|| format!("no secret made {item:?} in {header:?}")))
        .collect()
}

/// The secrets that made the items of `webhook-signature` (Standard Webhooks 1.0.0), in the order of the header.
fn standard_signers(request: &Request, secrets: &[String]) -> Result<Vec<usize>, String> {
    let header = request.header("webhook-signature");
    let (id, time) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    if id.is_empty() || id.contains('.') || time.parse::<u64>().is_err() {
        return Err(format!("webhook-id {id:?}, webhook-timestamp {time:?}"));
    }
    let text = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
    let signer = |item: &str| {
        let digest = item.strip_prefix("v1,")?;
        secrets.iter().position(|secret| standard(secret, &text).is_some_and(|ours| ours == digest))
    };
    header.split(' ').map(|item| signer(item).ok_or_else(|| format!("no secret made {item:?} in {header:?}"))).collect()
}

fn standard(secret: &str, text: &[u8]) -> Option<String> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    Some(BASE64_STANDARD.encode(hmac(&key, text)))
}

pub(crate) fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC accepts any key length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
