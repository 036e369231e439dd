//! The thinking of one endpoint: `(input, now) → effects`. Pure; the endpoint actor is the doing.
//!
//! Holds a bounded window of deliveries in the order in which they fall due. What does not fit waits as rows in the
//! store and is read back. Nothing here is the only copy: an entry is either *stored* (it has a row) or still owed by
//! its fan-out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::delivery::limiter::Limiter;
use crate::delivery::outcome::Outcome;
use crate::delivery::policy::Policy;
use crate::delivery::retry::{Verdict, decide};
use crate::id::EventSeq;
use crate::store::deliveries::{DeliveryState, Due, Status, Trigger};
use crate::store::events::Event;
use crate::store::state::Suspect;

use super::TEST_EVENT;

/// Deliveries that a lane keeps in memory.
pub const WINDOW: usize = 256;

/// Read more rows when no more than this many are left: the next ones arrive before the lane runs dry.
const LOW_WATER: usize = WINDOW / 2;

/// What falls due later than this is left in the store.
pub const HORIZON: Duration = Duration::from_secs(30);

/// The same moment on the clock of the rows and on the clock that never jumps.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: UnixMillis,
    pub steady: Instant,
}

/// A delivery in memory.
#[derive(Debug, Clone)]
pub struct Entry {
    pub event: Arc<Event>,
    pub state: DeliveryState,
    pub trigger: Trigger,
    /// It has a row; otherwise only its fan-out knows of it.
    pub stored: bool,
}

impl Entry {
    /// A fresh target of a fan-out.
    #[must_use]
    pub fn offered(event: Arc<Event>, recovered: bool) -> Self {
        let state = DeliveryState::pending(None);
        let trigger = match (recovered, event.kind == TEST_EVENT) {
            (true, _) => Trigger::Recovery,
            (false, true) => Trigger::Test,
            (false, false) => Trigger::Scheduled,
        };
        Self { event, state, trigger, stored: false }
    }

    /// Read back from its row.
    #[must_use]
    pub fn stored(due: Due, suspect: Suspect) -> Self {
        let Due { event, state } = due;
        let unanswered = state.attempts == 0 && event.seq <= suspect.events_to;
        let maybe_sent = unanswered || state.next_at.is_some_and(|at| at <= suspect.due_to);
        let trigger = if state.manual.is_some() {
            Trigger::Manual
        } else if maybe_sent {
            Trigger::Recovery
        } else if event.kind == TEST_EVENT {
            Trigger::Test
        } else if state.attempts == 0 {
            Trigger::Scheduled
        } else {
            Trigger::Retry
        };
        Self { event, state, trigger, stored: true }
    }

    fn due(&self) -> UnixMillis {
        self.state.next_at.unwrap_or(UnixMillis(0))
    }
}

/// What the lane hears.
#[derive(Debug)]
pub enum Input {
    /// A fan-out's target.
    Offer(Entry),
    /// Rows that were asked for; `complete` when there were fewer than asked for.
    Loaded {
        entries: Vec<Entry>,
        complete: bool,
    },
    LoadFailed,
    /// An attempt ended.
    Finished {
        event: EventSeq,
        outcome: Outcome,
        jitter: f64,
    },
    /// An attempt was given up before anything was sent.
    NotSent {
        event: EventSeq,
    },
    /// There are rows that the lane may not know of.
    Wake,
    /// The timer.
    Tick,
    /// The settings changed.
    Configure {
        policy: Arc<Policy>,
        mode: Mode,
    },
}

/// What the actor shall do.
#[derive(Debug)]
pub enum Effect {
    Start {
        entry: Entry,
    },
    /// An attempt leaves its delivery like this.
    Settle {
        entry: Entry,
        state: DeliveryState,
        outcome: Outcome,
        disable: bool,
    },
    /// Becomes a row that waits in the store.
    Defer {
        event: EventSeq,
    },
    /// Will never be sent.
    Cancel {
        event: EventSeq,
    },
    /// Read pending rows, then say [`Input::Loaded`].
    Load {
        limit: usize,
    },
}

/// Whether the lane may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Switched off: what it is owed waits in the store.
    Held,
    /// Stopping: nothing begins; what waits in memory is still owed by rows and fan-outs.
    Stopping,
    /// Deleted: what it is owed is cancelled.
    Gone,
}

/// Where a delivery was found when somebody wanted to take it out of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    Absent,
    Waiting { stored: bool },
    InFlight,
}

type Key = (UnixMillis, EventSeq);

#[derive(Debug)]
pub struct Lane {
    policy: Arc<Policy>,
    limiter: Limiter,
    mode: Mode,
    ready: BTreeMap<Key, Entry>,
    keys: HashMap<EventSeq, Key>,
    in_flight: HashMap<EventSeq, Entry>,
    /// There may be rows that are not in the window.
    more: bool,
    loading: bool,
    /// What left the lane while rows were being read: the reader may still have seen it as pending.
    left_while_loading: HashSet<EventSeq>,
    limited_until: Option<Instant>,
}

