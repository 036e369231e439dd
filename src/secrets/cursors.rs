//! Signs the cursors of lists, so that no caller can make one up. Every process with the master key, or with an earlier
//! one, accepts them.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Keys derived from the master key and from earlier ones. Cheap to clone.
#[derive(Clone)]
pub struct CursorKeys(Arc<[Hmac<Sha256>]>);

impl std::fmt::Debug for CursorKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKeys(..)")
    }
}

impl CursorKeys {
    /// Bytes of a signature: half of an HMAC-SHA256 (RFC 2104, 5).
    pub const SIGNATURE: usize = 16;

    pub(super) fn of(keys: impl Iterator<Item = Hmac<Sha256>>) -> Self {
        Self(keys.collect())
    }

    /// Signs with the newest key.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; Self::SIGNATURE] {
        let mac = self.0.first().map(|key| over(key, parts).finalize().into_bytes());
        mac.map_or([0; Self::SIGNATURE], |mac| std::array::from_fn(|place| mac[place]))
    }

    /// Whether one of the keys has signed this.
    #[must_use]
    pub fn is_signed(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        let is_of = |key: &Hmac<Sha256>| over(key, parts).verify_truncated_left(signature).is_ok();
        signature.len() == Self::SIGNATURE && self.0.iter().any(is_of)
    }

    /// Keys for tests of what signs with them.
    #[cfg(test)]
    pub(crate) fn of_bytes(key: &[u8]) -> Self {
        Self::of(<Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).into_iter())
    }
}

/// Puts the length of each part before it, so that no two lists of parts are the same bytes.
fn over(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}
