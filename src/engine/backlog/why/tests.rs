use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::delivery::breaker::ViewState;
use crate::domain::health::{Health, Suspension};
use crate::domain::id::{EventSeq, TenantNum, WebhookId, WebhookNum};
use crate::engine::PartView;

const NOW: UnixMillis = UnixMillis(1_795_420_800_000);

fn later(seconds: u64) -> UnixMillis {
    NOW.plus(Duration::from_secs(seconds))
}

fn webhook() -> WebhookSummary {
    WebhookSummary {
        num: WebhookNum(1),
        id: WebhookId::generate(),
        tenant: TenantNum(1),
        name: String::new(),
        policy: Policy::default(),
        is_active: true,
        inactive_reason: None,
        paused_at: None,
        health: Health::default(),
        unreadable: None,
    }
}

fn rejected() -> LastError {
    let (outcome, event) = (OutcomeKind::Rejected, EventSeq::first_at(NOW));
    LastError { at: NOW, outcome, status: Some(500), error: None, event }
}

fn head(tries: u16, next_at: UnixMillis) -> Head {
    let (event, last) = (EventSeq::first_at(NOW), (tries > 0).then(rejected));
    let first =
        Waiting { event, next_at: Some(next_at), attempts: tries, tries, is_manual: false, is_replay: false, last };
    let later = (next_at > NOW).then(|| first.clone());
    Head { first, later, scheduled: tries.into() }
}

/// Owns what [`Facts`] borrows.
#[derive(Debug, Clone)]
struct Case {
    state: EndpointState,
    webhook: WebhookSummary,
    policy: Policy,
    receiver: Receiver,
    lane: Option<Gauge>,
    head: Option<Head>,
    counts: Counts,
    throttled_ms: u64,
    waits: Waits,
    node: Node,
    crashes: Crashes,
    unreadable: Option<UnreadableRow>,
    breaker: View,
    fate: Option<Fate>,
    unsendable: u64,
}

impl Case {
    /// A webhook whose deliveries flow.
    fn new(counts: (u64, u64, u64, u64)) -> Self {
        let (ready, scheduled, held, in_flight) = counts;
        let part = PartView { places: 14, in_use: 14, waiting: 3 };
        Self {
            state: EndpointState::Active,
            webhook: webhook(),
            policy: Policy::default(),
            receiver: Receiver::default(),
            lane: Some(Gauge { cap: 16, attempts: 1, ..Gauge::default() }),
            head: None,
            counts: Counts { ready, scheduled, held, in_flight },
            throttled_ms: 0,
            waits: Waits::default(),
            node: Node {
                is_stopping: false,
                has_lease: true,
                serves_it: true,
                is_behind: false,
                is_purging: false,
                tight: None,
                permits: BulkheadView { healthy: part, ailing: part },
            },
            crashes: Crashes::default(),
            unreadable: None,
            breaker: View {
                state: ViewState::Closed,
                consecutive_failures: 0,
                next_probe_at: None,
                opened_at: None,
                last_failure: None,
                suspension: None,
            },
            fate: None,
            unsendable: 0,
        }
    }

