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
    OperationState {
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

impl OperationState {
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
        /// The delivery was no longer as it was counted: another call or operation has sent, cancelled or deleted it.
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
    subscriptions.iter().any(|subscription| is_for(subscription, kind))
}

pub(super) fn is_for(subscription: &str, kind: &str) -> bool {
    match subscription.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => kind == subscription,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub num: OperationNum,
    pub id: OperationId,
    pub tenant: TenantNum,
    pub kind: Kind,
    pub state: OperationState,
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

/// An item that has not ended, and its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub event: EventSeq,
    /// Whether the operation has asked for an attempt, which the journal noted in one transaction with the delivery.
    pub was_asked_for: bool,
    /// The outcome of that attempt, once it was made.
    pub outcome: Option<OutcomeKind>,
    /// `None`: the delivery has no row.
    pub delivery: Option<Shown>,
}

/// What the delivery of an item shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub status: Status,
    /// Requests made, of any trigger.
    pub attempts: u16,
    /// The operation that made the delivery, asked for its latest replay, or cancelled it.
    pub operation: Option<OperationNum>,
    /// Whether an attempt was asked for that was not made yet.
    pub is_due_again: bool,
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

impl Operation {
    /// What is to be done about an item.
    #[must_use]
    pub fn next_step(&self, item: &Item) -> Step {
        let skipped = Step::End(ItemState::Skipped);
        if item.was_asked_for {
            return match (item.outcome, item.delivery) {
                (Some(OutcomeKind::Success), _) => Step::End(ItemState::Success),
                (Some(_), _) => Step::End(ItemState::Failed),
                (None, Some(shown)) if self.is_awaited(shown) => Step::Wait,
                // It was cancelled before its turn.
                (None, _) => skipped,
            };
        }
        match (self.kind, item.delivery) {
            // Only its fan-out knows it, or it is gone, which a cancellation finds out.
            (Kind::Purge, None) | (Kind::Owe, None) => Step::Ask,
            (Kind::Purge, Some(Shown { status: Status::Pending, .. })) => Step::Ask,
            (Kind::Purge, Some(shown)) if shown.status == Status::Cancelled && shown.operation == Some(self.num) => {
                Step::End(ItemState::Success)
            }
            (Kind::Retry, Some(shown)) if self.may_be_retried(shown) => Step::Ask,
            (Kind::Retry | Kind::Purge | Kind::Owe, _) => skipped,
        }
    }

    fn is_awaited(&self, shown: Shown) -> bool {
        shown.status == Status::Pending && shown.operation == Some(self.num)
    }

    /// Whether the delivery is as it was counted, and nobody else has asked for an attempt.
    fn may_be_retried(&self, shown: Shown) -> bool {
        self.selection.status == Some(shown.status) && !shown.is_due_again && shown.attempts < MAX_ATTEMPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: OperationNum = OperationNum(7);

    fn operation(kind: Kind, status: Option<Status>, events: &[&str]) -> Operation {
        let selection = Selection {
            webhooks: Vec::new(),
            since: None,
            until: UnixMillis(0),
            status,
            outcome: None,
            status_code: None,
            events: events.iter().map(|event| (*event).to_owned()).collect(),
        };
        Operation {
            num: OURS,
            id: OperationId::generate(),
            tenant: TenantNum(1),
            kind,
            state: OperationState::Running,
            selection,
            rate: 1,
            counts: Counts::default(),
            error: None,
            created_by: "admin".to_owned(),
            created_at: UnixMillis(0),
            started_at: None,
            finished_at: None,
        }
    }

    const FAILED: Shown = Shown { status: Status::Failed, attempts: 3, operation: None, is_due_again: false };

    fn item(delivery: Option<Shown>) -> Item {
        Item { event: EventSeq(1), was_asked_for: false, outcome: None, delivery }
    }

    #[test]
    fn an_item_is_requested_once_and_ends_as_its_attempt_did() {
        for kind in [Kind::Retry, Kind::Owe] {
            let operation = operation(kind, Some(Status::Failed), &[]);
            let asked =
                |outcome, delivery| operation.next_step(&Item { was_asked_for: true, outcome, ..item(Some(delivery)) });
            let waits = Shown { status: Status::Pending, operation: Some(OURS), ..FAILED };
            assert_eq!(asked(None, waits), Step::Wait);
            assert_eq!(asked(Some(OutcomeKind::Success), FAILED), Step::End(ItemState::Success));
            assert_eq!(asked(Some(OutcomeKind::TimedOut), FAILED), Step::End(ItemState::Failed));
            assert_eq!(asked(None, FAILED), Step::End(ItemState::Skipped), "it was taken back before its turn");
            let of_another = Shown { operation: Some(OperationNum(8)), ..waits };
            assert_eq!(asked(Some(OutcomeKind::Success), of_another), Step::End(ItemState::Success));
            assert_eq!(asked(None, of_another), Step::End(ItemState::Skipped), "and is not asked for again");
        }
    }

    #[test]
    fn what_others_have_changed_meanwhile_is_left_alone() {
        let skipped = Step::End(ItemState::Skipped);
        let step = |kind, status, delivery| operation(kind, status, &[]).next_step(&item(delivery));
        let retry = |shown| step(Kind::Retry, Some(Status::Failed), Some(shown));
        assert_eq!(retry(FAILED), Step::Ask);
        assert_eq!(retry(Shown { operation: Some(OperationNum(6)), ..FAILED }), Step::Ask);
        assert_eq!(step(Kind::Retry, Some(Status::Failed), None), skipped);
        for status in [Status::Pending, Status::Success, Status::Cancelled] {
            assert_eq!(retry(Shown { status, ..FAILED }), skipped);
        }
        assert_eq!(retry(Shown { is_due_again: true, ..FAILED }), skipped);
        assert_eq!(retry(Shown { attempts: MAX_ATTEMPT, ..FAILED }), skipped);
        let purge = |status| step(Kind::Purge, Some(Status::Pending), Some(Shown { status, ..FAILED }));
        let ended = [Status::Success, Status::Failed, Status::Cancelled].map(purge);
        assert_eq!((purge(Status::Pending), ended), (Step::Ask, [skipped; 3]));
        let cancelled = Shown { status: Status::Cancelled, operation: Some(OURS), ..FAILED };
        assert_eq!(step(Kind::Purge, Some(Status::Pending), Some(cancelled)), Step::End(ItemState::Success));
        assert_eq!(step(Kind::Purge, Some(Status::Pending), None), Step::Ask);
        assert_eq!((step(Kind::Owe, None, None), step(Kind::Owe, None, Some(FAILED))), (Step::Ask, skipped));
    }

    #[test]
    fn patterns_admit_types_as_subscriptions_do() {
        let admits = |events: &[&str], kind: &str| operation(Kind::Retry, None, events).selection.admits(kind);
        assert!(admits(&[], "a") && admits(&["*"], "a.b") && admits(&["b", "a.*"], "a.b.c") && admits(&["a.b"], "a.b"));
        assert!(!admits(&["a.*"], "a") && !admits(&["a"], "a.b") && !admits(&["a.*"], "ab.c"));
    }
}
