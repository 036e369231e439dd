//! The key that seals secrets. It comes from the settings or from the file beside a SQLite database.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretBox, SecretString};

pub(super) const KEY_BYTES: usize = 32;

/// Never shown, and wiped from memory with its last copy.
#[derive(Clone)]
pub struct MasterKey(Arc<SecretBox<[u8; KEY_BYTES]>>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    pub(super) fn of(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
    }

    /// A random key.
    pub(super) fn generate() -> Self {
        Self::of(rand::random())
    }

    /// Reads 32 bytes of base64.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; KEY_BYTES] = STANDARD.decode(text.trim()).ok()?.try_into().ok()?;
        Some(Self::of(bytes))
    }

    /// Reads the lines of a file: the master key first, then earlier ones.
    #[must_use]
    pub fn parse_lines(text: &str) -> Option<Vec<Self>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<Self> = lines.map(Self::parse).collect::<Option<_>>()?;
        (!keys.is_empty()).then_some(keys)
    }

    /// The text that [`Self::parse`] reads.
    pub(super) fn to_base64(&self) -> SecretString {
        STANDARD.encode(self.bytes()).into()
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_its_text_and_is_never_shown() {
        let key = MasterKey::generate();

        let read =
            MasterKey::parse_lines(&format!("\n {} \n{}", key.to_base64().expose_secret(), "A".repeat(43) + "="));

        let read: Vec<_> = read.unwrap().iter().map(|key| *key.bytes()).collect();
        assert_eq!(read, [*key.bytes(), [0; KEY_BYTES]]);
        assert!(MasterKey::parse_lines("\n").is_none() && MasterKey::parse_lines("too short").is_none());
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
    }
}
