//! Decides what one endpoint does: `(input, now) → effects`. Pure; the endpoint's actor calls it and carries out the
//! effects.
//!
//! Holds a bounded window of deliveries in the order in which they fall due. Deliveries that do not fit wait as rows in
//! the store and are read back. Nothing here is the only copy: an entry is either *stored* (it has a row) or still owed
//! by its fan-out.

mod attempts;
mod entry;
mod health;
mod protocol;
mod slow_start;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::delivery::breaker::{Permission, View};
use crate::delivery::limiter::Limiter;
use crate::domain::delivery::{Status, Trigger};
use crate::domain::health::Health;
use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::domain::policy::Policy;

use self::attempts::{Attempt, Attempts};
use self::entry::{after_attempt, after_probe, of_former_url};
use self::health::{Receiver, RequestEnd};
use self::window::{FEW, Key, Window};

pub use self::entry::Entry;
pub use self::health::{SLOW, breaker_of};
pub use self::protocol::{Effect, Gauge, InLane, Input, Mode, News, Now, Said};
pub use self::window::WINDOW;

/// How long before its due time a row is read, so that the delivery starts on time.
pub const AHEAD: Duration = Duration::from_secs(2);

/// Deliveries that fall due later than this stay in the store, and entries that have waited for this long get a row.
pub const HORIZON: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Lane {
    policy: Arc<Policy>,
    limiter: Limiter,
    mode: Mode,
    window: Window,
    attempts: Attempts,
    /// Deliveries that are being read because an operator wants them sent now.
    sending_now: Vec<EventSeq>,
    receiver: Receiver,
    limited_until: Option<Instant>,
    /// When the next request of the backlog may start after a suspension.
    slow_until: Option<Instant>,
    /// When to look next for entries that have waited for long without a row.
    sweep_at: Option<Instant>,
    /// The wall clock at the last input.
    latest: UnixMillis,
}

impl Lane {
    #[must_use]
    pub fn new(policy: Arc<Policy>, mode: Mode, has_rows: bool, health: Health) -> Self {
        Self {
            receiver: Receiver::new(&policy, health),
            limiter: Limiter::new(policy.rate_limit.as_ref()),
            policy,
            mode,
            window: Window::new(has_rows),
            attempts: Attempts::default(),
            sending_now: Vec::new(),
            limited_until: None,
            slow_until: None,
            sweep_at: None,
            latest: UnixMillis(0),
        }
    }

    /// Takes an input and appends the effects that follow.
    pub fn on(&mut self, input: Input, now: Now, effects: &mut Vec<Effect>) {
        self.notice_the_time(now);
        match input {
            Input::Offer(entry) => self.offer(entry, now, effects),
            Input::Loaded { entries, next } => self.loaded(entries, next, now, effects),
            Input::LoadFailed => self.window.load_failed(),
            Input::Finished { event, outcome, said, from_former_url, took, jitter } => {
                let outcome = if from_former_url { of_former_url(outcome) } else { outcome };
                self.finished((event, &outcome, said), (took, jitter), now, effects);
            }
            Input::NotSent { event } => self.not_sent(event, now, effects),
            Input::CutShort { event } => self.cut_short(event, now, effects),
            Input::Wake => self.window.miss(self.wake_key(now)),
            Input::Remind => self.remind(now),
            Input::SendNow(entry) => {
                let is_as_it_was = self.cancel_send_now(entry.event.seq);
                if self.mode == Mode::Active && is_as_it_was && !self.contains(entry.event.seq) {
                    self.insert(entry, now);
                }
            }
            Input::Probe => self.probe(effects),
            // Nothing starts before the configuration that follows.
            Input::Renew => return self.receiver = Receiver::new(&self.policy, Health::default()),
            Input::Tick => {}
            Input::Configure { policy, mode } => self.configure(policy, mode, now, effects),
        }
        match self.mode {
            Mode::Active => {
                self.pump(now, effects);
                if now.tight {
                    self.trim(now, effects);
                }
                self.load(now, effects);
                self.sweep(now, effects);
            }
            Mode::Paused | Mode::Deleted => self.clear(effects),
            Mode::Stopping => {}
        }
    }

