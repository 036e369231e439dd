//! One master key, ready for use.

use chacha20poly1305::aead::KeyInit as _;
use chacha20poly1305::{ChaCha20Poly1305, Key};
use hmac::Hmac;
use sha2::{Digest, Sha256};

use super::master_key::MasterKey;

/// Bytes of a key's id.
pub(super) const KEY_ID_BYTES: usize = 4;

pub(super) struct Opener {
    pub(super) id: [u8; KEY_ID_BYTES],
    pub(super) cipher: ChaCha20Poly1305,
    /// Authenticates what processes with this key tell each other.
    pub(super) voucher: Hmac<Sha256>,
    /// Signs the cursors that callers get and send back.
    pub(super) cursors: Hmac<Sha256>,
}

impl Opener {
    pub(super) fn new(key: &MasterKey) -> Option<Self> {
        let key = key.bytes();
        let digest = Sha256::digest(key);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        let derived = |purpose: &[u8]| {
            let derived = Sha256::new_with_prefix(purpose).chain_update(key).finalize();
            <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&derived).ok()
        };
        let (voucher, cursors) = (derived(b"posthaste: from node to node")?, derived(b"posthaste: cursors of lists")?);
        Some(Self { id, cipher: ChaCha20Poly1305::new(&Key::from(*key)), voucher, cursors })
    }
}
