//! The compact form of a fan-out: webhook numbers, ascending, as LEB128 deltas. Neighbours were usually created one
//! after the other, so a delta that repeats is written once: a `0` says that the number of repetitions follows. 100,000
//! webhooks of one tenant take a few bytes, or a few bytes each if no two deltas are alike. Pure.

use crate::domain::id::WebhookNum;

use super::StoreError;

/// Fewer repetitions are written out: a count would save no space.
const WORTH_IT: u64 = 3;

/// No fan-out has more targets: this is forty times what an engine is made for. A damaged row takes at most 32 MiB of
/// memory.
const MOST: u64 = 1 << 22;

/// `targets` must be ascending and start at 1 or above.
#[must_use]
pub fn encode(targets: &[WebhookNum]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut last, mut delta, mut repeated) = (0, 0, 0);
    for target in targets {
        let next = (target.0 - last).cast_unsigned();
        last = target.0;
        if next == delta {
            repeated += 1;
        } else {
            push_repeated(&mut bytes, delta, repeated);
            push(&mut bytes, next);
            (delta, repeated) = (next, 0);
        }
    }
    push_repeated(&mut bytes, delta, repeated);
    bytes
}

fn push_repeated(bytes: &mut Vec<u8>, delta: u64, times: u64) {
    if times >= WORTH_IT {
        bytes.push(0);
        push(bytes, times);
    } else {
        (0..times).for_each(|_| push(bytes, delta));
    }
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub fn decode(bytes: &[u8]) -> Result<Vec<WebhookNum>, StoreError> {
    let mut targets = Vec::with_capacity(count(bytes)?);
    runs(bytes, |last, delta, times| targets.extend((1..=times).map(|nth| WebhookNum(last + delta * nth))));
    Ok(targets)
}

/// Counts the webhooks in the list without making the list. What can be counted can be decoded.
pub fn count(bytes: &[u8]) -> Result<usize, StoreError> {
    runs(bytes, |_, _, _| ()).ok_or_else(|| StoreError::unreadable("targets", "not a list of webhook numbers"))
}

/// Calls `run` for each stretch of equal deltas with the number before it, the delta, and how often the delta comes.
/// Returns how many numbers there are.
fn runs(mut bytes: &[u8], mut run: impl FnMut(i64, i64, i64)) -> Option<usize> {
    let (mut last, mut delta, mut count) = (0i64, 0i64, 0);
    while !bytes.is_empty() {
        let times = match number(&mut bytes)? {
            0 => number(&mut bytes)?,
            next => {
                delta = next.cast_signed();
                1
            }
        };
        if delta == 0 || times > MOST - count {
            return None;
        }
        let end = delta.checked_mul(times.cast_signed())?.checked_add(last)?;
        run(last, delta, times.cast_signed());
        (last, count) = (end, count + times);
    }
    usize::try_from(count).ok()
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..=56).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers of which many are neighbours or equally far apart.
    fn targets() -> impl Strategy<Value = Vec<WebhookNum>> {
        let stretch = (1i64..1 << 30, 1i64..4, 1usize..40);
        proptest::collection::vec(stretch, 0..20).prop_map(|stretches| {
            let mut last = 0;
            let mut targets = Vec::new();
            for (gap, delta, count) in stretches {
                last += gap;
                targets.extend((0..count as i64).map(|nth| WebhookNum(last + nth * delta)));
                last += (count as i64 - 1) * delta;
            }
            targets
        })
    }

    proptest! {
        #[test]
        fn targets_read_back(targets in targets()) {
            prop_assert_eq!(count(&encode(&targets)).unwrap(), targets.len());
            prop_assert_eq!(decode(&encode(&targets)).unwrap(), targets);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&bytes).ok().map(|targets| targets.len()), count(&bytes).ok());
        }
    }

    #[test]
    fn a_hundred_thousand_neighbours_take_a_few_bytes() {
        let targets: Vec<_> = (1..=100_000).map(WebhookNum).collect();
        assert_eq!(encode(&targets), [1, 0, 0x9f, 0x8d, 0x06]);
        assert_eq!(decode(&encode(&targets)).unwrap(), targets);
    }

    #[test]
    fn what_was_written_before_repetitions_were_known_reads_back() {
        assert_eq!(decode(&[3, 1, 1, 1, 1, 0x80, 1]).unwrap(), [3, 4, 5, 6, 7, 135].map(WebhookNum));
    }

    #[test]
    fn a_damaged_list_is_an_error() {
        let too_many: &[u8] = &[1, 0, 0x80, 0x80, 0x80, 0x02];
        for bytes in [&[0x80][..], &[0], &[0, 5], &[1, 0], too_many, &[1, 0, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0xff; 10]]
        {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
