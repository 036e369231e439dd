//! Suspension: what a lane does with a receiver that has failed for too long, or is gone, and when it is back.

use crate::domain::health::{Suspension, SuspensionCause};

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn row(seq: i64) -> Entry {
    Entry::stored(Due { event: event(seq), state: pending(START) }, InDoubt::NOTHING)
}

fn rows(seqs: std::ops::Range<i64>) -> Vec<Entry> {
    seqs.map(row).collect()
}

fn patient() -> Arc<Policy> {
    policy(|policy| {
        policy.breaker.failure_threshold = 1000;
        policy.retry_policy.max_retries = 0;
    })
}

/// Offers an event each hour, and lets each attempt fail.
fn fails_for(bench: &mut Bench, hours: u64) -> Vec<(Duration, News)> {
    let mut heard = Vec::new();
    for hour in 0..=hours {
        bench.elapsed = HOUR * u32::try_from(hour).unwrap();
        let number = seq_at(bench.elapsed, 0);
        let started = started(&bench.on(offer(number)));
        for seq in started {
            let news = news(&bench.on(finished(seq, Outcome::TimedOut)));
            heard.extend(news.map(|news| (bench.elapsed, news)));
        }
    }
    heard
}

#[test]
fn who_has_only_failed_for_days_is_warned_of_twice_and_then_suspended() {
    let mut bench = Bench::new(patient());
    let failing = News::Failing { failing_since: START, suspended_at: START.plus(5 * DAY) };
    let suspended = News::Suspended { cause: SuspensionCause::Failing, failing_since: START };
    let expected = [(5 * DAY / 2, failing), (4 * DAY, failing), (5 * DAY, suspended)];
    assert_eq!(fails_for(&mut bench, 125), expected);
    assert_eq!(bench.lane.mode(), Mode::Active);
}

/// A lane with rows whose webhook was suspended at the start, and is to be probed in an hour.
fn suspended(policy: Arc<Policy>) -> Bench {
    let health = Health {
        suspension: Some(Suspension { since: START, cause: SuspensionCause::Failing }),
        open_until: Some(START.plus(HOUR)),
        opened_at: Some(START),
        failing_since: Some(START),
        ..Health::default()
    };
    Bench { lane: Lane::new(policy.clone(), Mode::Active, true, health), ..Bench::new(policy) }
}

#[test]
fn what_is_owed_waits_in_rows_and_a_probe_an_hour_uses_up_no_retry() {
    let mut bench = suspended(patient());
    let effects = bench.on(offer(1));
    assert_eq!((deferred(&effects), started(&effects).len()), (1, 0));
    let (mut probed, mut states) = (Vec::new(), [1, 2, 3].map(|seq| (seq, pending(START))));
    for probes in 1..=24 {
        bench.elapsed = HOUR * probes - Duration::from_secs(1);
        let read = bench.on(Input::Tick);
        let [Effect::Load { known, .. }] = &read[..] else { panic!("rows are read: {read:?}") };
        let missing = states.iter().filter(|(seq, _)| !known.contains(&EventSeq(*seq)));
        let row = |(seq, state): &(i64, _)| Entry::stored(Due { event: event(*seq), state: *state }, InDoubt::NOTHING);
        let entries = missing.map(row).collect();
        assert!(started(&bench.on(Input::Loaded { entries, next: None })).is_empty());
        bench.elapsed = HOUR * probes;
        let [probe] = started(&bench.on(Input::Tick))[..] else { panic!("one probe") };
        let state = bench.finish(probe, Outcome::ConnectFailed);
        assert_eq!((state.status, state.tries), (Status::Pending, 0));
        states.iter_mut().filter(|(seq, _)| *seq == probe).for_each(|(_, of)| *of = state);
        probed.push(probe);
    }
    assert_eq!(probed, [1, 2, 3].repeat(8), "each in turn, so that one that is never accepted holds up no other");
}

