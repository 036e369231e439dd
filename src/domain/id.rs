//! Typed ids and the keys behind them. Plain data: every layer may name this module, which names no layer.
//!
//! An [`EventSeq`] orders everything: 41 bits of milliseconds, 8 of node, 13 of counter, assigned by the journal.
//! Event, delivery and attempt ids are UUIDv7 (RFC 9562) *derived* from the keys of their rows, so that a healthy
//! delivery needs no id column, no index by id, and keeps its id across crashes that happen before its first row:
//!
//! ```text
//! unix ms (48) | ver 7 (4) | node+counter, high (12) | var (2) | counter, low (9) | webhook number (40) | attempt (13)
//! ```
//!
//! Text form: prefix, then lower-case base32hex (RFC 4648 §7, order-preserving), 26 characters.

use std::fmt;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::moment::UnixMillis;

/// Row key of a webhook: small, dense, never reused. At most 40 bits fit an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WebhookNum(pub i64);

/// Row key of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantNum(pub i64);

/// Row key of an event, in the order of commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventSeq(pub i64);

/// Row key of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationNum(pub i64);

/// 2024-01-01T00:00:00Z: with it 41 bits of milliseconds last until 2093.
const SEQ_EPOCH_MS: i64 = 1_704_067_200_000;
const SEQ_TAIL_BITS: u32 = 21;

/// The last millisecond since [`SEQ_EPOCH_MS`] that fits a key, in the year 2163.
const LAST_SEQ_MS: i64 = i64::MAX >> SEQ_TAIL_BITS;

const SLOT_BITS: u32 = 8;
const COUNTER_BITS: u32 = SEQ_TAIL_BITS - SLOT_BITS;
const WEBHOOK_BITS: u32 = 40;
const ATTEMPT_BITS: u32 = 13;

/// Attempt numbers beyond this do not fit an id; a manual retry past it is refused.
pub const MAX_ATTEMPT: u16 = (1 << ATTEMPT_BITS) - 1;

/// The node slot of a key. It tells apart events that two nodes accept in the same millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u8);

impl Slot {
    /// The slot of a process that has its database alone.
    pub const ALONE: Self = Self(0);
}

impl EventSeq {
    pub const ZERO: Self = Self(0);

    /// The first key that an event accepted at `at` can have. A time beyond the last millisecond of a key counts as
    /// that millisecond.
    #[must_use]
    pub fn first_at(at: UnixMillis) -> Self {
        Self((at.0 - SEQ_EPOCH_MS).clamp(0, LAST_SEQ_MS) << SEQ_TAIL_BITS)
    }

    /// The first key of `slot` after this key, not earlier than `now`.
    #[must_use]
    pub fn next(self, slot: Slot, now: UnixMillis) -> Self {
        let in_slot = |moment: i64| Self((moment << SEQ_TAIL_BITS) | (i64::from(slot.0) << COUNTER_BITS));
        let (moment, earliest) = (self.0 >> SEQ_TAIL_BITS, Self::first_at(now).0 >> SEQ_TAIL_BITS);
        if earliest > moment {
            return in_slot(earliest);
        }
        // The next counter of this millisecond, if there is one.
        let next = Self(self.0 + 1);
        if next.slot() == slot && next.0 >> SEQ_TAIL_BITS == moment {
            return next;
        }
        in_slot(if self.slot().0 < slot.0 { moment } else { moment + 1 })
    }

    /// The slot of the node that accepted the event.
    #[must_use]
    pub fn slot(self) -> Slot {
        Slot((self.0 >> COUNTER_BITS).to_le_bytes()[0])
    }

    #[must_use]
    pub fn accepted_at(self) -> UnixMillis {
        UnixMillis((self.0 >> SEQ_TAIL_BITS) + SEQ_EPOCH_MS)
    }

    fn uuid(self, webhook: WebhookNum, attempt: u16) -> Uuid {
        let tail = (self.0 & ((1 << SEQ_TAIL_BITS) - 1)).cast_unsigned();
        let ms = self.accepted_at().0.cast_unsigned();
        let high = (ms << 16) | (0x7 << 12) | (tail >> 9);
        let low = (0b10 << 62)
            | ((tail & 0x1ff) << (WEBHOOK_BITS + ATTEMPT_BITS))
            | (webhook.0.cast_unsigned() << ATTEMPT_BITS)
            | u64::from(attempt);
        Uuid::from_u64_pair(high, low)
    }

