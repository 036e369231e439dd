//! The sentence that tells an operator what keeps deliveries from flowing, and what ends that or what to do. Pure:
//! `backlog/facts` passes everything in as [`Facts`]. The texts are part of the API, and tests compare them.

use crate::delivery::breaker::View;
use crate::domain::delivery::Status;
use crate::domain::health::{LastError, SuspensionCause};
use crate::domain::id::DeliveryId;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::domain::policy::{Policy, RateLimit};
use crate::engine::endpoint_stats::Waits;
use crate::engine::lane::Gauge;
use crate::engine::permits::{BulkheadView, Share};
use crate::engine::registry::Crashes;
use crate::store::deliveries::{Head, Waiting};
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::WebhookSummary;

use super::{EndpointState, Receiver};

/// The pending deliveries by state; each is counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ready: u64,
    pub(super) scheduled: u64,
    pub(super) held: u64,
    pub(super) in_flight: u64,
}

/// The status of the delivery that failed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) id: DeliveryId,
    pub(super) status: Status,
    pub(super) attempts: u16,
}

/// What keeps the node from sending to a webhook, whatever state its endpoint is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) is_stopping: bool,
    pub(super) has_lease: bool,
    /// This node serves the shard of the webhook.
    pub(super) serves_it: bool,
    /// Committed events have not been offered to their endpoints yet.
    pub(super) is_behind: bool,
    pub(super) is_purging: bool,
    /// Payload bytes in memory and their limit, when the limit is exceeded.
    pub(super) tight: Option<(usize, usize)>,
    pub(super) permits: BulkheadView,
}

/// Everything that may be a cause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) now: UnixMillis,
    pub(super) webhook: &'a WebhookSummary,
    pub(super) state: EndpointState,
    pub(super) paused_by: Option<&'a str>,
    pub(super) breaker: View,
    pub(super) receiver: &'a Receiver,
    pub(super) crashes: Crashes,
    /// The row that keeps the webhook from being served, if one cannot be read.
    pub(super) unreadable: Option<&'a UnreadableRow>,
    /// Where the actor crashed last.
    pub(super) crash: Option<&'a str>,
    pub(super) counts: Counts,
    /// `None` while the endpoint is asleep.
    pub(super) lane: Option<&'a Gauge>,
    pub(super) waits: Waits,
    pub(super) policy: &'a Policy,
    pub(super) throttled_ms: u64,
    pub(super) head: Option<&'a Head>,
    pub(super) fate: Option<Fate>,
    pub(super) node: Node,
    /// Due rows that cannot be read.
    pub(super) unsendable: u64,
}

/// `None` when nothing keeps deliveries from flowing, or nothing is pending and the receiver does not fail.
pub(super) fn sentence(facts: &Facts<'_>) -> Option<String> {
    match facts.state {
        EndpointState::Inactive => Some(inactive(facts)),
        EndpointState::Paused => Some(paused(facts)),
        EndpointState::Quarantined => {
            Some(facts.unreadable.map_or_else(|| crashed(facts.crashes, facts.crash), cannot_be_served))
        }
        EndpointState::Suspended => Some(node(facts).unwrap_or_else(|| suspended(facts))),
        EndpointState::Open => Some(node(facts).unwrap_or_else(|| open(facts))),
        EndpointState::Active if pending(facts) == 0 => ended(facts),
        EndpointState::Active => node(facts).or_else(|| active(facts)),
    }
}

/// Why a webhook is not served of which a row cannot be read, and what ends that.
#[must_use]
pub fn cannot_be_served(row: &UnreadableRow) -> String {
    let end = match (row.table, row.column.as_deref()) {
        ("webhook_secret", _) => "rotate its secret with `graceSeconds` 0, which replaces the row",
        (_, Some("paused_at")) => "resume it, which replaces the value",
        (_, Some("version")) => "pause it, which replaces the value",
        _ => "replace what is damaged with PATCH, or delete it",
    };
    format!("{row} cannot be read, and its deliveries wait; {end}; `posthaste check` says what is wrong with the row")
}

/// Why an endpoint is quarantined that crashed too often; `crash` is where it crashed last.
pub(in crate::engine) fn crashed(crashes: Crashes, crash: Option<&str>) -> String {
    let (times, place) = (crashes.recent, place(crash));
    format!("its actor crashed {times} times in a row{place}; resume or probe it to start it again")
}

fn pending(Facts { counts, .. }: &Facts<'_>) -> u64 {
    counts.ready + counts.scheduled + counts.held + counts.in_flight
}

