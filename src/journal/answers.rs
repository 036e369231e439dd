//! Bounds the memory of receivers' answers that wait for the database, so that an outage does not fill the memory with
//! answers of 64 KiB. An outcome always has room; beyond the budget it keeps little of its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::delivery::Attempt;

use super::{AttemptRecord, Record};

/// Bytes of answers that wait uncut.
const BUDGET: usize = 64 * 1024 * 1024;

/// Bytes of a body, of headers, and of what was called, that are kept beyond the budget.
const KEPT: usize = 1024;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Arc<AtomicUsize>);

/// Counts the bytes of an answer until its record is written or dropped.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Answers {
    /// Counts the record's answer, and cuts it first if the budget is used up.
    pub(super) fn admit(&self, record: &mut Record) {
        let Record::Attempt(record) = record else { return };
        let AttemptRecord { attempt, counted, .. } = record.as_mut();
        let waiting = self.0.load(Ordering::Relaxed);
        if waiting.saturating_add(bytes_of(attempt)) > BUDGET {
            cut(attempt);
        }
        let bytes = bytes_of(attempt);
        self.0.fetch_add(bytes, Ordering::Relaxed);
        *counted = Some(Counted { bytes, waiting: self.0.clone() });
    }
}

pub(super) fn bytes_of(attempt: &Attempt) -> usize {
    let headers = attempt.response_headers.iter().map(|(name, value)| name.len() + value.len());
    let request = attempt.request.as_ref().map_or(0, |request| request.as_str().len());
    attempt.response_body.len() + headers.sum::<usize>() + request
}

/// The note in the body is the only sign that it was cut. What was called is kept whole, or not at all.
fn cut(attempt: &mut Attempt) {
    let whole = attempt.response_body.len();
    if whole > KEPT {
        attempt.response_body.truncate(KEPT);
        let note = format!("\n[cut: {KEPT} of {whole} bytes were kept while the database took no outcomes]");
        attempt.response_body.extend_from_slice(note.as_bytes());
        attempt.response_body.shrink_to_fit();
    }
    attempt.request.take_if(|request| request.as_str().len() > KEPT);
    let mut bytes = 0;
    attempt.response_headers.retain(|(name, value)| {
        bytes += name.len() + value.len();
        bytes <= KEPT
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::{DeliveryState, Trigger};
    use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
    use crate::domain::moment::UnixMillis;
    use crate::domain::outcome::OutcomeKind;

    fn record(body: usize) -> Record {
        let attempt = Attempt {
            number: 1,
            trigger: Trigger::Scheduled,
            started_at: UnixMillis(0),
            duration_us: 1,
            head_us: None,
            status_code: Some(500),
            outcome: OutcomeKind::Success,
            error: None,
            request: None,
            response_headers: vec![("a".to_owned(), "b".repeat(KEPT - 1)), ("c".to_owned(), "d".to_owned())],
            response_body: vec![b'x'; body],
        };
        let id = DeliveryId { event: EventSeq(1), webhook: WebhookNum(1) };
        Record::Attempt(Box::new(AttemptRecord::new(id, attempt, DeliveryState::pending(None))))
    }

    fn attempt(record: &Record) -> &Attempt {
        let Record::Attempt(record) = record else { panic!("{record:?}") };
        &record.attempt
    }

    #[test]
    fn answers_are_whole_while_there_is_room_and_cut_and_marked_beyond() {
        let (answers, size) = (Answers::default(), 64 * 1024);
        let mut waiting: Vec<Record> = (0..16_384).map(|_| record(size)).collect();
        waiting.iter_mut().for_each(|record| answers.admit(record));
        let whole = waiting.iter().filter(|record| attempt(record).response_body.len() == size).count();
        assert_eq!(whole, BUDGET / (size + KEPT + 2));
        let cut = attempt(&waiting[16_383]);
        assert!(
            cut.response_body.ends_with(b"[cut: 1024 of 65536 bytes were kept while the database took no outcomes]")
        );
        assert_eq!(cut.response_headers.len(), 1);
        assert!(answers.0.load(Ordering::Relaxed) < BUDGET + 16_384 * 3 * KEPT);
        drop(waiting);
        assert_eq!(answers.0.load(Ordering::Relaxed), 0);
        let mut next = record(size);
        answers.admit(&mut next);
        assert_eq!(attempt(&next).response_body.len(), size, "there is room again");
    }

    #[test]
    fn what_is_small_is_never_cut() {
        let answers = Answers::default();
        answers.0.store(BUDGET, Ordering::Relaxed);
        let mut small = record(KEPT);
        answers.admit(&mut small);
        assert_eq!(attempt(&small).response_body, vec![b'x'; KEPT]);
    }
}
