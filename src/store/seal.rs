//! Seals secrets at rest: ChaCha20-Poly1305 (RFC 8439) under the master key, bound to the row that holds them.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::connect::{OpenError, beside};

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 12;

/// First byte of a sealed value, so that another layout can follow.
const LAYOUT: u8 = 1;

/// The key that seals all others. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; KEY_BYTES]);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// Reads 32 bytes of base64.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The key in `<database>.key`, made on first use and readable by its owner alone.
    pub(super) fn beside(database: &Path) -> Result<Self, OpenError> {
        let path = beside(database, "key");
        let failed = |source| OpenError::File { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&path) {
            Ok(mut file) => {
                let key = rand::random::<[u8; KEY_BYTES]>();
                file.write_all(STANDARD.encode(key).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(Self(key))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let mut text = String::new();
                std::fs::File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).map_err(failed)?;
                Self::parse(&text).ok_or_else(|| OpenError::MasterKey { path, why: "not a master key".to_owned() })
            }
            Err(source) => Err(failed(source)),
        }
    }
}

pub(super) struct Seal {
    cipher: ChaCha20Poly1305,
    key_id: [u8; KEY_ID_BYTES],
}

impl Seal {
    pub(super) fn new(key: &MasterKey) -> Self {
        let digest = Sha256::digest(key.0);
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        Self { cipher: ChaCha20Poly1305::new(&Key::from(key.0)), key_id }
    }

    /// `layout | key id | nonce | ciphertext and tag`; `row` must be given again to open it.
    pub(super) fn close(&self, row: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let nonce = rand::random::<[u8; NONCE_BYTES]>();
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: row })
            .map_err(|_| StoreError::unreadable("value", "it is too large to seal"))?;
        Ok([&[LAYOUT][..], &self.key_id, &nonce, &sealed].concat())
    }

    /// Whether the value was sealed under another master key. What has no layout that is known tells nothing.
    pub(super) fn is_foreign(&self, sealed: &[u8]) -> bool {
        match sealed.split_first() {
            Some((&LAYOUT, rest)) => rest.get(..KEY_ID_BYTES).is_some_and(|key_id| key_id != self.key_id),
            Some(_) | None => false,
        }
    }

    pub(super) fn open(&self, row: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let unreadable = |why: &str| StoreError::unreadable("secret", why);
        let (&layout, rest) = sealed.split_first().ok_or_else(|| unreadable("it is empty"))?;
        if layout != LAYOUT || rest.len() < KEY_ID_BYTES + NONCE_BYTES {
            return Err(unreadable("unknown layout"));
        }
        let (key_id, rest) = rest.split_at(KEY_ID_BYTES);
        if key_id != self.key_id {
            return Err(unreadable("it was sealed under another master key"));
        }
        let (nonce, ciphertext) = rest.split_at(NONCE_BYTES);
        let nonce = Nonce::try_from(nonce).map_err(|_| unreadable("unknown layout"))?;
        self.cipher
            .decrypt(&nonce, Payload { msg: ciphertext, aad: row })
            .map_err(|_| unreadable("it does not belong to this row or was changed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_for_one_row_opens_for_no_other() {
        let seal = Seal::new(&MasterKey([7; KEY_BYTES]));
        let sealed = seal.close(b"row 1", b"secret").unwrap();
        assert_eq!(seal.open(b"row 1", &sealed).unwrap(), b"secret");
        assert!(seal.open(b"row 2", &sealed).is_err());
        assert!(!seal.is_foreign(&sealed));
        let other = Seal::new(&MasterKey([8; KEY_BYTES]));
        assert!(other.is_foreign(&sealed));
        assert_eq!(
            other.open(b"row 1", &sealed).unwrap_err().to_string(),
            "cannot read stored secret: it was sealed under another master key"
        );
    }

    #[test]
    fn no_bytes_panic() {
        let seal = Seal::new(&MasterKey([7; KEY_BYTES]));
        let sealed = seal.close(b"", b"secret").unwrap();
        for end in 0..sealed.len() {
            assert!(seal.open(b"", &sealed[..end]).is_err());
            assert!(!seal.is_foreign(&sealed[..end]), "a stump tells nothing");
        }
    }
}
