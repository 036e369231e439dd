//! Signs requests: our own `X-Webhook-Signature` and the Standard Webhooks header, both HMAC-SHA256.
//!
//! Every attempt signs, so the key schedule is computed once per secret and its state is cloned per signature. The
//! sender signs; the API makes and shows secrets.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::domain::policy::SignatureFormat;

/// The prefix of every secret (Standard Webhooks 1.0.0).
const PREFIX: &str = "whsec_";

/// How many bytes a secret may decode to. Standard Webhooks asks for 24 to 64; for a secret that the owner brings, 128
/// bits are enough.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// A new secret is as long as the hash it feeds.
const NEW_KEY_BYTES: usize = 32;

/// Hex digits of one SHA-256.
const DIGEST_HEX: usize = 64;

/// Base64 characters of one SHA-256.
const DIGEST_BASE64: usize = 44;

/// The longest text of an `i64`.
const UNIX_SECONDS_TEXT: usize = 20;

/// A secret shared with a receiver. Cheap to clone; `Debug` does not show it.
#[derive(Clone)]
pub struct SigningSecret(Arc<Keys>);

struct Keys {
    shown: String,
    /// Keyed with the secret as the user sees it, `whsec_` included.
    by_text: Hmac<Sha256>,
    /// Keyed with the bytes behind `whsec_`.
    by_bytes: Hmac<Sha256>,
}

impl SigningSecret {
    /// Parses a secret in the form in which it is shown and stored.
    ///
    /// # Errors
    ///
    /// Unless the text is `whsec_` and the base64 of 16 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let key = STANDARD.decode(encoded).map_err(|_| SecretError::Encoding)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(SecretError::Length { bytes: key.len() });
        }
        Ok(Self::with_key(text.to_owned(), &key))
    }

    /// A new secret from the thread's cryptographic generator, which the operating system seeds.
    #[must_use]
    pub fn generate() -> Self {
        let key: [u8; NEW_KEY_BYTES] = rand::random();
        Self::with_key(format!("{PREFIX}{}", STANDARD.encode(key)), &key)
    }

    fn with_key(shown: String, key: &[u8]) -> Self {
        let by_text = keyed(shown.as_bytes());
        Self(Arc::new(Keys { shown, by_text, by_bytes: keyed(key) }))
    }

    /// The secret itself, for its owner's eyes and for the encrypted column.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0.shown
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

/// Why a text is not a signing secret. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("a signing secret starts with `whsec_`")]
    Prefix,
    #[error("what follows `whsec_` is not standard base64 with padding")]
    Encoding,
    #[error("what follows `whsec_` decodes to {bytes} bytes, 16 to 64 are accepted")]
    Length { bytes: usize },
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length (RFC 2104)")
}

/// The value of `X-Webhook-Signature`: one digest per secret, in their order, with a comma and no space between.
#[must_use]
pub fn x_webhook_signature(
    secrets: &[SigningSecret],
    format: SignatureFormat,
    unix_seconds: i64,
    body: &[u8],
) -> String {
    let mut value = String::with_capacity(UNIX_SECONDS_TEXT + secrets.len() * (DIGEST_HEX + ",sha256=".len()));
    match format {
        SignatureFormat::Hex => push_digests(&mut value, secrets, "", &[body]),
        SignatureFormat::Prefixed => push_digests(&mut value, secrets, "sha256=", &[body]),
        SignatureFormat::Timestamped => {
            let time = unix_seconds.to_string();
            value.extend(["t=", &time, ","]);
            push_digests(&mut value, secrets, "v1=", &[time.as_bytes(), b".", body]);
        }
    }
    value
}

fn push_digests(value: &mut String, secrets: &[SigningSecret], label: &str, signed: &[&[u8]]) {
    for (place, SigningSecret(keys)) in secrets.iter().enumerate() {
        value.push_str(if place == 0 { "" } else { "," });
        value.push_str(label);
        HEXLOWER.encode_append(&digest(&keys.by_text, signed), value);
    }
}

/// The value of `webhook-signature` (Standard Webhooks 1.0.0): one `v1,<base64>` per secret, in their order.
///
/// Exactly one space separates two signatures, and none stands at the ends: the Python library fails on anything else.
#[must_use]
pub fn standard_webhooks(secrets: &[SigningSecret], id: &str, unix_seconds: i64, body: &[u8]) -> String {
    let opening = format!("{id}.{unix_seconds}.");
    let mut value = String::with_capacity(secrets.len() * (DIGEST_BASE64 + " v1,".len()));
    for (place, SigningSecret(keys)) in secrets.iter().enumerate() {
        value.push_str(if place == 0 { "v1," } else { " v1," });
        STANDARD.encode_string(digest(&keys.by_bytes, &[opening.as_bytes(), body]), &mut value);
    }
    value
}