fn inactive(facts: &Facts<'_>) -> String {
    let last =
        facts.receiver.last_error.as_deref().map_or_else(String::new, |last| format!(" (last: {})", failure(last)));
    let off = match &facts.webhook.inactive_reason {
        Some(reason) => format!("switched off: {reason}{last}; switch it on to send what it is owed"),
        None => {
            "switched off by its owner: it gets no new events, and what it is owed is kept; switch it on to send it"
                .to_owned()
        }
    };
    match facts.webhook.paused_at {
        Some(_) => format!("{off}; besides, it is {}", paused(facts)),
        None => off,
    }
}

fn paused(facts: &Facts<'_>) -> String {
    let since = facts.webhook.paused_at.unwrap_or(UnixMillis(0));
    let by = facts.paused_by.map_or_else(String::new, |by| format!(" by {by}"));
    format!("paused since {since}{by}; resume it to let its deliveries flow")
}

fn suspended(facts: &Facts<'_>) -> String {
    let View { suspension, next_probe_at, .. } = facts.breaker;
    let since = suspension.map_or(UnixMillis(0), |suspension| suspension.since);
    let cause = match (suspension.map(|suspension| suspension.cause), facts.receiver.failing_since) {
        (Some(SuspensionCause::Gone), _) => "its receiver answered 410 Gone".to_owned(),
        (_, Some(failing_since)) => format!("every attempt has failed since {failing_since}{}", last_of(facts)),
        (_, None) => format!("every attempt has failed for long{}", last_of(facts)),
    };
    let end = match next_probe_at {
        Some(at) => format!("next probe {at}; a success ends the suspension, and so does a change of its URL"),
        None if facts.counts.in_flight > 0 => "a probe is under way, whose success ends the suspension".to_owned(),
        None if suspension.is_some_and(|suspension| suspension.cause == SuspensionCause::Gone) => {
            "no probe is sent; change its URL, or probe it".to_owned()
        }
        None => "the next delivery is the probe, whose success ends the suspension".to_owned(),
    };
    format!("suspended since {since}: {cause}; its events stay owed; {end}")
}

fn open(facts: &Facts<'_>) -> String {
    let View { consecutive_failures, next_probe_at, .. } = facts.breaker;
    let failures = format!("after {}{}", counted(consecutive_failures.into(), "failure"), last_of(facts));
    match next_probe_at {
        Some(at) => format!("breaker open {failures}; next probe {at}"),
        None if facts.counts.in_flight > 0 => format!("breaker half-open {failures}; a probe is under way"),
        None if facts.waits.total() > 0 => {
            let wait = requests_that_wait(facts).unwrap_or_default();
            format!("breaker half-open {failures}; the probe is about to be sent: {wait}")
        }
        None => format!("breaker half-open {failures}; the next delivery is the probe"),
    }
}

/// How the last failure ended, when nothing is pending.
fn ended(facts: &Facts<'_>) -> Option<String> {
    facts.receiver.failing_since?;
    let last = facts.receiver.last_error.as_deref()?;
    let (failure, nothing) = (failure(last), "nothing is pending");
    Some(match facts.fate {
        Some(Fate { id, status: Status::Failed, attempts }) => {
            let attempts = counted(attempts.into(), "attempt");
            format!("{nothing}: {id} failed with {failure} after {attempts} and has no retries left; retry it by hand")
        }
        Some(Fate { id, status: Status::Cancelled, .. }) => {
            format!("{nothing}: {id} failed with {failure} and was cancelled before its next try")
        }
        Some(Fate { status: Status::Pending | Status::Success, .. }) | None => {
            format!("{nothing}; the last request failed with {failure}")
        }
    })
}

/// What keeps the node from sending for any webhook, or for this one.
fn node(facts: &Facts<'_>) -> Option<String> {
    let Node { is_stopping, has_lease, serves_it, is_purging, .. } = facts.node;
    let text = if !has_lease {
        "this node's lease has ended and it sends nothing; it goes on once the database renews the lease, or another \
         node takes over"
    } else if !serves_it {
        "its shard is being handed over to another node, which goes on within seconds"
    } else if is_stopping {
        "this node is stopping and begins nothing; what is pending is sent after the start, or by another node"
    } else if is_purging {
        "its backlog is being purged; what is not purged is sent after that"
    } else {
        return None;
    };
    Some(text.to_owned())
}

