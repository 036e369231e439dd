//! Reads large bodies from the store for the requests that send them; the dispatcher hands in those that were just
//! published. Each body is read once for all requests that use it at the same time, stays in memory only as long as
//! they do, and waits for its [`Room`] before it is read.

mod room;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot};

use crate::domain::event::{Body, Event};
use crate::domain::id::{EventSeq, TenantNum};
use crate::host::Host;
use crate::store::StoreError;
use crate::store::fanouts::Fanout;
use crate::store::payload::LARGE;

use super::db::EngineDb;

use self::room::{Room, Ticket};

/// Bodies that are read at once: while the database hands a body over, the body is in memory twice.
const READERS: usize = 2;

/// A body of this many bytes is read alone.
const HUGE: usize = 8 * 1024 * 1024;

/// After this time a body is read although there is no room, one at a time: it may be larger than the whole room, and
/// the bodies that occupy the room may stay for as long as their receivers take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bodies that were just published and wait to be sent may take one part in this many of the room.
const RECENT: usize = 4;

/// The number of slots from which on unused ones are removed.
const FEW: usize = 256;

/// Why a body cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBody {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the event is no longer stored")]
    Gone,
}

pub(super) struct Bodies {
    host: Host,
    db: Arc<dyn EngineDb>,
    slots: Mutex<Slots>,
    recent: Mutex<Recent>,
    room: Arc<Mutex<Room<oneshot::Sender<Reserved>>>>,
    readers: Semaphore,
}

/// The first request that needs a body holds this lock while it reads; the others wait for the read.
type Slot = AsyncMutex<Weak<Held>>;

#[derive(Default)]
struct Slots {
    of: HashMap<EventSeq, Arc<Slot>>,
    /// The number of slots at which unused ones are removed next.
    look_at: usize,
}

/// A body in memory.
struct Held {
    body: Bytes,
    _reserved: Reserved,
}

/// Room for one body, given back on drop.
struct Reserved {
    ticket: Option<Ticket>,
    room: Arc<Mutex<Room<oneshot::Sender<Self>>>>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut granted = {
            let mut room = self.room.lock();
            room.give_back(ticket);
            room.grant()
        };
        // A waiter that is gone gives its room back, which may let others in.
        while let Some((ticket, waiter)) = granted.pop() {
            if let Err(mut unused) = waiter.send(Self { ticket: Some(ticket), room: self.room.clone() })
                && let Some(ticket) = unused.ticket.take()
            {
                let mut room = self.room.lock();
                room.give_back(ticket);
                granted.extend(room.grant());
            }
        }
    }
}

/// Bodies that were just published; most of them are sent at once.
#[derive(Default)]
struct Recent {
    held: VecDeque<Arc<Held>>,
    bytes: usize,
}

impl Recent {
    fn keep(&mut self, held: Arc<Held>, most: usize) {
        self.bytes += held.body.len();
        self.held.push_back(held);
        while self.bytes > most
            && let Some(oldest) = self.held.pop_front()
        {
            self.bytes -= oldest.body.len();
        }
    }

    fn take_all(&mut self) -> VecDeque<Arc<Held>> {
        self.bytes = 0;
        std::mem::take(&mut self.held)
    }
}

/// The body as a request holds it, in memory until the request has ended.
struct Sent(Arc<Held>);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.0.body
    }
}

impl Bodies {
    /// Bodies take `bytes` of memory at most, or more if a single one is larger.
    pub(super) fn new(host: &Host, db: &Arc<dyn EngineDb>, bytes: usize) -> Self {
        Self {
            host: host.clone(),
            db: db.clone(),
            slots: Mutex::default(),
            recent: Mutex::default(),
            room: Arc::new(Mutex::new(Room::new(bytes))),
            readers: Semaphore::new(READERS),
        }
    }

