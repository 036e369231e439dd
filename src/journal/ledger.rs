//! What every webhook is owed: how many deliveries are pending, which is the oldest, and how many wait for a later
//! moment. Pure. The journal's writer reports changes in the order of commits; the backlog's readers ask it.
//!
//! A delivery is pending from the commit of its event's fan-out until its row is settled, and again from the commit of
//! a manual retry. Counts are exact: every change adjusts them, and no rows are counted after the start. The oldest
//! pending event is exact as well, with bounded memory: each account keeps its smallest events only (`front`). When a
//! long backlog has used them up, the account says [`Oldest::Unknown`] until they were looked up:
//!
//! 1. [`Ledger::look_up`] says after which event to read. From then on the account notes what changes.
//! 2. The caller reads the [`FRONT`] smallest pending events after that one, from rows and from fan-outs.
//! 3. It waits until the ledger has every commit that the read may have seen (the journal's barrier).
//! 4. [`Ledger::learn`] corrects the answer by what changed since step 1. If it cannot, it discards the answer, and the
//!    oldest event stays unknown.
//!
//! A webhook with nothing pending has no account. The table of accounts keeps its capacity for the next fan-out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::{Entry, HashMap};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;

use nearby::Nearby;
use oldest_pending::OldestPending;
use schedule::Schedule;

mod nearby;
mod oldest_pending;
mod schedule;

pub use oldest_pending::FRONT;

/// The oldest pending event of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oldest {
    Known(EventSeq),
    /// The oldest event is not before this one and has to be looked up.
    Unknown {
        not_before: EventSeq,
    },
}

impl Oldest {
    /// Nothing before this event is pending.
    #[must_use]
    pub fn not_before(self) -> EventSeq {
        match self {
            Self::Known(event) => event,
            Self::Unknown { not_before } => not_before,
        }
    }
}

/// A question for the store: the [`FRONT`] smallest pending events of `webhook` after `after`.
#[derive(Debug)]
pub struct LookUp {
    pub webhook: WebhookNum,
    pub after: EventSeq,
    number: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    accounts: HashMap<WebhookNum, Account, Nearby>,
    pending: u64,
    look_ups: u64,
}

#[derive(Debug)]
struct Account {
    /// At least one.
    pending: u64,
    front: OldestPending,
    /// Boxed, because most webhooks never fail.
    schedule: Option<Box<Schedule>>,
}

impl Account {
    fn new(event: EventSeq) -> Self {
        Self { pending: 1, front: OldestPending::only(event), schedule: None }
    }

    fn oldest(&self) -> Oldest {
        match self.front.first() {
            Some(event) => Oldest::Known(event),
            None => Oldest::Unknown { not_before: self.front.not_before() },
        }
    }

    /// Marks the front as complete if it holds everything that is pending.
    fn see_whether_complete(&mut self) {
        if self.front.len() as u64 >= self.pending {
            self.front.complete();
        }
    }
}

/// Changes.
impl Ledger {
    /// At the start: the webhook has this many pending deliveries, and this is the oldest of them. Replaces what was
    /// known of the webhook.
    pub fn load(&mut self, webhook: WebhookNum, pending: u64, oldest: EventSeq) {
        self.forget(webhook);
        if pending > 0 {
            let mut account = Account { pending, front: OldestPending::starting_with(oldest), schedule: None };
            account.see_whether_complete();
            self.accounts.insert(webhook, account);
            self.pending += pending;
        }
    }

    /// The commit of a fan-out made this event pending for the webhook.
    pub fn owe(&mut self, webhook: WebhookNum, event: EventSeq) {
        self.pending += match self.accounts.entry(webhook) {
            Entry::Vacant(entry) => {
                entry.insert(Account::new(event));
                1
            }
            Entry::Occupied(mut entry) => {
                let account = entry.get_mut();
                let added = u64::from(account.front.insert(event));
                account.pending += added;
                added
            }
        };
    }

    /// A fan-out was committed.
    pub fn owe_all(&mut self, targets: &[WebhookNum], event: EventSeq) {
        // There will be at least as many accounts: grow once.
        self.accounts.reserve(targets.len().saturating_sub(self.accounts.len()));
        for webhook in targets {
            self.owe(*webhook, event);
        }
    }

    /// A settled delivery is pending again: its manual retry was committed.
    pub fn again(&mut self, webhook: WebhookNum, event: EventSeq) {
        self.owe(webhook, event);
    }

    /// A pending delivery was settled.
    pub fn settle(&mut self, webhook: WebhookNum, event: EventSeq) {
        let Entry::Occupied(mut entry) = self.accounts.entry(webhook) else { return };
        let account = entry.get_mut();
        if !account.front.remove(event) {
            return;
        }
        account.pending -= 1;
        self.pending -= 1;
        if account.pending == 0 {
            entry.remove();
        } else {
            account.see_whether_complete();
        }
    }

    /// A pending delivery waits until `at`.
    pub fn schedule(&mut self, webhook: WebhookNum, at: UnixMillis, now: UnixMillis) {
        self.schedule_many(webhook, at, 1, now);
    }

    /// At the start: `count` pending deliveries wait until the second of `at`.
    pub fn schedule_many(&mut self, webhook: WebhookNum, at: UnixMillis, count: u32, now: UnixMillis) {
        if let Some(account) = self.accounts.get_mut(&webhook) {
            account.schedule.get_or_insert_default().add(at, count, now);
        }
    }