fn digest(key: &Hmac<Sha256>, signed: &[&[u8]]) -> [u8; 32] {
    let mut mac = key.clone();
    for part in signed {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const TIME: i64 = 1_614_265_330;

    fn secrets(texts: &[&str]) -> Vec<SigningSecret> {
        texts.iter().map(|text| SigningSecret::parse(text).unwrap()).collect()
    }

    fn ours(texts: &[&str], format: SignatureFormat) -> String {
        x_webhook_signature(&secrets(texts), format, TIME, BODY)
    }

    /// The digest as anyone would compute it from the docs, without this module's precomputed keys.
    fn plain_digest(key: &str, signed: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(signed);
        HEXLOWER.encode(&mac.finalize().into_bytes())
    }

    #[test]
    fn standard_webhooks_vectors_verify() {
        assert_eq!(
            standard_webhooks(&secrets(&[OLD]), "msg_p5jXN8AQM9LWM0D4loKWxJek", TIME, BODY),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            standard_webhooks(&secrets(&[NEW]), "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn while_two_secrets_sign_the_newest_comes_first_after_exactly_one_space() {
        let alone = |text| standard_webhooks(&secrets(&[text]), "msg_1", TIME, BODY);
        let both = standard_webhooks(&secrets(&[NEW, OLD]), "msg_1", TIME, BODY);
        assert_eq!(both, format!("{} {}", alone(NEW), alone(OLD)));
    }

    #[test]
    fn hex_is_keyed_with_the_secret_as_shown() {
        // echo -n '{"test": 2432232314}' | openssl dgst -sha256 -hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
        let by_openssl = "80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c";
        assert_eq!(ours(&[OLD], SignatureFormat::Hex), by_openssl);
    }

    #[test]
    fn each_format_lists_every_secret_newest_first() {
        let (new, old) = (plain_digest(NEW, BODY), plain_digest(OLD, BODY));
        assert_eq!(ours(&[NEW, OLD], SignatureFormat::Hex), format!("{new},{old}"));
        assert_eq!(ours(&[NEW, OLD], SignatureFormat::Prefixed), format!("sha256={new},sha256={old}"));

        let signed = [b"1614265330.", BODY].concat();
        let (new, old) = (plain_digest(NEW, &signed), plain_digest(OLD, &signed));
        assert_eq!(ours(&[NEW, OLD], SignatureFormat::Timestamped), format!("t=1614265330,v1={new},v1={old}"));
    }

    #[test]
    fn a_generated_secret_is_new_and_reads_back() {
        let (one, other) = (SigningSecret::generate(), SigningSecret::generate());
        assert_ne!(one.reveal(), other.reveal());
        let read = SigningSecret::parse(one.reveal()).unwrap();
        assert_eq!(
            standard_webhooks(&[read], "msg_1", TIME, BODY),
            standard_webhooks(std::slice::from_ref(&one), "msg_1", TIME, BODY)
        );
        assert_eq!(one.reveal().len(), PREFIX.len() + DIGEST_BASE64);
    }

    #[test]
    fn a_secret_is_whsec_and_base64_of_16_to_64_bytes() {
        let of_bytes = |bytes: usize| SigningSecret::parse(&format!("{PREFIX}{}", STANDARD.encode(vec![7; bytes])));
        assert!(of_bytes(16).is_ok() && of_bytes(64).is_ok());
        assert_eq!(of_bytes(15).unwrap_err(), SecretError::Length { bytes: 15 });
        assert_eq!(of_bytes(65).unwrap_err(), SecretError::Length { bytes: 65 });
        assert_eq!(SigningSecret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap_err(), SecretError::Prefix);
        assert_eq!(SigningSecret::parse("whsec_not base64").unwrap_err(), SecretError::Encoding);
    }

    #[test]
    fn debug_shows_nothing_of_a_secret() {
        assert_eq!(format!("{:?}", secrets(&[OLD])), "[SigningSecret(redacted)]");
    }

    proptest! {
        #[test]
        fn a_text_is_refused_without_being_quoted_or_signs_as_it_was_given(text in "(whsec_)?[ -~]{0,96}") {
            match SigningSecret::parse(&text) {
                Ok(secret) => prop_assert_eq!(secret.reveal(), text),
                Err(error) => prop_assert!(text.len() < 12 || !error.to_string().contains(&text)),
            }
        }

        #[test]
        fn another_body_time_id_or_secret_is_another_signature(
            key: [u8; 32], other: [u8; 32], body: Vec<u8>, time in 0..=4_102_444_800_i64, place: prop::sample::Index,
        ) {
            prop_assume!(key != other && !body.is_empty());
            let secret = |key: [u8; 32]| [SigningSecret::parse(&format!("{PREFIX}{}", STANDARD.encode(key))).unwrap()];
            let mut changed = body.clone();
            changed[place.index(body.len())] ^= 1;
            let signed = standard_webhooks(&secret(key), "evt_1", time, &body);
            for different in [
                standard_webhooks(&secret(other), "evt_1", time, &body),
                standard_webhooks(&secret(key), "evt_2", time, &body),
                standard_webhooks(&secret(key), "evt_1", time + 1, &body),
                standard_webhooks(&secret(key), "evt_1", time, &changed),
            ] {
                prop_assert_ne!(&signed, &different);
            }
        }
    }
}