    fn from_uuid(uuid: Uuid) -> Option<(Self, WebhookNum, u16)> {
        let (high, low) = uuid.as_u64_pair();
        let webhook = (low >> ATTEMPT_BITS) & ((1 << WEBHOOK_BITS) - 1);
        let attempt = u16::try_from(low & u64::from(MAX_ATTEMPT)).ok()?;
        let tail = ((high & 0xfff) << 9) | ((low >> (WEBHOOK_BITS + ATTEMPT_BITS)) & 0x1ff);
        let since = (high >> 16).cast_signed() - SEQ_EPOCH_MS;
        if !(0..1 << 41).contains(&since) {
            return None;
        }
        let seq = Self((since << SEQ_TAIL_BITS) | tail.cast_signed());
        let webhook = WebhookNum(webhook.cast_signed());
        (seq.uuid(webhook, attempt) == uuid).then_some((seq, webhook, attempt))
    }
}

/// Why a text is not the expected id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("expected an id that starts with `{expected}`, got a {given} id")]
    WrongKind { expected: &'static str, given: &'static str },
    #[error("expected `{expected}` followed by 26 characters of 0-9 a-v")]
    Malformed { expected: &'static str },
}

const KINDS: [(&str, &str); 9] = [
    ("ten_", "tenant"),
    ("key_", "key"),
    ("ses_", "session"),
    ("wh_", "webhook"),
    ("sec_", "secret"),
    ("evt_", "event"),
    ("dlv_", "delivery"),
    ("att_", "attempt"),
    ("op_", "operation"),
];

fn base32() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
        spec.encoding().expect("a valid alphabet")
    })
}

fn write_id(f: &mut fmt::Formatter<'_>, prefix: &str, uuid: Uuid) -> fmt::Result {
    let mut text = [0u8; 26];
    base32().encode_mut(uuid.as_bytes(), &mut text);
    f.write_str(prefix)?;
    f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

fn parse_id(text: &str, prefix: &'static str) -> Result<Uuid, IdError> {
    let Some(tail) = text.strip_prefix(prefix) else {
        let given = KINDS.iter().find(|(other, _)| text.starts_with(other));
        return Err(given.map_or(IdError::Malformed { expected: prefix }, |(_, given)| IdError::WrongKind {
            expected: prefix,
            given,
        }));
    };
    let bytes = base32().decode(tail.as_bytes()).map_err(|_| IdError::Malformed { expected: prefix })?;
    Uuid::from_slice(&bytes).map_err(|_| IdError::Malformed { expected: prefix })
}

macro_rules! text_id {
    ($name:ident, $prefix:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_id(f, $prefix, self.uuid())
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::from_uuid(parse_id(text, $prefix)?).ok_or(IdError::Malformed { expected: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            #[must_use]
            pub fn bytes(self) -> Vec<u8> {
                self.0.as_bytes().to_vec()
            }

            /// `None` unless `bytes` are the sixteen of an id.
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }

            fn uuid(self) -> Uuid {
                self.0
            }

            fn from_uuid(uuid: Uuid) -> Option<Self> {
                Some(Self(uuid))
            }
        }

        text_id!($name, $prefix);
    };
}

random_id!(
    /// `ten_…`
    TenantId, "ten_"
);
random_id!(
    /// `key_…`
    KeyId, "key_"
);
random_id!(
    /// `ses_…`: a session, which is a key that a browser holds.
    SessionId, "ses_"
);
random_id!(
    /// `wh_…`
    WebhookId, "wh_"
);
random_id!(
    /// `op_…`
    OperationId, "op_"
);

impl WebhookId {
    /// When the id was made.
    #[must_use]
    pub fn made_at(self) -> UnixMillis {
        UnixMillis((self.0.as_u64_pair().0 >> 16).cast_signed())
    }
}

impl SessionId {
    /// The session whose row has this id.
    #[must_use]
    pub fn of(key: KeyId) -> Self {
        Self(key.0)
    }
}

/// `sec_…`: a signing secret of a webhook, derived from the webhook and the time at which the secret was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(Uuid);

impl SecretId {
    #[must_use]
    pub fn of(webhook: WebhookId, made_at: UnixMillis) -> Self {
        let digest = Sha256::new().chain_update(webhook.0).chain_update(made_at.0.to_be_bytes()).finalize();
        let random: [u8; 10] = std::array::from_fn(|place| digest[place]);
        Self(uuid::Builder::from_unix_timestamp_millis(made_at.0.unsigned_abs(), &random).into_uuid())
    }

    fn uuid(self) -> Uuid {
        self.0
    }

    fn from_uuid(uuid: Uuid) -> Option<Self> {
        Some(Self(uuid))
    }
}

text_id!(SecretId, "sec_");

/// `evt_…`, the text form of an [`EventSeq`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub EventSeq);

impl EventId {
    fn uuid(self) -> Uuid {
        self.0.uuid(WebhookNum(0), 0)
    }

    fn from_uuid(uuid: Uuid) -> Option<Self> {
        match EventSeq::from_uuid(uuid)? {
            (seq, WebhookNum(0), 0) => Some(Self(seq)),
            _ => None,
        }
    }
}

text_id!(EventId, "evt_");

/// `dlv_…`: one event for one webhook, which is also its row key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    pub event: EventSeq,
    pub webhook: WebhookNum,
}