    fn failing(mut self) -> Self {
        self.receiver.failing_since = Some(NOW);
        self.receiver.last_error = Some(Arc::new(rejected()));
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn said(&self) -> Option<String> {
        sentence(&Facts {
            now: NOW,
            webhook: &self.webhook,
            state: self.state,
            paused_by: Some("admin"),
            breaker: self.breaker,
            receiver: &self.receiver,
            crashes: self.crashes,
            unreadable: self.unreadable.as_ref(),
            crash: Some("src/x.rs:7"),
            counts: self.counts,
            lane: self.lane.as_ref(),
            waits: self.waits,
            policy: &self.policy,
            throttled_ms: self.throttled_ms,
            head: self.head.as_ref(),
            fate: self.fate,
            node: self.node,
            unsendable: self.unsendable,
        })
    }
}

fn is_said(case: &Case, parts: &[&str]) {
    let said = case.said().unwrap_or_default();
    assert!(parts.iter().all(|part| said.contains(part)), "{said:?} without some of {parts:?}");
}

#[test]
fn an_open_breaker_names_the_last_status_code_and_the_next_probe() {
    let open = |at: Option<UnixMillis>| {
        Case::new((0, 0, 3, 0)).failing().with(|case| {
            case.state = EndpointState::Open;
            (case.breaker.consecutive_failures, case.breaker.next_probe_at) = (20, at);
        })
    };
    let said = open(Some(later(5))).said().unwrap();
    let expected = "breaker open after 20 failures, the last rejected (500); next probe 2026-11-23T08:00:05.000Z";
    assert_eq!(said, expected);
    is_said(&open(None), &["half-open", "the next delivery is the probe"]);
    is_said(&open(None).with(|case| case.counts.in_flight = 1), &["a probe is under way"]);
}

#[test]
fn a_suspension_names_its_cause_and_what_ends_it() {
    let suspended = |cause, next_probe_at| {
        Case::new((0, 0, 3, 0)).failing().with(|case| {
            case.state = EndpointState::Suspended;
            (case.breaker.suspension, case.breaker.next_probe_at) =
                (Some(Suspension { since: NOW, cause }), next_probe_at);
        })
    };
    let said = suspended(SuspensionCause::Failing, Some(later(5))).said().unwrap();
    let expected = "suspended since 2026-11-23T08:00:00.000Z: every attempt has failed since 2026-11-23T08:00:00.000Z, \
        the last rejected (500); its events stay owed; next probe 2026-11-23T08:00:05.000Z; a success ends the \
        suspension, and so does a change of its URL";
    assert_eq!(said, expected);
    is_said(&suspended(SuspensionCause::Gone, None), &["410 Gone", "stay owed", "no probe is sent", "probe it"]);
    is_said(&suspended(SuspensionCause::Failing, None), &["the next delivery is the probe"]);
    let probing = suspended(SuspensionCause::Gone, None).with(|case| case.counts.in_flight = 1);
    is_said(&probing, &["a probe is under way"]);
}

#[test]
fn a_webhook_that_has_recovered_says_how_fast_it_is_sent_its_backlog() {
    let case = Case::new((9, 0, 0, 0)).with(|case| {
        let lane = case.lane.get_or_insert_default();
        (lane.slow_until, lane.slow_start) = (Some(Instant::now()), Some(5.2));
    });
    is_said(&case, &["recovered from a suspension", "about 5 requests a second", "9 deliveries wait"]);
}

#[test]
fn states_that_hold_say_who_or_what_ends_them() {
    let of = |state| Case::new((0, 0, 3, 0)).with(|case| case.state = state);
    let paused = |case: &mut Case| case.webhook.paused_at = Some(UnixMillis(0));
    is_said(&of(EndpointState::Paused).with(paused), &["paused since 1970", "by admin", "resume it"]);
    is_said(
        &of(EndpointState::Inactive).with(paused),
        &["switch it on", "besides, it is paused since 1970", "resume it"],
    );
    is_said(&of(EndpointState::Inactive), &["switched off by its owner", "switch it on"]);
    let gone = |case: &mut Case| case.webhook.inactive_reason = Some("the receiver answered 410 Gone".to_owned());
    is_said(&of(EndpointState::Inactive).with(gone), &["410 Gone", "switch it on"]);
    let row = |table, column: &'static str| UnreadableRow { table, key: "7".to_owned(), column: Some(column.into()) };
    let damaged = |row| of(EndpointState::Quarantined).with(|case: &mut Case| case.unreadable = Some(row));
    is_said(
        &damaged(row("webhook", "policy")),
        &["row 7 of the table `webhook` (column `policy`) cannot be read", "PATCH", "delete it", "posthaste check"],
    );
    is_said(&damaged(row("webhook_secret", "sealed")), &["row 7 of the table `webhook_secret`", "rotate its secret"]);
    let crashed = |case: &mut Case| case.crashes.recent = 8;
    is_said(&of(EndpointState::Quarantined).with(crashed), &["8 times", "src/x.rs:7", "resume or probe"]);
}

#[test]
fn a_reduced_number_of_requests_is_told_with_the_limit_and_the_failure() {
    let lane = |cap, strained_by| Some(Gauge { cap, strained_by, ..Gauge::default() });
    let case =
        |cap, by: Option<LastError>| Case::new((5, 0, 0, 4)).with(|case| case.lane = lane(cap, by.map(Arc::new)));
    let throttled = LastError { outcome: OutcomeKind::Throttled, status: Some(429), ..rejected() };
    is_said(&case(4, Some(throttled)), &["4 of 16 requests", "reduced after throttled (429)", "5 deliveries wait"]);
    is_said(&case(4, None), &["4 of 16 requests", "begins with few"]);
    is_said(&case(16, None).with(|case| case.counts.in_flight = 16), &["16 of 16 requests at once are under way"]);
    assert_eq!(case(16, None).said(), None, "there is room for more");
}

#[test]
fn strict_order_names_the_head_its_failure_and_its_next_try() {
    let ordered = |case: &mut Case| {
        case.policy.ordered = true;
        case.head = Some(head(2, later(4)));
    };
    let behind = Case::new((0, 1, 5, 0)).failing().with(ordered);
    is_said(
        &behind,
        &["5 deliveries wait behind dlv_", "failed with rejected (500)", "retry 2 of 3 is at 2026-11-23T08:00:04"],
    );
    let first = Case::new((3, 0, 0, 1)).with(|case| case.policy.ordered = true);
    is_said(&first.with(|case| case.lane = Some(Gauge { cap: 1, ..Gauge::default() })), &["one request at a time"]);
}

#[test]
fn retries_limits_and_places_are_told_apart() {
    let waiting = Case::new((0, 2, 0, 0)).failing().with(|case| case.head = Some(head(1, later(2))));
    is_said(&waiting, &["2 deliveries wait for a retry", "rejected (500)", "retry 1 of 3 is at"]);
    let untried = Case::new((0, 1, 0, 0)).with(|case| case.head = Some(head(0, later(2))));
    is_said(&untried, &["1 delivery waits for a later time", "is not due yet; its next attempt is at"]);
    let limit = RateLimit { requests: 5, per_seconds: 1, burst: 5 };
    let limited = Case::new((5, 0, 0, 0)).with(|case| (case.throttled_ms, case.policy.rate_limit) = (70, Some(limit)));
    is_said(&limited, &["its rate limit of 5 requests in 1 s", "5 deliveries wait", "in 70 ms"]);
    let placeless = Case::new((5, 0, 0, 3)).with(|case| case.waits.permit = 3);
    is_said(&placeless, &["3 requests wait for a place", "14 of the node's 14 places for healthy webhooks"]);
    let tight = Case::new((5, 0, 0, 1)).with(|case| case.node.tight = Some((9 << 20, 8 << 20)));
    is_said(&tight, &["payloads in memory take 9 of 8 MiB", "waits as a row"]);
    for (waits, part) in [
        (Waits { journal: 1, ..Waits::default() }, "room in the journal"),
        (Waits { lease: 1, ..Waits::default() }, "this node's lease"),
        (Waits { descriptor: 1, ..Waits::default() }, "a file descriptor"),
    ] {
        is_said(&Case::new((0, 0, 0, 1)).with(|case| case.waits = waits), &["1 request waits for", part]);
    }
}

#[test]
fn retries_that_wait_keep_their_cause_while_others_are_due() {
    let waiting = |counts| {
        Case::new(counts).failing().with(|case| {
            let mut head = head(1, NOW);
            head.later = Some(Waiting { next_at: Some(later(2)), ..head.first.clone() });
            case.head = Some(head);
        })
    };
    let cause = [
        "wait for a retry; the first, dlv_",
        "failed with rejected (500) at",
        "retry 1 of 3 is at 2026-11-23T08:00:02",
    ];
    let under_way = waiting((0, 2, 0, 1));
    is_said(&under_way, &cause);
    let limit = RateLimit { requests: 1, per_seconds: 2, burst: 1 };
    let limited = waiting((4, 2, 0, 0)).with(|case| (case.throttled_ms, case.policy.rate_limit) = (70, Some(limit)));
    is_said(&limited, &["rate limit of 1 request in 2 s", "4 deliveries wait, the", "; besides, 2 deliveries"]);
    is_said(&limited, &cause);
    let placeless = waiting((0, 2, 0, 1)).with(|case| case.waits.permit = 1);
    is_said(&placeless, &["1 request waits for a place"]);
    is_said(&placeless, &cause);
    let one_at_once = waiting((4, 2, 0, 1)).with(|case| {
        (case.policy.max_in_flight, case.lane) = (1, Some(Gauge { cap: 1, ..Gauge::default() }));
    });
    is_said(&one_at_once, &["1 of 1 requests at once", "4 deliveries wait for their answers"]);
    is_said(&one_at_once, &cause);
}

#[test]
fn what_is_due_says_how_the_last_attempt_failed() {
    let limited = Case::new((4, 0, 0, 0)).failing().with(|case| case.throttled_ms = 70);
    is_said(&limited, &["4 deliveries wait", "; the last attempt failed with rejected (500) at 2026-11-23T08:00:00"]);
    let unknown = Case::new((0, 2, 0, 1)).failing();
    is_said(&unknown, &["2 deliveries wait for a later time; the last attempt failed with rejected (500) at"]);
}

#[test]
fn rows_that_cannot_be_read_are_counted_awake_or_asleep() {
    let stuck = Case::new((3, 0, 0, 0)).with(|case| case.unsendable = 2);
    let parts = ["3 deliveries wait", "2 rows cannot be read", "`posthaste check` names them"];
    is_said(&stuck, &parts);
    is_said(&stuck.with(|case| case.lane = None), &parts);
}

#[test]
fn used_up_retries_are_told_when_nothing_waits_any_more() {
    let id = DeliveryId { event: EventSeq::first_at(NOW), webhook: WebhookNum(1) };
    let fate = |status| Some(Fate { id, status, attempts: 4 });
    let case = |status| Case::new((0, 0, 0, 0)).failing().with(|case| case.fate = fate(status));
    is_said(&case(Status::Failed), &["dlv_", "rejected (500)", "after 4 attempts", "no retries left"]);
    is_said(&case(Status::Cancelled), &["was cancelled"]);
    assert_eq!(Case::new((0, 0, 0, 0)).said(), None);
}

#[test]
fn what_the_node_does_not_do_comes_before_what_the_endpoint_does() {
    let node = |change: fn(&mut Node)| Case::new((5, 0, 0, 0)).with(|case| change(&mut case.node));
    is_said(&node(|node| node.has_lease = false), &["lease has ended", "renews"]);
    is_said(&node(|node| node.serves_it = false), &["handed over"]);
    is_said(&node(|node| node.is_stopping = true), &["is stopping"]);
    is_said(&node(|node| node.is_purging = true), &["is being purged"]);
    let asleep = |case: Case| case.with(|case| case.lane = None);
    is_said(&asleep(node(|node| node.is_behind = true)), &["still reading what was accepted before"]);
    is_said(&asleep(node(|_| ())), &["is being started"]);
    let resting = |case: &mut Case| (case.crashes.resting, case.crashes.recent) = (true, 2);
    is_said(&node(|_| ()).with(resting), &["crashed 2 times, last at src/x.rs:7", "started again"]);
}

fn cases() -> impl Strategy<Value = Case> {
    let counts = (0u64..4, 0u64..4, 0u64..4, 0u64..6);
    let lane = proptest::option::of((1usize..6, any::<bool>()));
    let node = (any::<[bool; 5]>(), proptest::option::of(1usize..1 << 30));
    let retry = proptest::option::of((1u16..4, 0u64..60));
    let flags = any::<[bool; 4]>();
    (counts, lane, node, retry, flags, prop::array::uniform4(0u32..3), 0u64..100).prop_map(
        |(counts, lane, (node, tight), retry, [ordered, failing, resting, limited], waits, throttled_ms)| {
            let mut case = Case::new(counts);
            case.lane = lane.map(|(cap, strained)| {
                let strained_by = strained.then(|| Arc::new(rejected()));
                Gauge { cap, strained_by, ..Gauge::default() }
            });
            let [has_lease, serves_it, is_stopping, is_behind, is_purging] = node;
            let permits = case.node.permits;
            let tight = tight.map(|used| (used, 1));
            case.node = Node { is_stopping, has_lease, serves_it, is_behind, is_purging, tight, permits };
            case.head = retry.map(|(tries, seconds)| head(tries, later(seconds)));
            (case.policy.ordered, case.crashes.resting) = (ordered, resting);
            let [permit, journal, lease, descriptor] = waits;
            case.waits = Waits { permit, journal, lease, descriptor };
            case.throttled_ms = if limited { throttled_ms } else { 0 };
            if failing { case.failing() } else { case }
        },
    )
}

proptest! {
    /// Ready deliveries with no request in flight always have a cause, and no cause is named that is not true.
    #[test]
    fn who_waits_is_told_why_and_no_cause_is_made_up(case in cases()) {
        let (said, Counts { ready, scheduled, held, in_flight }) = (case.said(), case.counts);
        let pending = ready + scheduled + held + in_flight;
        prop_assert!(in_flight > 0 || ready == 0 || said.is_some(), "{case:?}");
        let text = said.unwrap_or_default();
        let claims = |part: &str, is_true: bool| is_true || !text.contains(part);
        prop_assert!(claims("rate limit", case.throttled_ms > 0 && ready > 0), "{text}");
        prop_assert!(claims("for a retry", scheduled > 0), "{text}");
        prop_assert!(claims("behind dlv_", case.policy.ordered && held > 0), "{text}");
        prop_assert!(claims("for a place", case.waits.permit > 0), "{text}");
        prop_assert!(claims("reduced after", case.lane.as_ref().is_some_and(|lane| lane.strained_by.is_some())), "{text}");
        prop_assert!(claims("lease has ended", !case.node.has_lease), "{text}");
        prop_assert!(claims("handed over", !case.node.serves_it), "{text}");
        prop_assert!(claims("payloads in memory", case.node.tight.is_some()), "{text}");
        prop_assert!(claims("nothing is pending", pending == 0), "{text}");
        prop_assert!(pending > 0 || case.receiver.failing_since.is_some() || text.is_empty(), "{text}");
    }
}
