//! The text of API keys: `phk_<key id>_<secret><checksum>`. The id finds the row, the secret proves the caller, and the
//! checksum refuses a mistyped key without a look at the database.

use sha2::{Digest as _, Sha256};

use crate::domain::id::{KeyId, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::store::keys::NewApiKey;

use super::fields::readable;
use super::names::NAME;
use super::scope::Scope;

const PREFIX: &str = "phk_";

/// Characters of a key id after its prefix `key_`.
pub(super) const ID: usize = 26;

/// Characters of the secret, random and base62: 27 · log₂ 62 = 160.7 bits.
const SECRET: usize = 27;

/// Characters of the checksum: the fewest in base62 that hold 32 bits.
const CHECKSUM: usize = 6;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// SHA-256 of a whole key.
pub(super) type Digest = [u8; 32];

pub(super) fn digest(key: &[u8]) -> Digest {
    Sha256::digest(key).into()
}

/// Makes the first admin key: the text to show once, and the row to store.
#[must_use]
pub fn new_first_admin_key() -> (String, NewApiKey) {
    new_admin_key("first admin key".to_owned(), None)
}

/// Whether a key may have this name, on the command line and over the API.
#[must_use]
pub fn is_key_name(text: &str) -> bool {
    NAME.contains(&text.chars().count()) && !text.trim().is_empty() && readable::check_line(text).is_ok()
}

/// Makes an admin key: the text to show once, and the row to store.
#[must_use]
pub fn new_admin_key(name: String, expires_at: Option<UnixMillis>) -> (String, NewApiKey) {
    mint(None, name, Vec::new(), expires_at)
}

/// Makes a tenant's key with every scope: the text to show once, and the row to store.
#[must_use]
pub fn new_tenant_key(tenant: TenantNum, name: &str) -> (String, NewApiKey) {
    mint(Some(tenant), name.to_owned(), Scope::ALL.map(|scope| scope.as_str().to_owned()).to_vec(), None)
}

/// Makes a key; without a tenant, an admin key.
pub(super) fn mint(
    tenant: Option<TenantNum>,
    name: String,
    scopes: Vec<String>,
    expires_at: Option<UnixMillis>,
) -> (String, NewApiKey) {
    let id = KeyId::generate();
    let shown = spell(id.to_string().trim_start_matches("key_"));
    let digest = digest(shown.as_bytes()).to_vec();
    let row = NewApiKey { id, tenant, name, scopes, digest, created_at: UnixMillis::now(), expires_at };
    (shown, row)
}

/// Makes the text of a key with this id and a new secret.
pub(super) fn spell(id: &str) -> String {
    let mut shown = format!("{PREFIX}{id}_");
    shown.extend((0..SECRET).map(|_| char::from(BASE62[rand::random_range(0..BASE62.len())])));
    shown.push_str(&checksum(&shown));
    shown
}

/// The id part of a text that has the form of a key.
pub(super) fn id_text(key: &str) -> Option<[u8; ID]> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let is_whole = secret.len() == SECRET + CHECKSUM && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_whole { id.as_bytes().try_into().ok() } else { None }
}

/// The id in a key whose checksum is right.
pub(super) fn checked_id(key: &str) -> Option<KeyId> {
    let id = id_text(key)?;
    let (before, given) = key.split_at_checked(key.len().checked_sub(CHECKSUM)?)?;
    if checksum(before) != given {
        return None;
    }
    format!("key_{}", std::str::from_utf8(&id).ok()?).parse().ok()
}

/// The first 32 bits of the text's SHA-256, in base62.
fn checksum(text: &str) -> String {
    let [a, b, c, d, ..] = digest(text.as_bytes());
    let mut left = u32::from_be_bytes([a, b, c, d]) as usize;
    let mut next = || {
        let digit = BASE62[left % BASE62.len()];
        left /= BASE62.len();
        char::from(digit)
    };
    (0..CHECKSUM).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_key_carries_its_id_and_a_right_checksum() {
        let (shown, row) = new_tenant_key(TenantNum(3), "ci");
        assert_eq!(shown.len(), "phk_".len() + ID + 1 + SECRET + CHECKSUM);
        assert_eq!(checked_id(&shown), Some(row.id));
        assert_eq!(row.digest, digest(shown.as_bytes()));
        assert_eq!(row.scopes, ["read", "publish", "manage", "operate"]);
        assert_eq!(new_first_admin_key().1.tenant, None);
    }

    #[test]
    fn a_changed_character_anywhere_is_noticed() {
        let (shown, row) = new_first_admin_key();
        for place in 0..shown.len() {
            let mut changed = shown.clone().into_bytes();
            changed[place] = if changed[place] == b'0' { b'1' } else { b'0' };
            assert_ne!(checked_id(std::str::from_utf8(&changed).unwrap()), Some(row.id), "at {place}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", tail in "phk_[0-9a-v]{26}_[0-9A-Za-z]{33}") {
            prop_assert_eq!(checked_id(&text), None);
            let _ = checked_id(&tail);
        }
    }
}