impl DeliveryId {
    fn uuid(self) -> Uuid {
        self.event.uuid(self.webhook, 0)
    }

    fn from_uuid(uuid: Uuid) -> Option<Self> {
        match EventSeq::from_uuid(uuid)? {
            (_, WebhookNum(0), _) => None,
            (event, webhook, 0) => Some(Self { event, webhook }),
            _ => None,
        }
    }
}

text_id!(DeliveryId, "dlv_");

/// `att_…`: one request made for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    pub delivery: DeliveryId,
    pub number: u16,
}

impl AttemptId {
    fn uuid(self) -> Uuid {
        self.delivery.event.uuid(self.delivery.webhook, self.number)
    }

    fn from_uuid(uuid: Uuid) -> Option<Self> {
        let (event, webhook, number) = EventSeq::from_uuid(uuid)?;
        Some(Self { delivery: DeliveryId { event, webhook }, number })
    }
}

text_id!(AttemptId, "att_");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delivery_id_reads_back_and_is_a_version_7_uuid(
            seq in 0i64..i64::MAX >> 1, webhook in 1i64..1 << 40, number in 1u16..=MAX_ATTEMPT
        ) {
            let delivery = DeliveryId { event: EventSeq(seq), webhook: WebhookNum(webhook) };
            prop_assert_eq!(delivery.to_string().parse::<DeliveryId>(), Ok(delivery));
            prop_assert_eq!(delivery.uuid().get_version_num(), 7);
            let attempt = AttemptId { delivery, number };
            prop_assert_eq!(attempt.to_string().parse::<AttemptId>(), Ok(attempt));
            let event = EventId(EventSeq(seq));
            prop_assert_eq!(event.to_string().parse::<EventId>(), Ok(event));
        }

        #[test]
        fn event_ids_sort_like_their_keys(a in 0i64..i64::MAX >> 1, b in 0i64..i64::MAX >> 1) {
            let (a, b) = (EventSeq(a), EventSeq(b));
            prop_assert_eq!(a.cmp(&b), EventId(a).to_string().cmp(&EventId(b).to_string()));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", tail in "[0-9a-v]{26}") {
            let _ = text.parse::<EventId>();
            let _ = format!("evt_{tail}").parse::<EventId>();
            let _ = format!("att_{tail}").parse::<AttemptId>();
        }
    }

    #[test]
    fn a_wrong_prefix_says_which_kind_was_given() {
        let error = WebhookId::generate().to_string().parse::<EventId>().unwrap_err();
        assert_eq!(error.to_string(), "expected an id that starts with `evt_`, got a webhook id");
    }

    #[test]
    fn a_secret_has_one_id_and_no_other_secret_has_it() {
        let (webhook, made_at) = (WebhookId::generate(), UnixMillis(1_763_884_800_000));
        let id = SecretId::of(webhook, made_at);
        assert_eq!(id.to_string().parse::<SecretId>(), Ok(id));
        assert_eq!((id, id.0.get_version_num()), (SecretId::of(webhook, made_at), 7));
        let later = SecretId::of(webhook, UnixMillis(made_at.0 + 1));
        assert!(later > id && SecretId::of(WebhookId::generate(), made_at) != id);
    }

    #[test]
    fn a_time_that_no_key_can_say_is_the_last_one() {
        let last = EventSeq::first_at(UnixMillis(253_402_300_799_999));
        let (before, after) = (UnixMillis(6_102_113_711_103), UnixMillis(6_102_113_711_104));
        assert!(EventSeq::first_at(before) == last && EventSeq::first_at(after) == last);
        assert!(EventSeq::first_at(UnixMillis(before.0 - 1)) < last && last.0 > 0);
    }

    #[test]
    fn a_sequence_never_goes_back_with_the_clock() {
        let (slot, now) = (Slot(3), UnixMillis(1_763_884_800_000));
        let first = EventSeq::ZERO.next(slot, now);
        assert_eq!((first.accepted_at(), first.slot()), (now, slot));
        assert!(first.next(slot, UnixMillis(now.0 - 100_000)) > first);
    }

    #[test]
    fn a_node_makes_keys_of_its_own_whatever_was_there_before() {
        let now = UnixMillis(1_763_884_800_000);
        let mut last = EventSeq::ZERO.next(Slot(200), now);
        for slot in [3, 200, 0, 255, 7] {
            for _ in 0..10_000 {
                let next = last.next(Slot(slot), now);
                assert!(next > last && next.slot() == Slot(slot), "{last:?} {next:?}");
                last = next;
            }
        }
        assert!(last.accepted_at().0 - now.0 < 12, "{last:?}");
    }
}
