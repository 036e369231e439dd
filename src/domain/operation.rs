//! Operations: what a person asks for on many deliveries at once. First its deliveries are counted, each becomes an item;
//! then the items are carried out at a rate. Plain data; pure.

use super::delivery::Status;
use super::id::{EventSeq, MAX_ATTEMPT, OperationId, OperationNum, TenantNum, WebhookId};
use super::moment::UnixMillis;
use super::outcome::OutcomeKind;

/// Items that an operation carries out in a second, on all nodes together, unless the person says otherwise.
pub const DEFAULT_RATE: u32 = 100;

/// The highest rate that is accepted.
pub const MAX_RATE: u32 = 10_000;

/// Webhooks that an operation may name.
pub const MAX_WEBHOOKS: usize = 100;

/// Event types or patterns that an operation may name.
pub const MAX_PATTERNS: usize = 20;

/// Deliveries that an operation may have.
pub const MAX_ITEMS: u64 = 1_000_000;

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $code:literal $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$case_doc])* $case),*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$case),*];

            /// The number in the rows.
            #[must_use]
            pub fn code(self) -> i16 {
                match self {
                    $(Self::$case => $code),*
                }
            }

            #[must_use]
            pub fn from_code(code: i16) -> Option<Self> {
                Self::ALL.iter().copied().find(|case| case.code() == code)
            }

            /// The word in the API.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$case => $word),*
                }
            }
        }
    };
}

coded! {
    /// What is done with each delivery.
    Kind {
        /// A settled delivery is sent again.
        Retry = 0 "retry",
        /// A pending delivery is cancelled.
        Purge = 1 "purge",
        /// An event that matches is owed to a webhook that it was never owed to.
        Owe = 2 "owe",
    }
}

coded! {
    Progress {
        /// The deliveries are being looked for; nothing is done with them yet.
        Counting = 0 "counting",
        Running = 1 "running",
        Paused = 2 "paused",
        Done = 3 "done",
        Cancelled = 4 "cancelled",
        /// It could not be carried out; the error says why.
        Failed = 5 "failed",
    }
}

impl Progress {
    /// Whether the operation has ended for good.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }
}

coded! {
    /// What became of an item.
    ItemState {
        ToDo = 0 "to_do",
        Success = 1 "success",
        Failed = 2 "failed",
        /// The delivery was no longer as it was counted: it was sent, cancelled or deleted by someone else.
        Skipped = 3 "skipped",
    }
}

/// Which deliveries of a tenant an operation is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Empty: all webhooks.
    pub webhooks: Vec<WebhookId>,
    /// Accepted at or after this moment.
    pub since: Option<UnixMillis>,
    /// Accepted before this moment.
    pub until: UnixMillis,
    /// `None`: deliveries that are to be made.
    pub status: Option<Status>,
    /// The outcome of the last attempt.
    pub outcome: Option<OutcomeKind>,
    /// The HTTP status of the last attempt.
    pub status_code: Option<u16>,
    /// Event types, prefixes that end with `.*`, or `*`. Empty: all.
    pub events: Vec<String>,
}

impl Selection {
    /// Whether the selection is for events of this type.
    #[must_use]
    pub fn admits(&self, kind: &str) -> bool {
        self.events.is_empty() || is_any_for(&self.events, kind)
    }
}

/// Whether one of these subscriptions is for events of this type: an exact type, a prefix that ends with `.*`, or `*`.
#[must_use]
pub fn is_any_for(subscriptions: &[String], kind: &str) -> bool {
    subscriptions.iter().any(|subscription| match subscription.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => kind == subscription,
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub num: OperationNum,
    pub id: OperationId,
    pub tenant: TenantNum,
    pub kind: Kind,
    pub progress: Progress,
    pub selection: Selection,
    pub rate: u32,
    pub counts: Counts,
    /// Why it failed.
    pub error: Option<String>,
    /// Who asked for it, as the audit log names authors.
    pub created_by: String,
    pub created_at: UnixMillis,
    /// When it began to carry out items.
    pub started_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
}

/// How many items an operation has, and how many of them have ended, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub matched: u64,
    pub success: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Counts {
    /// Items that have ended.
    #[must_use]
    pub fn done(self) -> u64 {
        self.success + self.failed + self.skipped
    }
}

/// What the delivery of an item shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub event: EventSeq,
    pub status: Status,
    /// Requests made, of any trigger.
    pub attempts: u16,
    /// The operation that made the delivery or asked for its latest replay.
    pub operation: Option<OperationNum>,
    /// Whether an attempt was asked for that was not made yet.
    pub is_due_again: bool,
    /// The outcome of the last attempt, if a replay was the last one.
    pub replayed: Option<OutcomeKind>,
}

/// What is to be done about an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its turn has come: ask for the attempt, or cancel the delivery.
    Ask,
    /// It was asked for, and has not ended.
    Wait,
    End(ItemState),
}

/// What is to be done about an item of `operation`, whose delivery shows this; `None`: it has no row.
#[must_use]
pub fn next_step(kind: Kind, operation: OperationNum, shown: Option<&Shown>) -> Step {
    match (kind, shown) {
        // Only its fan-out knows it, or it is gone, which a cancellation finds out.
        (Kind::Purge, None) => Step::Ask,
        (Kind::Retry, None) => Step::End(ItemState::Skipped),
        (Kind::Purge, Some(shown)) => match shown.status {
            Status::Pending => Step::Ask,
            Status::Cancelled => Step::End(ItemState::Success),
            Status::Success | Status::Failed => Step::End(ItemState::Skipped),
        },
        (Kind::Retry, Some(shown)) => retry_step(operation, shown),
        (Kind::Owe, None) => Step::Ask,
        (Kind::Owe, Some(shown)) => owe_step(operation, shown),
    }
}