    /// A delivery that waited until `at` no longer does, because it was retried by hand or cancelled before that
    /// moment. Do not call this because `at` has passed.
    pub fn unschedule(&mut self, webhook: WebhookNum, at: UnixMillis, now: UnixMillis) {
        let Some(account) = self.accounts.get_mut(&webhook) else { return };
        if let Some(schedule) = &mut account.schedule {
            schedule.take(at, now);
        }
    }

    /// Begins to look up a webhook's oldest event; `None` if it is known. A later look-up of the same webhook replaces
    /// this one. A look-up that fails needs no report.
    #[must_use]
    pub fn look_up(&mut self, webhook: WebhookNum) -> Option<LookUp> {
        let front = &mut self.accounts.get_mut(&webhook)?.front;
        if front.first().is_some() {
            return None;
        }
        self.look_ups += 1;
        let after = front.watch(self.look_ups);
        Some(LookUp { webhook, after, number: self.look_ups })
    }

    /// Takes the answer: the smallest events after [`LookUp::after`] that were pending at some moment since the look-up
    /// began, at most [`FRONT`], and fewer only if there are no more. Returns what is known now; `None` if nothing is
    /// pending.
    pub fn learn(&mut self, look_up: LookUp, found: &[EventSeq]) -> Option<Oldest> {
        let account = self.accounts.get_mut(&look_up.webhook)?;
        account.front.learn(look_up.number, found);
        account.see_whether_complete();
        Some(account.oldest())
    }

    /// Adds the accounts of webhooks that this ledger does not count yet.
    pub fn absorb(&mut self, other: Self) {
        for (webhook, account) in other.accounts {
            self.forget(webhook);
            self.pending += account.pending;
            self.accounts.insert(webhook, account);
        }
    }

    /// Forgets webhooks that another node counts now.
    pub fn forget_all(&mut self, are_forgotten: impl Fn(WebhookNum) -> bool) {
        let pending = &mut self.pending;
        self.accounts.retain(|webhook, account| {
            let stays = !are_forgotten(*webhook);
            *pending -= if stays { 0 } else { account.pending };
            stays
        });
    }

    /// Forgets a deleted webhook.
    pub fn forget(&mut self, webhook: WebhookNum) {
        self.pending -= self.accounts.remove(&webhook).map_or(0, |account| account.pending);
    }
}

/// Queries.
impl Ledger {
    #[must_use]
    pub fn pending(&self, webhook: WebhookNum) -> u64 {
        self.accounts.get(&webhook).map_or(0, |account| account.pending)
    }

    /// `None` if nothing is pending.
    #[must_use]
    pub fn oldest(&self, webhook: WebhookNum) -> Option<Oldest> {
        self.accounts.get(&webhook).map(Account::oldest)
    }

    /// How many pending deliveries wait for a moment after `now`: exact to one second for those that were scheduled up
    /// to an hour ahead, to one minute for others; never too many.
    #[must_use]
    pub fn scheduled(&self, webhook: WebhookNum, now: UnixMillis) -> u64 {
        let schedule = self.accounts.get(&webhook).and_then(|account| account.schedule.as_ref());
        schedule.map_or(0, |schedule| schedule.after(now))
    }

    /// Pending deliveries of all webhooks.
    #[must_use]
    pub fn total_pending(&self) -> u64 {
        self.pending
    }

    /// Webhooks with at least one pending delivery.
    #[must_use]
    pub fn backlogged(&self) -> usize {
        self.accounts.len()
    }

    /// The `n` webhooks with the most pending deliveries, the longest backlog first. Reads every account in `among`.
    #[must_use]
    pub fn deepest(&self, among: Among<'_>, n: usize) -> Vec<(WebhookNum, u64)> {
        let accounts = self.accounts_of(among).map(|(webhook, account)| (account.pending, Reverse(webhook)));
        greatest(accounts, n).map(|(pending, Reverse(webhook))| (webhook, pending)).collect()
    }

    /// The `n` webhooks with the oldest pending events, the oldest first. A webhook whose oldest event is unknown is
    /// ranked by the earliest that it can be. Reads every account in `among`.
    #[must_use]
    pub fn oldest_first(&self, among: Among<'_>, n: usize) -> Vec<(WebhookNum, Oldest)> {
        let accounts = self.accounts_of(among);
        let accounts = accounts.map(|(webhook, account)| Reverse((account.front.not_before(), webhook)));
        let oldest = |Reverse((_, webhook))| self.oldest(webhook).map(|oldest| (webhook, oldest));
        greatest(accounts, n).filter_map(oldest).collect()
    }

    fn accounts_of<'a>(&'a self, among: Among<'a>) -> Box<dyn Iterator<Item = (WebhookNum, &'a Account)> + 'a> {
        match among {
            Among::All => Box::new(self.accounts.iter().map(|(webhook, account)| (*webhook, account))),
            Among::These(webhooks) => {
                Box::new(webhooks.iter().filter_map(|webhook| Some((*webhook, self.accounts.get(webhook)?))))
            }
        }
    }
}

/// The webhooks that are ranked.
#[derive(Debug, Clone, Copy)]
pub enum Among<'a> {
    All,
    These(&'a [WebhookNum]),
}

/// The `n` greatest items, greatest first; holds no more than these in memory.
fn greatest<T: Ord>(items: impl Iterator<Item = T>, n: usize) -> impl Iterator<Item = T> {
    let mut kept: BinaryHeap<Reverse<T>> = BinaryHeap::new();
    for item in items {
        if kept.len() < n {
            kept.push(Reverse(item));
        } else if let Some(mut least) = kept.peek_mut()
            && least.0 < item
        {
            *least = Reverse(item);
        }
    }
    kept.into_sorted_vec().into_iter().map(|Reverse(item)| item)
}

#[cfg(test)]
mod tests;
