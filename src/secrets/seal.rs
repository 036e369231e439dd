//! Seals secrets at rest with ChaCha20-Poly1305 (RFC 8439) under the master key, bound to the row that holds them and
//! to its tenant. Earlier master keys open what they sealed, and seal nothing any more.

use std::sync::atomic::{AtomicBool, Ordering};

use chacha20poly1305::Nonce;
use chacha20poly1305::aead::{Aead, Payload};
use data_encoding::HEXLOWER;
use hmac::Mac;

use super::context::SealContext;
use super::cursors::CursorKeys;
use super::error::SealError;
use super::layout::Layout;
use super::master_key::MasterKey;
use super::opener::{KEY_ID_BYTES, Opener};

const NONCE_BYTES: usize = 12;

/// The bytes that tell the layout and the key of a sealed value.
pub(crate) const HEAD_BYTES: usize = 1 + KEY_ID_BYTES;

pub(crate) struct Seal {
    /// The master key first, then earlier ones.
    openers: Vec<Opener>,
    /// The layout that was written when the database was opened; all layouts are read.
    layout: Layout,
    /// From now on the newest layout is written.
    writes_newest: AtomicBool,
}

impl Seal {
    /// `keys`: the master key first, then earlier ones.
    pub(crate) fn new(keys: &[MasterKey], layout: Layout) -> Self {
        let openers = keys.iter().filter_map(Opener::new).collect();
        Self { openers, layout, writes_newest: AtomicBool::new(false) }
    }

    /// From now on values are bound to their tenants, and credentials to their origins.
    pub(crate) fn bind(&self) {
        self.writes_newest.store(true, Ordering::Relaxed);
    }

    /// The layout that is written.
    fn layout(&self) -> Layout {
        if self.writes_newest.load(Ordering::Relaxed) { Layout::NEWEST } else { self.layout }
    }

    fn opener(&self, id: &[u8]) -> Option<&Opener> {
        self.openers.iter().find(|opener| opener.id == id)
    }

    fn current(&self) -> Result<&Opener, SealError> {
        self.openers.first().ok_or(SealError::NoMasterKey)
    }

    /// Returns `layout | key id | nonce | ciphertext and tag`. Only the same `place` opens it.
    pub(crate) fn close(&self, place: &SealContext<'_>, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.close_in(self.layout(), place, plain)
    }