/// The delivery that was made ends the item with its first attempt; its automatic retries go on by themselves.
fn owe_step(operation: OperationNum, shown: &Shown) -> Step {
    if shown.operation != Some(operation) {
        return Step::End(ItemState::Skipped);
    }
    match shown.status {
        Status::Pending if shown.attempts == 0 => Step::Wait,
        Status::Pending | Status::Failed => Step::End(ItemState::Failed),
        Status::Success => Step::End(ItemState::Success),
        Status::Cancelled => Step::End(ItemState::Skipped),
    }
}

fn retry_step(operation: OperationNum, shown: &Shown) -> Step {
    let is_ours = shown.operation == Some(operation);
    match (is_ours, shown.is_due_again) {
        (true, true) => Step::Wait,
        (true, false) => Step::End(match shown.replayed {
            Some(OutcomeKind::Success) => ItemState::Success,
            Some(_) => ItemState::Failed,
            // It was purged or cancelled before its turn.
            None => ItemState::Skipped,
        }),
        (false, true) => Step::End(ItemState::Skipped),
        (false, false) if shown.status == Status::Pending || shown.attempts >= MAX_ATTEMPT => {
            Step::End(ItemState::Skipped)
        }
        (false, false) => Step::Ask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: OperationNum = OperationNum(7);

    fn failed() -> Shown {
        Shown {
            event: EventSeq(1),
            status: Status::Failed,
            attempts: 3,
            operation: None,
            is_due_again: false,
            replayed: None,
        }
    }

    #[test]
    fn an_item_is_due_again_once_and_ends_as_its_replay_did() {
        let step = |shown: Shown| next_step(Kind::Retry, OURS, Some(&shown));
        assert_eq!(step(failed()), Step::Ask);
        assert_eq!(step(Shown { operation: Some(OperationNum(6)), ..failed() }), Step::Ask);
        let ours = Shown { operation: Some(OURS), ..failed() };
        assert_eq!(step(Shown { is_due_again: true, status: Status::Pending, ..ours }), Step::Wait);
        let replayed = |outcome| step(Shown { replayed: outcome, ..ours });
        assert_eq!(replayed(Some(OutcomeKind::Success)), Step::End(ItemState::Success));
        assert_eq!(replayed(Some(OutcomeKind::TimedOut)), Step::End(ItemState::Failed));
        assert_eq!(replayed(None), Step::End(ItemState::Skipped), "it was taken back before its turn");
    }

    #[test]
    fn what_others_have_changed_meanwhile_is_left_alone() {
        let skipped = Step::End(ItemState::Skipped);
        let retry = |shown: Shown| next_step(Kind::Retry, OURS, Some(&shown));
        assert_eq!(next_step(Kind::Retry, OURS, None), skipped);
        assert_eq!(retry(Shown { status: Status::Pending, ..failed() }), skipped);
        assert_eq!(retry(Shown { is_due_again: true, ..failed() }), skipped);
        assert_eq!(retry(Shown { attempts: MAX_ATTEMPT, ..failed() }), skipped);
        let purge = |status| next_step(Kind::Purge, OURS, Some(&Shown { status, ..failed() }));
        assert_eq!((purge(Status::Success), purge(Status::Failed)), (skipped, skipped));
        assert_eq!((purge(Status::Pending), next_step(Kind::Purge, OURS, None)), (Step::Ask, Step::Ask));
        assert_eq!(purge(Status::Cancelled), Step::End(ItemState::Success));
    }

    #[test]
    fn what_is_owed_anew_ends_with_its_first_attempt() {
        let step = |status, attempts| {
            let ours = Shown { operation: Some(OURS), status, attempts, ..failed() };
            next_step(Kind::Owe, OURS, Some(&ours))
        };
        assert_eq!(next_step(Kind::Owe, OURS, None), Step::Ask);
        assert_eq!(next_step(Kind::Owe, OURS, Some(&failed())), Step::End(ItemState::Skipped), "it was owed before");
        assert_eq!((step(Status::Pending, 0), step(Status::Pending, 1)), (Step::Wait, Step::End(ItemState::Failed)));
        assert_eq!(step(Status::Success, 2), Step::End(ItemState::Success));
        assert_eq!(step(Status::Cancelled, 0), Step::End(ItemState::Skipped));
    }

    #[test]
    fn patterns_admit_types_as_subscriptions_do() {
        let admits = |events: &[&str], kind: &str| {
            let events = events.iter().map(|event| (*event).to_owned()).collect();
            let selection = Selection {
                webhooks: Vec::new(),
                since: None,
                until: UnixMillis(0),
                status: Some(Status::Failed),
                outcome: None,
                status_code: None,
                events,
            };
            selection.admits(kind)
        };
        assert!(admits(&[], "a") && admits(&["*"], "a.b") && admits(&["b", "a.*"], "a.b.c") && admits(&["a.b"], "a.b"));
        assert!(!admits(&["a.*"], "a") && !admits(&["a"], "a.b") && !admits(&["a.*"], "ab.c"));
    }
}