#[test]
fn a_probe_that_succeeds_lets_the_backlog_follow_slowly_at_first() {
    let mut bench = suspended(policy(|policy| policy.max_in_flight = 256));
    bench.elapsed = HOUR;
    bench.on(Input::Tick);
    let probe = started(&bench.on(Input::Loaded { entries: rows(1..200), next: None }));
    assert_eq!(probe, [1]);
    let effects = bench.on(finished(1, Outcome::Success));
    let recovered = News::Recovered { since: START, cause: SuspensionCause::Failing };
    assert_eq!(news(&effects), Some(recovered));

    let (mut sent, mut in_the_first_second) = (started(&effects), 0);
    let back_at = bench.elapsed;
    while let Some(seq) = sent.pop() {
        sent.extend(started(&bench.on(finished(seq, Outcome::Success))));
        in_the_first_second += 1;
        if sent.is_empty() {
            let Some(at) = bench.lane.wake_at(bench.now()) else { break };
            bench.elapsed = at - bench.epoch;
            if bench.elapsed > back_at + Duration::from_secs(1) {
                break;
            }
            sent.extend(started(&bench.on(Input::Tick)));
        }
    }
    assert!((4..=7).contains(&in_the_first_second), "{in_the_first_second}");
    let manual = Some(Fallback { status: Status::Failed, next_at: None, is_replay: false });
    let by_hand = Due { event: event(900), state: DeliveryState { manual, ..pending(START) } };
    bench.lane.expect_send_now(EventSeq(900));
    let effects = bench.on(Input::SendNow(Entry::stored(by_hand, InDoubt::NOTHING)));
    assert_eq!(started(&effects)[0], 900, "a person does not wait");
}

#[test]
fn a_410_to_a_probe_ends_the_probes_and_is_no_second_suspension() {
    let mut bench = suspended(patient());
    bench.elapsed = HOUR;
    bench.on(Input::Tick);
    assert_eq!(started(&bench.on(Input::Loaded { entries: rows(1..3), next: None })), [1]);
    assert_eq!(news(&bench.on(finished(1, Outcome::Gone))), None);
    let suspension = bench.lane.breaker(bench.now().wall).suspension;
    assert_eq!(suspension, Some(Suspension { since: START, cause: SuspensionCause::Gone }));
    bench.elapsed = 30 * DAY;
    assert_eq!(started(&bench.on(Input::Tick)).len(), 0);
}

#[test]
fn an_ordered_backlog_follows_in_order() {
    const ROWS: i64 = 100;
    let mut bench = suspended(policy(|policy| policy.ordered = true));
    let (mut effects, mut sent, mut asked) = (bench.on(Input::Probe), Vec::new(), None);
    while sent.len() < usize::try_from(ROWS).unwrap() {
        let load = effects.iter().find_map(|effect| match effect {
            Effect::Load { limit, known } => Some((*limit, known.clone())),
            _ => None,
        });
        asked = load.or(asked);
        effects = if let Some(seq) = started(&effects).pop() {
            sent.push(seq);
            bench.on(finished(seq, Outcome::Success))
        } else if let Some((limit, known)) = asked.take() {
            let last = sent.last().copied().unwrap_or(0);
            let waiting = rows(last + 1..ROWS + 1).into_iter().filter(|row| !known.contains(&row.event.seq));
            let entries: Vec<Entry> = waiting.take(limit).collect();
            let next = (known.len() + entries.len() + sent.len() < usize::try_from(ROWS).unwrap()).then_some(START);
            bench.on(Input::Loaded { entries, next })
        } else {
            bench.elapsed = bench.lane.wake_at(bench.now()).expect("more is to be sent") - bench.epoch;
            bench.on(Input::Tick)
        };
    }
    assert_eq!(sent, (1..=ROWS).collect::<Vec<_>>());
    assert!(bench.elapsed > Duration::from_secs(10), "it was not sent at once: {:?}", bench.elapsed);
}

#[test]
fn a_receiver_that_is_gone_gets_nothing_until_a_person_asks() {
    let mut bench = Bench::new(policy(|policy| policy.max_in_flight = 1));
    bench.on(offer(1));
    bench.on(offer(2));
    let effects = bench.on(finished(1, Outcome::Gone));
    let gone = News::Suspended { cause: SuspensionCause::Gone, failing_since: START };
    assert_eq!(news(&effects), Some(gone));
    assert_eq!((deferred(&effects), started(&effects).len()), (1, 0));
    bench.elapsed = 30 * DAY;
    assert_eq!(bench.lane.wake_at(bench.now()), None);
    assert!(bench.on(Input::Remind).iter().all(|effect| !matches!(effect, Effect::Load { .. })));

    bench.on(Input::Probe);
    assert_eq!(started(&bench.on(Input::Loaded { entries: vec![row(2)], next: None })), [2]);
    let effects = bench.on(finished(2, Outcome::Gone));
    assert_eq!(news(&effects), None, "it is known");
    assert_eq!(started(&bench.on(Input::Tick)).len(), 0);
    assert_eq!(started(&bench.on(Input::Probe)), [2]);
    let effects = bench.on(finished(2, Outcome::Success));
    assert!(matches!(news(&effects), Some(News::Recovered { cause: SuspensionCause::Gone, .. })));
}