    /// The same for a value that only this origin may be sent. Older layouts have no room for the origin.
    pub(crate) fn close_for(&self, place: &SealContext<'_>, origin: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        match self.layout() {
            layout if layout < Layout::Origin => self.close_in(layout, place, plain),
            layout => self.close_in(layout, place, &[origin.as_bytes(), b"\n", plain].concat()),
        }
    }

    fn close_in(&self, layout: Layout, place: &SealContext<'_>, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let Opener { id, cipher, .. } = self.current()?;
        let nonce = rand::random::<[u8; NONCE_BYTES]>();
        let sealed = cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: &place.name(layout) })
            .map_err(|_| SealError::TooLarge)?;
        Ok([&[layout.number()][..], id, &nonce, &sealed].concat())
    }

    /// Whether none of these keys opens the value. `false` for an unknown layout.
    pub(crate) fn is_foreign(&self, sealed: &[u8]) -> bool {
        let Some((layout, rest)) = sealed.split_first() else { return false };
        Layout::named(*layout).is_some() && rest.get(..KEY_ID_BYTES).is_some_and(|id| self.opener(id).is_none())
    }

    /// Whether the value would be sealed differently today.
    pub(crate) fn is_old(&self, sealed: &[u8]) -> bool {
        let today = self.openers.first().map(|current| current.id);
        sealed.first() != Some(&self.layout().number())
            || sealed.get(1..HEAD_BYTES) != today.as_ref().map(<[u8; 4]>::as_slice)
    }

    pub(crate) fn open(&self, place: &SealContext<'_>, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (layout, rest) = sealed.split_first().ok_or(SealError::Empty)?;
        let layout = Layout::named(*layout).ok_or(SealError::UnknownLayout)?;
        if rest.len() < KEY_ID_BYTES + NONCE_BYTES {
            return Err(SealError::UnknownLayout);
        }
        let (key_id, rest) = rest.split_at(KEY_ID_BYTES);
        let opener = self.opener(key_id).ok_or(SealError::ForeignKey)?;
        let (nonce, ciphertext) = rest.split_at(NONCE_BYTES);
        let nonce = Nonce::try_from(nonce).map_err(|_| SealError::UnknownLayout)?;
        opener
            .cipher
            .decrypt(&nonce, Payload { msg: ciphertext, aad: &place.name(layout) })
            .map_err(|_| SealError::Changed)
    }

    /// Opens what [`Self::close_for`] has sealed. Returns the value, and the only origin that may be sent it, if the
    /// layout holds one.
    pub(crate) fn open_for(
        &self,
        place: &SealContext<'_>,
        sealed: &[u8],
    ) -> Result<(Option<String>, Vec<u8>), SealError> {
        let mut plain = self.open(place, sealed)?;
        if sealed.first().is_none_or(|layout| *layout < Layout::Origin.number()) {
            return Ok((None, plain));
        }
        let end = plain.iter().position(|byte| *byte == b'\n').ok_or(SealError::NoOrigin)?;
        let document = plain.split_off(end + 1);
        plain.truncate(end);
        Ok((Some(String::from_utf8(plain).map_err(|_| SealError::NoOrigin)?), document))
    }

    /// Proves to other processes with this key that one of them says this.
    pub(crate) fn vouch(&self, text: &[u8]) -> Vec<u8> {
        let mac = |opener: &Opener| opener.voucher.clone().chain_update(text).finalize().into_bytes().to_vec();
        self.openers.first().map(mac).unwrap_or_default()
    }

    /// Whether a process with one of these keys has said this.
    pub(crate) fn is_vouched(&self, text: &[u8], proof: &[u8]) -> bool {
        self.openers.iter().any(|opener| opener.voucher.clone().chain_update(text).verify_slice(proof).is_ok())
    }

    pub(crate) fn cursor_keys(&self) -> CursorKeys {
        CursorKeys::of(self.openers.iter().map(|opener| opener.cursors.clone()))
    }

    /// The ids of the keys in hex, the master key's first.
    pub(crate) fn key_ids(&self) -> Vec<String> {
        self.openers.iter().map(|opener| HEXLOWER.encode(&opener.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{TenantNum, WebhookId};
    use crate::domain::moment::UnixMillis;

    fn key(byte: u8) -> MasterKey {
        MasterKey::of([byte; 32])
    }

    fn place(tenant: i64, made_at: i64, webhook: WebhookId) -> SealContext<'static> {
        SealContext::Secret { tenant: TenantNum(tenant), webhook, made_at: UnixMillis(made_at) }
    }

    #[test]
    fn what_is_sealed_for_one_row_opens_for_no_other_and_for_no_other_tenant() {
        let seal = Seal::new(&[key(7)], Layout::Tenant);
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
        let (old, new) = (Seal::new(&[key(7)], Layout::Tenant), Seal::new(&[key(8), key(7)], Layout::Tenant));
        let at = place(1, 1, WebhookId::generate());
        let sealed = old.close(&at, b"secret").unwrap();
        assert_eq!(new.open(&at, &sealed).unwrap(), b"secret");
        assert!(new.is_old(&sealed) && !new.is_foreign(&sealed));
        assert!(!new.is_old(&new.close(&at, b"secret").unwrap()));
        let other = Seal::new(&[key(9)], Layout::Tenant);
        assert!(other.is_foreign(&sealed));
        assert_eq!(other.open(&at, &sealed), Err(SealError::ForeignKey));
    }

    #[test]
    fn the_older_layout_opens_and_is_old() {
        let seal = Seal::new(&[key(7)], Layout::Webhook);
        let at = place(1, 1, WebhookId::generate());
        let sealed = seal.close(&at, b"secret").unwrap();
        assert!(!seal.is_old(&sealed));
        seal.bind();
        assert_eq!(seal.open(&at, &sealed).unwrap(), b"secret");
        assert!(seal.is_old(&sealed) && seal.close(&at, b"secret").unwrap()[0] == Layout::Origin.number());
        let mut disguised = sealed;
        disguised[0] = Layout::Tenant.number();
        assert!(seal.open(&at, &disguised).is_err());
    }

    #[test]
    fn what_is_sealed_for_an_origin_comes_back_with_it_and_cannot_be_given_another() {
        let seal = Seal::new(&[key(7)], Layout::Tenant);
        let at = SealContext::Headers { tenant: TenantNum(1), webhook: WebhookId::generate() };
        let unbound = seal.close_for(&at, "https://a.example", b"{}").unwrap();
        assert_eq!(seal.open_for(&at, &unbound).unwrap(), (None, b"{}".to_vec()));
        seal.bind();
        let bound = seal.close_for(&at, "https://a.example", b"{}\n").unwrap();
        assert_eq!(seal.open_for(&at, &bound).unwrap(), (Some("https://a.example".to_owned()), b"{}\n".to_vec()));
        assert!(seal.is_old(&unbound) && !seal.is_old(&bound));
        let mut disguised = bound;
        disguised[0] = Layout::Tenant.number();
        assert!(seal.open_for(&at, &disguised).is_err());
    }

    #[test]
    fn only_who_has_one_of_the_keys_is_believed() {
        let (old, new) = (Seal::new(&[key(7)], Layout::Tenant), Seal::new(&[key(8), key(7)], Layout::Tenant));
        let proof = old.vouch(b"text");
        assert!(old.is_vouched(b"text", &proof) && new.is_vouched(b"text", &proof));
        assert!(!new.is_vouched(b"another", &proof) && !old.is_vouched(b"text", &new.vouch(b"text")));
        assert!(!new.is_vouched(b"text", &proof[1..]) && !new.is_vouched(b"text", b""));
    }

    #[test]
    fn a_cursor_is_known_to_every_process_with_one_of_the_keys() {
        let (old, new) = (Seal::new(&[key(7)], Layout::Tenant), Seal::new(&[key(8), key(7)], Layout::Tenant));
        let (old, new, other) =
            (old.cursor_keys(), new.cursor_keys(), Seal::new(&[key(9)], Layout::Tenant).cursor_keys());
        let signature = old.sign(&[b"list", b"7"]);
        assert!(old.is_signed(&[b"list", b"7"], &signature) && new.is_signed(&[b"list", b"7"], &signature));
        assert!(!other.is_signed(&[b"list", b"7"], &signature) && !old.is_signed(&[b"list7", b""], &signature));
        assert!(!old.is_signed(&[b"list", b"7"], &signature[1..]) && !old.is_signed(&[b"list", b"7"], b""));
        assert!(!old.is_signed(&[b"list", b"7"], &new.sign(&[b"list", b"7"])));
    }

    #[test]
    fn no_bytes_panic() {
        let seal = Seal::new(&[key(7)], Layout::Tenant);
        let at = place(1, 1, WebhookId::generate());
        let sealed = seal.close(&at, b"secret").unwrap();
        for end in 0..sealed.len() {
            assert!(seal.open(&at, &sealed[..end]).is_err());
            assert!(!seal.is_foreign(&sealed[..end]) && (end >= HEAD_BYTES || seal.is_old(&sealed[..end])));
        }
    }
}