    /// The body of an event, as soon as there is room for it.
    pub(super) async fn of(&self, event: &Event) -> Result<Bytes, NoBody> {
        match &event.body {
            Body::InMemory(body) => Ok(body.clone()),
            Body::Stored { bytes } => Box::pin(self.stored(event.seq, event.tenant, *bytes)).await,
        }
    }

    async fn stored(&self, seq: EventSeq, tenant: TenantNum, bytes: usize) -> Result<Bytes, NoBody> {
        let slot = self.slot(seq);
        let mut slot = slot.lock().await;
        if let Some(held) = slot.upgrade() {
            return Ok(Bytes::from_owner(Sent(held)));
        }
        let _reserved = self.reserve(tenant, bytes).await;
        let body = {
            let places = if bytes >= HUGE { READERS } else { 1 };
            let _place = self.readers.acquire_many(u32::try_from(places).unwrap_or(1)).await;
            self.db.body(seq).await?.ok_or(NoBody::Gone)?
        };
        let held = Arc::new(Held { body, _reserved });
        *slot = Arc::downgrade(&held);
        Ok(Bytes::from_owner(Sent(held)))
    }

    /// Takes large bodies out of fan-outs that were just published, and keeps them here if there is room.
    pub(super) fn adopt(&self, fanouts: &mut [Fanout]) {
        let mut last: Option<Arc<Event>> = None;
        for fanout in fanouts {
            let Body::InMemory(body) = &fanout.event.body else { continue };
            if body.len() <= LARGE {
                continue;
            }
            let known = last.take().filter(|event| event.seq == fanout.event.seq);
            let event = known.unwrap_or_else(|| {
                self.keep(fanout.event.seq, fanout.event.tenant, body.clone());
                let Event { seq, tenant, kind, body, trail } = fanout.event.as_ref();
                let body = Body::Stored { bytes: body.bytes_in_memory() };
                Arc::new(Event { seq: *seq, tenant: *tenant, kind: kind.clone(), body, trail: trail.clone() })
            });
            fanout.event = event.clone();
            last = Some(event);
        }
    }

    fn keep(&self, seq: EventSeq, tenant: TenantNum, body: Bytes) {
        let (bytes, most) = (body.len(), self.room.lock().size() / RECENT);
        if bytes > most {
            return;
        }
        let slot = self.slot(seq);
        let Ok(mut slot) = slot.try_lock() else { return };
        let Some(ticket) = self.room.lock().take(tenant, bytes) else { return };
        let held = Arc::new(Held { body, _reserved: self.reserved(ticket) });
        *slot = Arc::downgrade(&held);
        self.recent.lock().keep(held, most);
    }

    fn slot(&self, seq: EventSeq) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.of.len() >= slots.look_at.max(FEW) && !slots.of.contains_key(&seq) {
            let is_used = |slot: &Arc<Slot>| {
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|held| held.strong_count() > 0)
            };
            slots.of.retain(|_, slot| is_used(slot));
            slots.look_at = 2 * slots.of.len();
        }
        slots.of.entry(seq).or_default().clone()
    }

    fn reserved(&self, ticket: Ticket) -> Reserved {
        Reserved { ticket: Some(ticket), room: self.room.clone() }
    }

    async fn reserve(&self, tenant: TenantNum, bytes: usize) -> Reserved {
        // Bodies that nothing sends make room. They are dropped before the room is asked, not while it is locked:
        // dropping locks it.
        if !self.room.lock().fits(tenant, bytes) {
            drop(self.recent.lock().take_all());
        }
        let (waiter, mut granted) = oneshot::channel();
        let place = {
            let mut room = self.room.lock();
            match room.take(tenant, bytes) {
                Some(ticket) => return self.reserved(ticket),
                None => room.wait(tenant, bytes, waiter),
            }
        };
        loop {
            if let Some(Ok(reserved)) = self.host.timeout(PATIENCE, &mut granted).await {
                return reserved;
            }
            let overdrawn = self.room.lock().overdraw(place);
            if let Some(ticket) = overdrawn {
                return self.reserved(ticket);
            }
        }
    }
}

#[cfg(test)]
mod tests;