impl Lane {
    #[must_use]
    pub fn new(policy: Arc<Policy>, mode: Mode, has_rows: bool) -> Self {
        Self {
            limiter: Limiter::new(policy.rate_limit.as_ref()),
            policy,
            mode,
            ready: BTreeMap::new(),
            keys: HashMap::new(),
            in_flight: HashMap::new(),
            more: has_rows,
            loading: false,
            left_while_loading: HashSet::new(),
            limited_until: None,
        }
    }

    /// Takes an input, appends what is to be done.
    pub fn on(&mut self, input: Input, now: Now, effects: &mut Vec<Effect>) {
        match input {
            Input::Offer(entry) => self.offer(entry, effects),
            Input::Loaded { entries, complete } => self.loaded(entries, complete),
            Input::LoadFailed => {
                self.loading = false;
                self.left_while_loading.clear();
            }
            Input::Finished { event, outcome, jitter } => self.finished(event, outcome, jitter, now, effects),
            Input::NotSent { event } => {
                if let Some(entry) = self.in_flight.remove(&event) {
                    self.insert(entry);
                }
            }
            Input::Wake => self.more = true,
            Input::Tick => {}
            Input::Configure { policy, mode } => self.configure(policy, mode),
        }
        match self.mode {
            Mode::Open => self.pump(now, effects),
            Mode::Held | Mode::Gone => self.clear(effects),
            Mode::Stopping => {}
        }
    }

    /// When the lane wants to be ticked, if nothing else happens.
    #[must_use]
    pub fn wake_at(&self, now: Now) -> Option<Instant> {
        if self.mode != Mode::Open || self.in_flight.len() >= self.cap() {
            return None;
        }
        let first = self.ready.values().next()?;
        let due = now.steady + first.due().since(now.wall);
        Some(self.limited_until.map_or(due, |until| due.max(until)))
    }