/// The causes when something is pending and the state lets it flow.
fn active(facts: &Facts<'_>) -> Option<String> {
    let Counts { ready, scheduled, .. } = facts.counts;
    if facts.crashes.resting {
        let (crashes, place) = (counted(facts.crashes.recent.into(), "time"), place(facts.crash));
        return Some(format!("its actor crashed {crashes}{place}; it is started again within 30 s"));
    }
    if let Some(text) = behind_the_head(facts) {
        return Some(text);
    }
    let cause = requests_that_wait(facts).or_else(|| (ready > 0).then(|| ready_and_not_sent(facts)).flatten());
    let tight = facts.node.tight.filter(|_| ready > 0).map(|(used, of)| {
        let (used, of) = (mebibytes(used), mebibytes(of));
        format!("payloads in memory take {used} of {of} MiB, and what is not sent at once waits as a row")
    });
    let retries = (scheduled > 0).then(|| retries(facts));
    let names_the_failure = retries.is_some();
    let causes = [cause, tight, retries].into_iter().flatten().collect::<Vec<_>>().join("; besides, ");
    match last_attempt(facts).filter(|_| !names_the_failure) {
        _ if causes.is_empty() => None,
        Some(last) => Some(format!("{causes}; {last}")),
        None => Some(causes),
    }
}

/// The cause when an ordered webhook's first delivery waits for its retry.
fn behind_the_head(facts: &Facts<'_>) -> Option<String> {
    let head = facts.head.filter(|_| facts.policy.ordered).map(|head| &head.first)?;
    let at = head.next_at.filter(|at| *at > facts.now)?;
    let (id, retry, failed) = (id(facts, head), retry(facts, head), failed_before(head));
    Some(match facts.counts.held {
        0 => format!("{id}{failed}; {retry} is at {at}"),
        behind => format!("strict order: {} behind {id}, which{failed}; {retry} is at {at}", wait(behind)),
    })
}

/// The cause when attempts have started and their requests have not been sent yet.
fn requests_that_wait(facts: &Facts<'_>) -> Option<String> {
    let Waits { permit, journal, lease, descriptor } = facts.waits;
    if permit > 0 {
        return Some(permits(facts, permit.into()));
    }
    let (waits, text) = [
        (lease, "for this node's lease, which the database renews"),
        (journal, "for room in the journal: the database writes more slowly than requests end"),
        (descriptor, "for a file descriptor: the process has as many open as it may (`ulimit -n`)"),
    ]
    .into_iter()
    .find(|(waits, _)| *waits > 0)?;
    let verb = if waits == 1 { "waits" } else { "wait" };
    Some(format!("{} {verb} {text}", counted(waits.into(), "request")))
}

fn permits(facts: &Facts<'_>, waits: u64) -> String {
    let Node { permits: BulkheadView { healthy, ailing }, .. } = facts.node;
    let (part, of) = match facts.lane.map_or(Share::Healthy, |lane| lane.share) {
        Share::Healthy => (healthy, "healthy webhooks"),
        Share::Ailing => (ailing, "webhooks that fail or are slow"),
    };
    let (in_use, places, verb) = (part.in_use, part.places, if waits == 1 { "waits" } else { "wait" });
    let requests = counted(waits, "request");
    format!(
        "{requests} {verb} for a place: {in_use} of the node's {places} places for {of} are in use; tenants take turns"
    )
}

/// Why due deliveries are not all in flight; `None` when they are about to be.
fn ready_and_not_sent(facts: &Facts<'_>) -> Option<String> {
    let Facts { throttled_ms, policy, node, counts: Counts { ready, in_flight, .. }, .. } = *facts;
    if let Some(rate) = facts.lane.filter(|lane| lane.slow_until.is_some()).and_then(|lane| lane.slow_start) {
        return Some(slow_start(ready, rate));
    }
    if throttled_ms > 0 {
        return Some(limited(policy.rate_limit, ready, throttled_ms));
    }
    if facts.unsendable > 0 {
        return Some(unsendable(facts));
    }
    let Some(lane) = facts.lane else {
        let why = match node.is_behind {
            true => "this node is still reading what was accepted before",
            false => "its endpoint is being started",
        };
        return Some(format!("{why}; {} to be sent", wait(ready)));
    };
    if in_flight > 0 && in_flight >= lane.cap as u64 {
        return Some(at_once(facts, lane));
    }
    if in_flight > 0 {
        return None;
    }
    let why = match node.is_behind {
        true => "this node is still reading what was accepted before",
        false => "they are being read from the database, or what became of them is being written to it",
    };
    Some(format!("{}: {why}", wait(ready)))
}

fn slow_start(ready: u64, rate: f64) -> String {
    let waiting = wait(ready);
    format!(
        "it has recovered from a suspension and is sent about {rate:.0} requests a second, twice as many every 30 s; \
         {waiting} for that"
    )
}

