//! Seals secrets at rest with ChaCha20-Poly1305 (RFC 8439) under the master key, bound to the row that holds them and
//! to its tenant. Earlier master keys open what they sealed, and seal nothing any more.

mod context;
mod cursors;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::error::OpenError;

pub(super) use self::context::SealContext;
pub use self::cursors::CursorKeys;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 12;

/// First byte of a sealed value: bound to a webhook.
pub(super) const BY_WEBHOOK: u8 = 1;

/// First byte of a sealed value: bound to a row and to its tenant.
pub(super) const BY_TENANT: u8 = 2;

/// First byte of a sealed value: like [`BY_TENANT`], and a value for one origin alone begins with that origin.
pub(super) const BY_ORIGIN: u8 = 3;

/// The bytes that tell the layout and the key of a sealed value.
pub(super) const HEAD_BYTES: usize = 1 + KEY_ID_BYTES;

/// The key that seals secrets. Never shown, and wiped from memory with its last copy.
#[derive(Clone)]
pub struct MasterKey(Arc<SecretBox<[u8; KEY_BYTES]>>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    fn of(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
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

    /// A random key, for a process that seals nothing and opens nothing that is stored.
    pub(super) fn made_up() -> Self {
        Self::of(rand::random::<[u8; KEY_BYTES]>())
    }

    /// The keys in `<database>.key`, which is created on first use, readable by its owner alone.
    pub(super) fn beside(database: &Path, is_new: bool) -> Result<Vec<Self>, OpenError> {
        let path = database.with_added_extension("key");
        if !is_new && !path.exists() {
            let path = path.display();
            return Err(OpenError::Setting(format!(
                "{path} is missing, under which the secrets in the database are sealed; put it back, or set POSTHASTE_MASTER_KEY"
            )));
        }
        let failed = |source| OpenError::File { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&path) {
            Ok(mut file) => {
                let key = rand::random::<[u8; KEY_BYTES]>();
                file.write_all(STANDARD.encode(key).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(vec![Self::of(key)])
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let mut text = String::new();
                std::fs::File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).map_err(failed)?;
                Self::parse_lines(&text)
                    .ok_or_else(|| OpenError::MasterKey { path, why: "not a master key on every line".to_owned() })
            }
            Err(source) => Err(failed(source)),
        }
    }
}

/// One key, ready for use.
struct Opener {
    id: [u8; KEY_ID_BYTES],
    cipher: ChaCha20Poly1305,
    /// Authenticates what processes with this key tell each other.
    voucher: Hmac<Sha256>,
    /// Signs the cursors that callers get and send back.
    cursors: Hmac<Sha256>,
}

impl Opener {
    fn new(key: &MasterKey) -> Option<Self> {
        let key = key.0.expose_secret();
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

pub(super) struct Seal {
    /// The master key first, then earlier ones.
    openers: Vec<Opener>,
    /// The layout that is written; all layouts are read.
    layout: AtomicU8,
}

impl Seal {
    /// `keys`: the master key first, then earlier ones.
    pub(super) fn new(keys: &[MasterKey], layout: u8) -> Self {
        Self { openers: keys.iter().filter_map(Opener::new).collect(), layout: AtomicU8::new(layout) }
    }

    /// From now on values are bound to their tenants, and credentials to their origins.
    pub(super) fn bind(&self) {
        self.layout.store(BY_ORIGIN, Ordering::Relaxed);
    }

    fn opener(&self, id: &[u8]) -> Option<&Opener> {
        self.openers.iter().find(|opener| opener.id == id)
    }

    fn current(&self) -> Result<&Opener, StoreError> {
        self.openers.first().ok_or_else(|| StoreError::unreadable("master key", "there is none"))
    }

    /// Returns `layout | key id | nonce | ciphertext and tag`. Only the same `place` opens it.
    pub(super) fn close(&self, place: &SealContext<'_>, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.close_in(self.layout.load(Ordering::Relaxed), place, plain)
    }

    /// The same for a value that only this origin may be sent. Older layouts have no room for the origin.
    pub(super) fn close_for(&self, place: &SealContext<'_>, origin: &str, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        match self.layout.load(Ordering::Relaxed) {
            layout if layout < BY_ORIGIN => self.close_in(layout, place, plain),
            layout => self.close_in(layout, place, &[origin.as_bytes(), b"\n", plain].concat()),
        }
    }

    fn close_in(&self, layout: u8, place: &SealContext<'_>, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let Opener { id, cipher, .. } = self.current()?;
        let nonce = rand::random::<[u8; NONCE_BYTES]>();
        let sealed = cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: &place.name(layout) })
            .map_err(|_| StoreError::unreadable("value", "it is too large to seal"))?;
        Ok([&[layout][..], id, &nonce, &sealed].concat())
    }

    /// Whether none of these keys opens the value. `false` for an unknown layout.
    pub(super) fn is_foreign(&self, sealed: &[u8]) -> bool {
        match sealed.split_first() {
            Some((&(BY_WEBHOOK | BY_TENANT | BY_ORIGIN), rest)) => {
                rest.get(..KEY_ID_BYTES).is_some_and(|id| self.opener(id).is_none())
            }
            Some(_) | None => false,
        }
    }

    /// Whether the value would be sealed differently today.
    pub(super) fn is_old(&self, sealed: &[u8]) -> bool {
        let today = self.openers.first().map(|current| current.id);
        let layout = self.layout.load(Ordering::Relaxed);
        sealed.first() != Some(&layout) || sealed.get(1..HEAD_BYTES) != today.as_ref().map(<[u8; 4]>::as_slice)
    }

    pub(super) fn open(&self, place: &SealContext<'_>, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let unreadable = |why: &str| StoreError::unreadable("secret", why);
        let (&layout, rest) = sealed.split_first().ok_or_else(|| unreadable("it is empty"))?;
        if !matches!(layout, BY_WEBHOOK | BY_TENANT | BY_ORIGIN) || rest.len() < KEY_ID_BYTES + NONCE_BYTES {
            return Err(unreadable("unknown layout"));
        }
        let (key_id, rest) = rest.split_at(KEY_ID_BYTES);
        let opener = self.opener(key_id).ok_or_else(|| unreadable("it was sealed under another master key"))?;
        let (nonce, ciphertext) = rest.split_at(NONCE_BYTES);
        let nonce = Nonce::try_from(nonce).map_err(|_| unreadable("unknown layout"))?;
        opener
            .cipher
            .decrypt(&nonce, Payload { msg: ciphertext, aad: &place.name(layout) })
            .map_err(|_| unreadable("it does not belong to this row or was changed"))
    }

    /// Opens what [`Self::close_for`] has sealed. Returns the value, and the only origin that may be sent it, if the
    /// layout holds one.
    pub(super) fn open_for(
        &self,
        place: &SealContext<'_>,
        sealed: &[u8],
    ) -> Result<(Option<String>, Vec<u8>), StoreError> {
        let mut plain = self.open(place, sealed)?;
        if sealed.first().is_none_or(|layout| *layout < BY_ORIGIN) {
            return Ok((None, plain));
        }
        let unreadable = || StoreError::unreadable("secret", "it names no origin");
        let end = plain.iter().position(|byte| *byte == b'\n').ok_or_else(unreadable)?;
        let document = plain.split_off(end + 1);
        plain.truncate(end);
        Ok((Some(String::from_utf8(plain).map_err(|_| unreadable())?), document))
    }

    /// Proves to other processes with this key that one of them says this.
    pub(super) fn vouch(&self, text: &[u8]) -> Vec<u8> {
        let mac = |opener: &Opener| opener.voucher.clone().chain_update(text).finalize().into_bytes().to_vec();
        self.openers.first().map(mac).unwrap_or_default()
    }

    /// Whether a process with one of these keys has said this.
    pub(super) fn is_vouched(&self, text: &[u8], proof: &[u8]) -> bool {
        self.openers.iter().any(|opener| opener.voucher.clone().chain_update(text).verify_slice(proof).is_ok())
    }

    pub(super) fn cursor_keys(&self) -> CursorKeys {
        CursorKeys::of(self.openers.iter().map(|opener| opener.cursors.clone()))
    }

    /// The ids of the keys in hex, the master key's first.
    pub(super) fn key_ids(&self) -> Vec<String> {
        self.openers.iter().map(|opener| HEXLOWER.encode(&opener.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{TenantNum, WebhookId};
    use crate::domain::moment::UnixMillis;

    fn key(byte: u8) -> MasterKey {
        MasterKey::of([byte; KEY_BYTES])
    }

    fn place(tenant: i64, made_at: i64, webhook: WebhookId) -> SealContext<'static> {
        SealContext::Secret { tenant: TenantNum(tenant), webhook, made_at: UnixMillis(made_at) }
    }

    #[test]
    fn what_is_sealed_for_one_row_opens_for_no_other_and_for_no_other_tenant() {
        let seal = Seal::new(&[key(7)], BY_TENANT);
        let webhook = WebhookId::generate();
        let sealed = seal.close(&place(1, 1, webhook), b"secret").unwrap();
        assert_eq!(seal.open(&place(1, 1, webhook), &sealed).unwrap(), b"secret");
        for other in [place(2, 1, webhook), place(1, 2, webhook), place(1, 1, WebhookId::generate())] {
            assert!(seal.open(&other, &sealed).is_err());
        }
        assert!(seal.open(&SealContext::Headers { tenant: TenantNum(1), webhook }, &sealed).is_err());
        assert!(!seal.is_foreign(&sealed) && !seal.is_old(&sealed));
    }

    #[test]
    fn a_key_that_was_the_master_key_opens_and_any_other_is_told_apart() {
        let (old, new) = (Seal::new(&[key(7)], BY_TENANT), Seal::new(&[key(8), key(7)], BY_TENANT));
        let at = place(1, 1, WebhookId::generate());
        let sealed = old.close(&at, b"secret").unwrap();
        assert_eq!(new.open(&at, &sealed).unwrap(), b"secret");
        assert!(new.is_old(&sealed) && !new.is_foreign(&sealed));
        assert!(!new.is_old(&new.close(&at, b"secret").unwrap()));
        let other = Seal::new(&[key(9)], BY_TENANT);
        assert!(other.is_foreign(&sealed));
        let refused = other.open(&at, &sealed).unwrap_err().to_string();
        assert_eq!(refused, "cannot read stored secret: it was sealed under another master key");
    }

    #[test]
    fn the_older_layout_opens_and_is_old() {
        let seal = Seal::new(&[key(7)], BY_WEBHOOK);
        let at = place(1, 1, WebhookId::generate());
        let sealed = seal.close(&at, b"secret").unwrap();
        assert!(!seal.is_old(&sealed));
        seal.bind();
        assert_eq!(seal.open(&at, &sealed).unwrap(), b"secret");
        assert!(seal.is_old(&sealed) && seal.close(&at, b"secret").unwrap()[0] == BY_ORIGIN);
        let mut disguised = sealed;
        disguised[0] = BY_TENANT;
        assert!(seal.open(&at, &disguised).is_err());
    }

    #[test]
    fn what_is_sealed_for_an_origin_comes_back_with_it_and_cannot_be_given_another() {
        let seal = Seal::new(&[key(7)], BY_TENANT);
        let at = SealContext::Headers { tenant: TenantNum(1), webhook: WebhookId::generate() };
        let unbound = seal.close_for(&at, "https://a.example", b"{}").unwrap();
        assert_eq!(seal.open_for(&at, &unbound).unwrap(), (None, b"{}".to_vec()));
        seal.bind();
        let bound = seal.close_for(&at, "https://a.example", b"{}\n").unwrap();
        assert_eq!(seal.open_for(&at, &bound).unwrap(), (Some("https://a.example".to_owned()), b"{}\n".to_vec()));
        assert!(seal.is_old(&unbound) && !seal.is_old(&bound));
        let mut disguised = bound;
        disguised[0] = BY_TENANT;
        assert!(seal.open_for(&at, &disguised).is_err());
    }

    #[test]
    fn only_who_has_one_of_the_keys_is_believed() {
        let (old, new) = (Seal::new(&[key(7)], BY_TENANT), Seal::new(&[key(8), key(7)], BY_TENANT));
        let proof = old.vouch(b"text");
        assert!(old.is_vouched(b"text", &proof) && new.is_vouched(b"text", &proof));
        assert!(!new.is_vouched(b"another", &proof) && !old.is_vouched(b"text", &new.vouch(b"text")));
        assert!(!new.is_vouched(b"text", &proof[1..]) && !new.is_vouched(b"text", b""));
    }

    #[test]
    fn a_cursor_is_known_to_every_process_with_one_of_the_keys() {
        let (old, new) = (Seal::new(&[key(7)], BY_TENANT), Seal::new(&[key(8), key(7)], BY_TENANT));
        let (old, new, other) = (old.cursor_keys(), new.cursor_keys(), Seal::new(&[key(9)], BY_TENANT).cursor_keys());
        let signature = old.sign(&[b"list", b"7"]);
        assert!(old.is_signed(&[b"list", b"7"], &signature) && new.is_signed(&[b"list", b"7"], &signature));
        assert!(!other.is_signed(&[b"list", b"7"], &signature) && !old.is_signed(&[b"list7", b""], &signature));
        assert!(!old.is_signed(&[b"list", b"7"], &signature[1..]) && !old.is_signed(&[b"list", b"7"], b""));
        assert!(!old.is_signed(&[b"list", b"7"], &new.sign(&[b"list", b"7"])));
    }

    #[test]
    fn no_bytes_panic_and_keys_stay_hidden() {
        let seal = Seal::new(&[key(7)], BY_TENANT);
        let at = place(1, 1, WebhookId::generate());
        let sealed = seal.close(&at, b"secret").unwrap();
        for end in 0..sealed.len() {
            assert!(seal.open(&at, &sealed[..end]).is_err());
            assert!(!seal.is_foreign(&sealed[..end]) && (end >= HEAD_BYTES || seal.is_old(&sealed[..end])));
        }
        assert_eq!(format!("{:?}", key(7)), "MasterKey(..)");
    }
}