    /// When the lane needs the next tick, if no input comes before.
    #[must_use]
    pub fn wake_at(&self, now: Now) -> Option<Instant> {
        if self.mode != Mode::Active {
            return None;
        }
        let moments = [self.next_start(now), self.load_at(now), self.sweep_at];
        // What could not be done by now waits for another input, not for the timer.
        moments.into_iter().flatten().filter(|at| *at > now.steady).min()
    }

    fn next_start(&self, now: Now) -> Option<Instant> {
        if self.attempts.len() >= self.cap() {
            return None;
        }
        let (_, first) = self.window.first()?;
        let due = match self.receiver.may_start(now.wall) {
            _ if first.is_manual() => first.due(now.wall),
            Permission::Free | Permission::Probe => first.due(now.wall),
            Permission::Wait { until } => first.due(now.wall).max(until),
            Permission::ProbeUnderWay | Permission::Held => return None,
        };
        let due = now.steady + due.since(now.wall);
        [self.limited_until, self.slow_until].into_iter().flatten().chain([due]).max()
    }

    fn load_at(&self, now: Now) -> Option<Instant> {
        let (due, _) = self.window.unread().filter(|_| !self.window.is_loading())?;
        let due = match self.receiver.may_start(now.wall) {
            Permission::Free | Permission::Probe => due,
            Permission::Wait { until } => due.max(until),
            Permission::ProbeUnderWay | Permission::Held => return None,
        };
        Some(now.steady + due.since(now.wall).saturating_sub(AHEAD))
    }

    /// No attempt is under way, no entry waits, and no row falls due within [`HORIZON`].
    #[must_use]
    pub fn is_idle(&self, now: Now) -> bool {
        let waits = match self.mode {
            Mode::Active => !self.window.is_empty_until(now.wall.plus(HORIZON)),
            Mode::Paused | Mode::Stopping | Mode::Deleted => false,
        };
        !waits && self.attempts.is_empty() && !self.window.is_loading()
    }

    /// Idle, with nothing in memory that a successor would lack: a limiter that is not rested yet.
    #[must_use]
    pub fn can_rest(&self, now: Now) -> bool {
        self.is_idle(now) && (self.mode == Mode::Deleted || self.limiter.is_rested(now.steady))
    }

    /// The breaker's state for display.
    #[must_use]
    pub fn breaker(&self, now: UnixMillis) -> View {
        self.receiver.breaker(now)
    }