    /// Nothing to do that a sleeping endpoint would miss.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let waits = match self.mode {
            Mode::Open => !self.ready.is_empty() || self.more,
            Mode::Held | Mode::Stopping | Mode::Gone => false,
        };
        !waits && self.in_flight.is_empty() && !self.loading
    }

    /// Events whose deliveries are here and have no row.
    #[must_use]
    pub fn unrecorded(&self) -> Vec<EventSeq> {
        let all = self.ready.values().chain(self.in_flight.values());
        all.filter(|entry| !entry.stored).map(|entry| entry.event.seq).collect()
    }

    /// Takes a waiting delivery out.
    pub fn detach(&mut self, event: EventSeq) -> Detached {
        if self.in_flight.contains_key(&event) {
            return Detached::InFlight;
        }
        self.left(event);
        match self.take(event) {
            Some(entry) => Detached::Waiting { stored: entry.stored },
            None => Detached::Absent,
        }
    }

    fn cap(&self) -> usize {
        if self.policy.ordered { 1 } else { usize::from(self.policy.max_in_flight) }
    }

    /// Ordered lanes go by publishing, others by due time.
    fn key(&self, entry: &Entry) -> Key {
        let due = if self.policy.ordered { UnixMillis(0) } else { entry.due() };
        (due, entry.event.seq)
    }

    fn insert(&mut self, entry: Entry) {
        let key = self.key(&entry);
        self.keys.insert(entry.event.seq, key);
        self.ready.insert(key, entry);
    }

    fn take(&mut self, event: EventSeq) -> Option<Entry> {
        let key = self.keys.remove(&event)?;
        self.ready.remove(&key)
    }

    fn holds(&self, event: EventSeq) -> bool {
        self.keys.contains_key(&event) || self.in_flight.contains_key(&event)
    }

    fn left(&mut self, event: EventSeq) {
        if self.loading {
            self.left_while_loading.insert(event);
        }
    }

    fn offer(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        let event = entry.event.seq;
        if self.holds(event) {
            return;
        }
        if self.mode == Mode::Open && self.ready.len() >= WINDOW {
            self.evict_latest(&entry);
        }
        let room = self.ready.len() < WINDOW && !self.policy.ordered;
        match self.mode {
            Mode::Gone => effects.push(Effect::Cancel { event }),
            Mode::Open if room => self.insert(entry),
            Mode::Open | Mode::Held => {
                self.more = true;
                effects.push(Effect::Defer { event });
            }
            Mode::Stopping => {}
        }
    }

    /// Makes room by forgetting a stored delivery that falls due later; its row brings it back.
    fn evict_latest(&mut self, for_entry: &Entry) {
        let later = self.ready.iter().rev().find(|(_, entry)| entry.stored && entry.due() > for_entry.due());
        if let Some((_, entry)) = later {
            let event = entry.event.seq;
            self.take(event);
            self.more = true;
        }
    }

    fn loaded(&mut self, entries: Vec<Entry>, complete: bool) {
        self.loading = false;
        self.more |= !complete;
        let left = std::mem::take(&mut self.left_while_loading);
        if self.mode != Mode::Open {
            return;
        }
        for entry in entries {
            if !self.holds(entry.event.seq) && !left.contains(&entry.event.seq) {
                self.insert(entry);
            }
        }
    }

    fn configure(&mut self, policy: Arc<Policy>, mode: Mode) {
        if self.policy.rate_limit != policy.rate_limit {
            self.limiter = Limiter::new(policy.rate_limit.as_ref());
            self.limited_until = None;
        }
        self.more |= mode == Mode::Open && (self.mode != Mode::Open || policy.ordered != self.policy.ordered);
        self.policy = policy;
        self.mode = mode;
        for (_, entry) in std::mem::take(&mut self.ready) {
            self.insert(entry);
        }
    }

    fn pump(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.limited_until = None;
        while self.in_flight.len() < self.cap() {
            let Some((_, first)) = self.ready.first_key_value() else { break };
            if first.due() > now.wall {
                break;
            }
            if let Err(until) = self.limiter.check(now.steady) {
                self.limited_until = Some(until);
                break;
            }
            let event = first.event.seq;
            let Some(entry) = self.take(event) else { break };
            self.in_flight.insert(event, entry.clone());
            effects.push(Effect::Start { entry });
        }
        self.load(effects);
    }

    fn load(&mut self, effects: &mut Vec<Effect>) {
        if !self.more || self.loading || self.ready.len() > LOW_WATER {
            return;
        }
        (self.more, self.loading) = (false, true);
        // Rows that are already here may be answered again; ask for as many more.
        let here = self.ready.values().chain(self.in_flight.values()).filter(|entry| entry.stored).count();
        effects.push(Effect::Load { limit: WINDOW - self.ready.len() + here });
    }

    /// Nothing waits in memory: what has a row stays there, what has none gets one or is cancelled.
    fn clear(&mut self, effects: &mut Vec<Effect>) {
        self.keys.clear();
        for (_, entry) in std::mem::take(&mut self.ready) {
            let event = entry.event.seq;
            match (entry.stored, self.mode) {
                (true, _) => {}
                (false, Mode::Gone) => effects.push(Effect::Cancel { event }),
                (false, Mode::Open | Mode::Held | Mode::Stopping) => effects.push(Effect::Defer { event }),
            }
        }
    }

    fn finished(&mut self, event: EventSeq, outcome: Outcome, jitter: f64, now: Now, effects: &mut Vec<Effect>) {
        let Some(entry) = self.in_flight.remove(&event) else { return };
        self.left(event);
        let (mut state, disable) = after_attempt(&self.policy, &entry, &outcome, jitter, now.wall);
        if disable && self.mode == Mode::Open {
            self.mode = Mode::Held;
        }
        if self.mode == Mode::Gone && state.status == Status::Pending {
            (state.status, state.next_at, state.settled_at) = (Status::Cancelled, None, Some(now.wall));
        }
        // The head of an ordered lane stays, however late: it blocks the others.
        let stays = self.policy.ordered || state.next_at.is_some_and(|at| at <= now.wall.plus(HORIZON));
        if state.status == Status::Pending && stays && self.mode == Mode::Open {
            let event = entry.event.clone();
            self.insert(Entry { event, state, trigger: Trigger::Retry, stored: true });
        }
        effects.push(Effect::Settle { entry, state, outcome, disable });
    }
}

/// Where an attempt leaves its delivery, and whether the webhook is to be switched off.
fn after_attempt(
    policy: &Policy,
    entry: &Entry,
    outcome: &Outcome,
    jitter: f64,
    now: UnixMillis,
) -> (DeliveryState, bool) {
    let before = entry.state;
    let settled = |status, tries| DeliveryState {
        status,
        attempts: before.attempts + 1,
        tries,
        next_at: None,
        settled_at: Some(now),
        manual: None,
    };
    let disable = *outcome == Outcome::Gone;
    if let Some(fallback) = before.manual {
        let state = match (outcome, fallback.status) {
            (Outcome::Success, _) => settled(Status::Success, before.tries),
            (_, Status::Pending) => {
                let mut state = settled(Status::Pending, before.tries);
                (state.next_at, state.settled_at) = (fallback.next_at, None);
                state
            }
            (_, ended) => DeliveryState { settled_at: before.settled_at, ..settled(ended, before.tries) },
        };
        return (state, disable);
    }
    let tries = before.tries + 1;
    if entry.event.kind == TEST_EVENT {
        let status = if *outcome == Outcome::Success { Status::Success } else { Status::Failed };
        return (settled(status, tries), disable);
    }
    let state = match decide(&policy.retry_policy, tries, outcome, now, jitter) {
        Verdict::Done => settled(Status::Success, tries),
        Verdict::Exhausted | Verdict::Disable => settled(Status::Failed, tries),
        Verdict::RetryAt(at) => {
            let mut state = settled(Status::Pending, tries);
            (state.next_at, state.settled_at) = (Some(at), None);
            state
        }
    };
    (state, disable)
}

#[cfg(test)]
mod tests;