fn unsendable(facts: &Facts<'_>) -> String {
    let (waiting, rows) = (wait(facts.counts.ready), counted(facts.unsendable, "row"));
    format!(
        "{waiting}: {rows} cannot be read, or their events cannot; `posthaste check` names them, and they are sent once \
         that is mended"
    )
}

fn limited(limit: Option<RateLimit>, ready: u64, throttled_ms: u64) -> String {
    let limit = limit.map_or_else(String::new, |RateLimit { requests, per_seconds, .. }| {
        format!(" of {} in {per_seconds} s", counted(requests.into(), "request"))
    });
    format!("its rate limit{limit} is used up: {}, the next request may start in {throttled_ms} ms", wait(ready))
}

/// The cause when as many requests are in flight as the concurrency allows.
fn at_once(facts: &Facts<'_>, lane: &Gauge) -> String {
    let Counts { ready, in_flight, .. } = facts.counts;
    let (cap, most) = (lane.cap, usize::from(facts.policy.max_in_flight));
    let waiting = wait(ready);
    if facts.policy.ordered {
        return format!("strict order: one request at a time; {waiting} for its answer");
    }
    if cap >= most {
        return format!("{in_flight} of {most} requests at once are under way; {waiting} for their answers");
    }
    let why = match lane.strained_by.as_deref() {
        Some(strain) => format!("reduced after {}; it rises again with answers that succeed", failure(strain)),
        None => "it begins with few and rises with answers that succeed".to_owned(),
    };
    format!("{cap} of {most} requests at once are allowed, {why}; {waiting} for the answers of {in_flight}")
}

/// How many deliveries wait for a retry, and the first of them.
fn retries(facts: &Facts<'_>) -> String {
    let waiting = wait(facts.counts.scheduled);
    let Some((later, at)) =
        facts.head.and_then(|head| head.later.as_ref()).and_then(|later| later.next_at.map(|at| (later, at)))
    else {
        let last = last_attempt(facts).map_or_else(String::new, |last| format!("; {last}"));
        return format!("{waiting} for a later time{last}");
    };
    let (id, failed, retry) = (id(facts, later), failed_before(later), retry(facts, later));
    let what = if later.tries == 0 && !later.is_manual { "a later time" } else { "a retry" };
    // The delivery has no attempt of its own to tell of.
    let last =
        last_attempt(facts).filter(|_| later.last.is_none()).map_or_else(String::new, |last| format!("; {last}"));
    format!("{waiting} for {what}; the first, {id},{failed}; {retry} is at {at}{last}")
}

/// How the last attempt failed, for a receiver that only fails.
fn last_attempt(facts: &Facts<'_>) -> Option<String> {
    facts.receiver.failing_since?;
    let last = facts.receiver.last_error.as_deref()?;
    Some(format!("the last attempt failed with {} at {}", failure(last), last.at))
}

fn retry(facts: &Facts<'_>, head: &Waiting) -> String {
    let most = facts.policy.retry_policy.max_retries;
    match head.tries {
        _ if head.is_manual => "the retry by hand".to_owned(),
        _ if head.is_replay => "the replay".to_owned(),
        0 => "its next attempt".to_owned(),
        tries => format!("retry {tries} of {most}"),
    }
}

fn failed_before(head: &Waiting) -> String {
    let last = head.last.as_ref().filter(|last| last.outcome != OutcomeKind::Success);
    last.map_or_else(|| " is not due yet".to_owned(), |last| format!(" failed with {} at {}", failure(last), last.at))
}

fn id(facts: &Facts<'_>, head: &Waiting) -> DeliveryId {
    DeliveryId { event: head.event, webhook: facts.webhook.num }
}

/// `rejected (500)`, or the error where there was no answer.
fn failure(last: &LastError) -> String {
    let outcome = last.outcome.as_str();
    match (last.status, &last.error) {
        (Some(status), _) => format!("{outcome} ({status})"),
        (None, Some(error)) => format!("{outcome} ({error})"),
        (None, None) => outcome.to_owned(),
    }
}

fn last_of(facts: &Facts<'_>) -> String {
    let known = facts.receiver.last_error.as_deref().map(failure);
    let known = known.or_else(|| facts.breaker.last_failure.map(|kind| kind.as_str().to_owned()));
    known.map_or_else(String::new, |failure| format!(", the last {failure}"))
}

fn place(crash: Option<&str>) -> String {
    crash.map_or_else(String::new, |place| format!(", last at {place}"))
}

/// `1 delivery waits` or `3 deliveries wait`.
fn wait(deliveries: u64) -> String {
    if deliveries == 1 { "1 delivery waits".to_owned() } else { format!("{deliveries} deliveries wait") }
}

fn counted(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn mebibytes(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests;