    #[must_use]
    pub fn gauge(&self) -> Gauge {
        let (attempts, window) = (self.attempts.len(), self.window.len());
        let (limited_until, slow_until, cap) = (self.limited_until, self.slow_until, self.cap());
        let gauge = Gauge { attempts, window, limited_until, slow_until, cap, ..Gauge::default() };
        self.receiver.shown(gauge, self.latest)
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Events whose deliveries are in memory and have no row.
    #[cfg(test)]
    fn unrecorded(&self) -> Vec<EventSeq> {
        let all = self.window.entries().chain(self.attempts.entries());
        all.filter(|entry| !entry.stored).map(|entry| entry.event.seq).collect()
    }

    /// An operator wants this delivery sent now: [`Input::SendNow`] follows once its row is read, unless the delivery
    /// changes meanwhile.
    pub fn expect_send_now(&mut self, event: EventSeq) {
        self.cancel_send_now(event);
        self.sending_now.push(event);
    }

    /// Forgets that this delivery is to be sent now, because it was read, changed, or has no row. Answers whether it
    /// was expected.
    pub fn cancel_send_now(&mut self, event: EventSeq) -> bool {
        let before = self.sending_now.len();
        self.sending_now.retain(|sent_now| *sent_now != event);
        self.sending_now.len() < before
    }

    /// Takes a waiting delivery out of the lane. An attempt that can still be recalled must have been put back before.
    pub fn take_out(&mut self, event: EventSeq) -> InLane {
        self.cancel_send_now(event);
        if let Some(attempt) = self.attempts.get(event) {
            return InLane::Started { manual: attempt.entry.state.manual.is_some() };
        }
        self.window.left(event);
        if self.policy.ordered {
            self.window.miss((UnixMillis(0), event));
        }
        if self.window.take(event).is_some() { InLane::Waiting } else { InLane::Absent }
    }

    /// Takes out a cancelled delivery. If its attempt has started, no other one follows.
    pub fn withdraw(&mut self, event: EventSeq) {
        self.attempts.withdraw(|started| started == event);
        self.take_out(event);
    }

    /// Marks the started attempts up to this event, so that no others follow. Answers their events.
    pub fn withdraw_all(&mut self, to: EventSeq) -> Vec<EventSeq> {
        self.attempts.withdraw(|event| event <= to)
    }

    fn probe(&mut self, effects: &mut Vec<Effect>) {
        if self.receiver.probe_now() {
            effects.push(Effect::Save { health: self.receiver.health(), news: None });
        }
    }

    fn cap(&self) -> usize {
        if self.policy.ordered { 1 } else { self.receiver.cap() }
    }

    /// Ordered lanes go by publishing order, others by due time; what an operator asked for goes first.
    fn key(&self, entry: &Entry, now: Now) -> Key {
        let first = self.policy.ordered || entry.is_manual();
        (if first { UnixMillis(0) } else { entry.due(now.wall) }, entry.event.seq)
    }

    /// The key of rows that were just written.
    fn wake_key(&self, now: Now) -> Key {
        if self.policy.ordered { (UnixMillis(0), EventSeq(i64::MAX)) } else { (now.wall, EventSeq::ZERO) }
    }

    /// A clock that was set back must not delay deliveries that were due already.
    fn notice_the_time(&mut self, now: Now) {
        if now.wall < self.latest {
            self.sort_again(now);
        }
        self.latest = now.wall;
    }

    fn sort_again(&mut self, now: Now) {
        for entry in self.window.take_all() {
            self.insert(entry, now);
        }
    }

    fn insert(&mut self, entry: Entry, now: Now) {
        self.window.insert(self.key(&entry, now), entry);
    }

    fn contains(&self, event: EventSeq) -> bool {
        self.window.contains(event) || self.attempts.contains(event)
    }

    /// The due poller saw rows that fall due. Nothing is to be read if such a row is in memory, or if missing rows are
    /// read anyway.
    fn remind(&mut self, now: Now) {
        let soon = now.wall.plus(AHEAD);
        let is_such = |entry: &Entry| entry.stored && entry.due(now.wall) <= soon;
        let known = self.window.unread().is_some() || self.attempts.entries().chain(self.window.entries()).any(is_such);
        if !known && !self.window.is_loading() {
            self.window.miss_all();
        }
    }

    fn offer(&mut self, entry: Entry, now: Now, effects: &mut Vec<Effect>) {
        let event = entry.event.seq;
        if self.contains(event) {
            return;
        }
        let (key, asked_for) = (self.key(&entry, now), entry.is_manual());
        let stays = self.mode == Mode::Active && !self.policy.ordered && self.has_room(key, asked_for, now);
        match self.mode {
            Mode::Deleted => effects.push(Effect::Cancel { event }),
            Mode::Active if stays => self.insert(entry, now),
            Mode::Active | Mode::Paused => {
                self.window.miss(key);
                effects.push(Effect::Defer { event });
            }
            Mode::Stopping => {}
        }
    }

    /// While the breaker is not closed, only what an operator asked for is worth its memory; while memory is tight,
    /// only what can be sent at once.
    fn has_room(&mut self, key: Key, asked_for: bool, now: Now) -> bool {
        if !self.receiver.is_well() {
            return asked_for;
        }
        let is_next = self.window.len() == 0 && self.attempts.len() < self.cap();
        if now.tight { is_next } else { self.window.has_room(key) }
    }

    fn loaded(&mut self, entries: Vec<Entry>, next: Option<UnixMillis>, now: Now, effects: &mut Vec<Effect>) {
        let left = self.window.loaded();
        if self.mode != Mode::Active {
            return;
        }
        if let Some(next) = next {
            // Many rows may fall due at the same moment as the last one read: the key names the last one, so that the
            // next read goes on after it.
            let last = entries.last().filter(|last| self.policy.ordered || last.state.next_at == Some(next));
            let due = if self.policy.ordered { UnixMillis(0) } else { next };
            self.window.miss((due, last.map_or(EventSeq::ZERO, |last| last.event.seq)));
        }
        for entry in entries {
            if !self.contains(entry.event.seq) && !left.contains(&entry.event.seq) {
                self.insert(entry, now);
            }
        }
        self.trim(now, effects);
    }

    fn trim(&mut self, now: Now, effects: &mut Vec<Effect>) {
        effects.extend(self.window.trim(self.most(now)).into_iter().map(|event| Effect::Defer { event }));
    }

    /// What waits to be sent under the former policy is not sent.
    fn configure(&mut self, policy: Arc<Policy>, mode: Mode, now: Now, effects: &mut Vec<Effect>) {
        self.recall(|_| true, effects);
        if self.policy.rate_limit != policy.rate_limit {
            self.limiter = Limiter::new(policy.rate_limit.as_ref());
            self.limited_until = None;
        }
        if mode == Mode::Active && (self.mode != Mode::Active || policy.ordered != self.policy.ordered) {
            self.window.miss_all();
        }
        self.receiver.follow(&policy);
        self.policy = policy;
        self.mode = mode;
        self.sort_again(now);
    }

    fn pump(&mut self, now: Now, effects: &mut Vec<Effect>) {
        (self.limited_until, self.slow_until) = (None, None);
        while self.attempts.len() < self.cap() {
            let Some((_, first)) = self.window.first() else { break };
            if self.policy.ordered && self.window.misses_the_first() {
                break;
            }
            let (event, permission) = (first.event.seq, self.receiver.may_start(now.wall));
            let may_start = first.is_manual() || matches!(permission, Permission::Free | Permission::Probe);
            if first.due(now.wall) > now.wall || !may_start {
                break;
            }
            if !first.is_manual() {
                self.slow_until = self.receiver.slow_until(now);
                if self.slow_until.is_some() {
                    break;
                }
            }
            if let Err(until) = self.limiter.check(now.steady) {
                self.limited_until = Some(until);
                break;
            }
            let Some(entry) = self.window.take(event) else { break };
            if permission == Permission::Probe {
                self.receiver.probe_started(event);
            }
            if !entry.is_manual() {
                self.receiver.started(now);
            }
            self.attempts.begin(entry.clone(), self.receiver.round());
            effects.push(Effect::Start { entry, share: self.receiver.share() });
        }
    }

    /// Asks for missing rows, once they are about to fall due and may be sent.
    fn load(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.load_at(now).is_none_or(|at| at > now.steady) {
            return;
        }
        let Some(limit) = self.window.load(self.most(now)) else { return };
        let here = self.window.entries().chain(self.attempts.entries()).filter(|entry| entry.stored);
        let known = here.map(|entry| entry.event.seq).collect();
        effects.push(Effect::Load { limit, known });
    }

    /// How many deliveries are worth their memory: a probe needs one.
    fn most(&self, now: Now) -> usize {
        if self.receiver.is_well() && !now.tight { WINDOW } else { FEW }
    }

    /// Makes rows of entries that have waited for long without one, and keeps the entries: an open fan-out is read
    /// again after a crash, and holds up the log index.
    fn sweep(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.sweep_at.is_some_and(|at| at <= now.steady) {
            let then = UnixMillis(now.wall.0 - i64::try_from(HORIZON.as_millis()).unwrap_or(0));
            effects.extend(self.window.store_older_than(then).into_iter().map(|event| Effect::Defer { event }));
            self.sweep_at = None;
        }
        self.sweep_at = self.window.has_entries_without_row().then(|| self.sweep_at.unwrap_or(now.steady + HORIZON));
    }

    /// Empties the window: stored entries stay rows, the others become rows or are cancelled.
    fn clear(&mut self, effects: &mut Vec<Effect>) {
        self.sweep_at = None;
        for entry in self.window.take_all().filter(|entry| !entry.stored) {
            let event = entry.event.seq;
            effects.push(match self.mode {
                Mode::Deleted => Effect::Cancel { event },
                Mode::Active | Mode::Paused | Mode::Stopping => Effect::Defer { event },
            });
        }
    }

    fn finished(
        &mut self,
        (event, outcome, said): (EventSeq, &Outcome, Said),
        (took, jitter): (Duration, f64),
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let attempts = self.attempts.len();
        let Some(Attempt { entry, round, withdrawn }) = self.attempts.end(event) else { return };
        self.window.left(event);
        self.cancel_send_now(event);
        let mut state = match self.receiver.is_suspended() {
            true => after_probe(&entry, outcome, now.wall),
            false => after_attempt(&self.policy, &entry, outcome, jitter, now.wall),
        };
        if (withdrawn || self.mode == Mode::Deleted) && state.status == Status::Pending {
            (state.status, state.next_at, state.settled_at) = (Status::Cancelled, None, Some(now.wall));
        }
        let again = (state.status == Status::Pending).then(|| entry.event.clone());
        effects.push(Effect::Settle { entry, state });
        self.learn(RequestEnd { event, outcome, said, took, jitter, attempts, round }, now, effects);
        if let Some(event) = again
            && self.mode == Mode::Active
        {
            self.keep(Entry { event, state, trigger: Trigger::Retry, stored: true }, now);
            self.trim(now, effects);
        }
    }

    fn not_sent(&mut self, event: EventSeq, now: Now, effects: &mut Vec<Effect>) {
        if self.attempts.get(event).is_some_and(|attempt| attempt.withdrawn) {
            self.receiver.not_sent(event);
            self.attempts.end(event);
            self.window.left(event);
            self.cancel_send_now(event);
            effects.push(Effect::Cancel { event });
        } else {
            self.put_back(event, now);
            if self.mode == Mode::Active {
                self.trim(now, effects);
            }
        }
    }

    /// Nothing of the delivery's request was sent: the delivery waits again.
    pub fn put_back(&mut self, event: EventSeq, now: Now) {
        self.receiver.not_sent(event);
        if let Some(attempt) = self.attempts.end(event) {
            self.insert(attempt.entry, now);
        }
    }

    fn recall(&self, which: impl Fn(&Entry) -> bool, effects: &mut Vec<Effect>) {
        let chosen = self.attempts.entries().filter(|entry| which(entry));
        let events: Vec<EventSeq> = chosen.map(|entry| entry.event.seq).collect();
        if !events.is_empty() {
            effects.push(Effect::Recall { events });
        }
    }

    /// Leaves the delivery as a crash would: no try is spent, and the attempt is made again under the same number.
    fn cut_short(&mut self, event: EventSeq, now: Now, effects: &mut Vec<Effect>) {
        self.receiver.not_sent(event);
        match self.attempts.end(event) {
            Some(attempt) if attempt.withdrawn || self.mode == Mode::Deleted => {
                self.window.left(event);
                self.cancel_send_now(event);
                effects.push(Effect::Cancel { event });
            }
            Some(attempt) => self.insert(attempt.entry.maybe_sent(), now),
            None => {}
        }
    }

    /// Applies what the end of a request says about the receiver.
    fn learn(&mut self, ended: RequestEnd<'_>, now: Now, effects: &mut Vec<Effect>) {
        let learnt = self.receiver.ended(ended, &self.policy, now.wall);
        if learnt.save {
            effects.push(Effect::Save { health: self.receiver.health(), news: learnt.news });
        }
        if learnt.breaker.is_some() && !self.receiver.is_well() {
            self.shed_window(effects);
            self.recall(|entry| !entry.is_manual(), effects);
        }
    }

    /// A receiver whose breaker is open costs no memory.
    fn shed_window(&mut self, effects: &mut Vec<Effect>) {
        self.clear(effects);
        self.window.miss_all();
    }

    /// A delivery that is retried waits here or, when it falls due beyond [`HORIZON`], in the store. The head of an
    /// ordered lane always stays: it blocks the others.
    fn keep(&mut self, entry: Entry, now: Now) {
        if self.policy.ordered || entry.due(now.wall) <= now.wall.plus(HORIZON) {
            self.insert(entry, now);
        } else {
            self.window.miss(self.key(&entry, now));
        }
    }
}

#[cfg(test)]
mod tests;
