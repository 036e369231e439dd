//! Reads event bodies by size: each body once, however many fan-outs and deliveries name its event; a bounded number of
//! bytes per statement; and large bodies one by one, just before they are sent.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use sea_orm::{ConnectionTrait, Statement};

use crate::domain::event::{Body, Event};
use crate::domain::id::{EventSeq, TenantNum};

use super::payload::LARGE;
use super::{Store, StoreError, dialect, payload};

/// Bytes of bodies that one statement reads at most.
pub(super) const READ_BYTES: usize = 4 * 1024 * 1024;

/// What is known of an event before its body is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: EventSeq,
    pub(super) tenant: TenantNum,
    pub(super) kind: String,
    /// Bytes of the body.
    pub(super) size: usize,
    pub(super) trail: Option<Arc<str>>,
}

impl Head {
    /// Bytes that the event will keep in memory.
    pub(super) fn bytes_in_memory(&self) -> usize {
        if self.is_large() { 0 } else { self.size }
    }

    fn is_large(&self) -> bool {
        self.size > LARGE
    }

    fn with(self, body: Body) -> Event {
        let Self { seq, tenant, kind, size: _, trail } = self;
        Event { seq, tenant, kind, body, trail }
    }
}

impl Store {
    /// These events with their bodies, except large bodies. An event whose body cannot be read is missing.
    pub(super) async fn events_of(
        &self,
        heads: impl IntoIterator<Item = Head>,
    ) -> Result<HashMap<EventSeq, Arc<Event>>, StoreError> {
        let mut events = HashMap::new();
        let mut to_read = HashMap::new();
        for head in heads {
            if events.contains_key(&head.seq) {
                continue;
            }
            if let Some(event) = self.inner.events.known(head.seq) {
                events.insert(head.seq, event);
            } else if head.is_large() {
                let (seq, bytes) = (head.seq, head.size);
                events.insert(seq, self.share(head.with(Body::Stored { bytes })));
            } else {
                to_read.insert(head.seq, head);
            }
        }
        let mut to_read: Vec<Head> = to_read.into_values().collect();
        to_read.sort_unstable_by_key(|head| head.seq);
        for some in by_bytes(to_read) {
            for (seq, event) in self.read(some).await? {
                events.insert(seq, event);
            }
        }
        Ok(events)
    }

    async fn read(&self, heads: Vec<Head>) -> Result<Vec<(EventSeq, Arc<Event>)>, StoreError> {
        let backend = self.backend();
        let sql = format!("SELECT seq, body FROM event WHERE {}", dialect::is_any_of(backend, "seq", "$1"));
        let seqs = dialect::numbers(backend, heads.iter().map(|head| head.seq.0));
        let rows = self.engine_readers().query_all_raw(Statement::from_sql_and_values(backend, sql, [seqs])).await?;
        let mut heads: HashMap<i64, Head> = heads.into_iter().map(|head| (head.seq.0, head)).collect();
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let seq: i64 = row.try_get("", "seq")?;
            match row.try_get::<Vec<u8>>("", "body") {
                Ok(body) => events.extend(
                    heads
                        .remove(&seq)
                        .map(|head| (head.seq, self.share(head.with(Body::InMemory(payload::counted(body)))))),
                ),
                Err(error) => self.pass_over("event", seq, error),
            }
        }
        Ok(events)
    }

    /// The body of one event, however large; `None` when the event is gone.
    pub async fn body(&self, event: EventSeq) -> Result<Option<Bytes>, StoreError> {
        let statement =
            Statement::from_sql_and_values(self.backend(), "SELECT body FROM event WHERE seq = $1", [event.0.into()]);
        let Some(row) = self.engine_readers().query_one_raw(statement).await? else { return Ok(None) };
        let body: Result<Vec<u8>, _> = row.try_get_by_index(0);
        let body = body.map_err(|error| {
            self.pass_over("event", event.0, &error);
            StoreError::unreadable("event", error)
        })?;
        Ok(Some(payload::counted(body)))
    }
}

/// Splits the events into parts of at most [`READ_BYTES`], unless one event alone is larger.
fn by_bytes(heads: Vec<Head>) -> Vec<Vec<Head>> {
    let mut parts: Vec<Vec<Head>> = Vec::new();
    let mut bytes = 0;
    for head in heads {
        bytes += head.size;
        match parts.last_mut().filter(|_| bytes <= READ_BYTES) {
            Some(part) => part.push(head),
            None => {
                bytes = head.size;
                parts.push(vec![head]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_brings_no_more_bytes_than_it_may() {
        let head =
            |(nth, size)| Head { seq: EventSeq(nth), tenant: TenantNum(1), kind: String::new(), size, trail: None };
        let heads = (1..).zip([1, READ_BYTES - 1, 1, READ_BYTES + 1, 1, 1]).map(head).collect();
        let parts: Vec<usize> = by_bytes(heads).iter().map(Vec::len).collect();
        assert_eq!(parts, [2, 1, 1, 2]);
    }
}
