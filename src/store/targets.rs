//! The compact form of a fan-out: webhook numbers, ascending, as LEB128 deltas. 100,000 neighbours take 100 KB.

use crate::id::WebhookNum;

use super::StoreError;

/// `targets` must be ascending.
#[must_use]
pub fn encode(targets: &[WebhookNum]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(targets.len() + 8);
    let mut last = 0;
    for target in targets {
        let mut delta = (target.0 - last).cast_unsigned();
        last = target.0;
        while delta >= 0x80 {
            bytes.push((delta & 0x7f) as u8 | 0x80);
            delta >>= 7;
        }
        bytes.push(delta as u8);
    }
    bytes
}

pub fn decode(bytes: &[u8]) -> Result<Vec<WebhookNum>, StoreError> {
    let broken = || StoreError::unreadable("fan-out", "not a list of webhook numbers");
    let mut targets = Vec::with_capacity(bytes.len());
    let (mut last, mut delta, mut shift) = (0i64, 0u64, 0u32);
    for byte in bytes {
        if shift > 56 {
            return Err(broken());
        }
        delta |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            last = last.checked_add(delta.cast_signed()).ok_or_else(broken)?;
            targets.push(WebhookNum(last));
            (delta, shift) = (0, 0);
        }
    }
    if shift == 0 { Ok(targets) } else { Err(broken()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn targets_read_back(numbers in proptest::collection::btree_set(0i64..1 << 40, 0..200)) {
            let targets: Vec<_> = numbers.into_iter().map(WebhookNum).collect();
            prop_assert_eq!(decode(&encode(&targets)).unwrap(), targets);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_hundred_thousand_neighbours_take_a_byte_each() {
        let targets: Vec<_> = (1..=100_000).map(WebhookNum).collect();
        assert_eq!(encode(&targets).len(), 100_000);
    }
}
