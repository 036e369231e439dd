//! Permits as attempts use them: on several threads, dropped at any time.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use super::*;

const TENANT: TenantNum = TenantNum(1);
const WEBHOOK: WebhookNum = WebhookNum(1);

/// Polls a future once.
fn once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

async fn all_healthy(permits: &Permits) -> Vec<Permit> {
    let mut held = Vec::new();
    for _ in 0..permits.view().healthy.places {
        held.push(permits.acquire(TENANT, WEBHOOK, Share::Healthy).await);
    }
    held
}

#[tokio::test]
async fn a_waiter_gets_the_place_that_is_given_back() {
    let permits = Permits::new(8);
    let mut held = all_healthy(&permits).await;
    let mut waiter = pin!(permits.acquire(TENANT, WEBHOOK, Share::Healthy));
    assert!(once(waiter.as_mut()).is_pending());
    held.pop();
    assert!(once(waiter.as_mut()).is_ready());
}

#[tokio::test]
async fn a_waiter_that_is_dropped_leaves_the_line() {
    let permits = Permits::new(8);
    let _held = all_healthy(&permits).await;
    {
        let mut waiter = pin!(permits.acquire(TENANT, WEBHOOK, Share::Healthy));
        assert!(once(waiter.as_mut()).is_pending());
        assert_eq!(permits.waiting(), 1);
    }
    assert_eq!(permits.waiting(), 0);
}

#[tokio::test]
async fn a_place_that_nobody_picks_up_goes_to_the_next() {
    let permits = Permits::new(8);
    let mut held = all_healthy(&permits).await;
    let mut second = pin!(permits.acquire(TENANT, WEBHOOK, Share::Healthy));
    {
        let mut first = pin!(permits.acquire(TENANT, WEBHOOK, Share::Healthy));
        assert!(once(first.as_mut()).is_pending());
        assert!(once(second.as_mut()).is_pending());
        held.pop();
        assert!(once(second.as_mut()).is_pending());
    }
    assert!(once(second.as_mut()).is_ready());
}

#[tokio::test]
async fn a_place_whose_waiter_has_just_gone_goes_to_the_next() {
    let permits = Permits::new(8);
    let mut held = all_healthy(&permits).await;
    let mut waiter = pin!(permits.acquire(TENANT, WEBHOOK, Share::Healthy));
    assert!(once(waiter.as_mut()).is_pending());
    let (gone, _) = oneshot::channel();
    let grant = held.pop().and_then(|mut permit| permit.grant.take()).unwrap();
    permits.hand_on(Some((gone, grant)));
    assert!(once(waiter.as_mut()).is_ready());
}

#[tokio::test]
async fn an_overdue_request_makes_room_for_a_healthy_one_and_returns_its_place_to_the_ailing_part() {
    let permits = Permits::new(8);
    let mut held = all_healthy(&permits).await;
    let mut waiter = pin!(permits.acquire(TENANT, WEBHOOK, Share::Healthy));
    assert!(once(waiter.as_mut()).is_pending());
    assert!(held[0].mark_overdue());
    assert!(!held[1].mark_overdue(), "the ailing part has one place");
    assert!(once(waiter.as_mut()).is_ready());
    assert_eq!(permits.view().ailing.in_use, 1);
    held.clear();
    assert_eq!(permits.in_flight(), 0);
}

/// A random generator with the same numbers in every run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Counts a held permit until it is dropped.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn count(held: &'a AtomicUsize) -> (Self, usize) {
        let now = held.fetch_add(1, Ordering::SeqCst) + 1;
        (Self(held), now)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn yields(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Asks for permits again and again, and often gives up before it gets one or while it holds one.
async fn impatient(permits: Permits, held: Arc<AtomicUsize>, seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..400 {
        let tenant = i64::try_from(dice.below(3)).unwrap();
        let webhook = tenant * 10 + i64::try_from(dice.below(3)).unwrap();
        let share = if dice.below(3) == 0 { Share::Ailing } else { Share::Healthy };
        let patience = dice.below(12);
        let mut permit = tokio::select! {
            biased;
            () = yields(patience) => continue,
            permit = permits.acquire(TenantNum(tenant), WebhookNum(webhook), share) => permit,
        };
        // Dropped before the permit, so that the permit is never counted for longer than it is held.
        let (_counted, now) = Held::count(&held);
        assert!(now <= permits.view().total());
        yields(dice.below(4)).await;
        if dice.below(4) == 0 {
            permit.mark_overdue();
        }
        yields(dice.below(4)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_in_use_and_nobody_waits_after_many_impatient_askers_on_many_threads() {
    for total in [2, 5, 16] {
        let permits = Permits::new(total);
        let held = Arc::new(AtomicUsize::new(0));
        let askers: Vec<_> =
            (0..64).map(|seed| tokio::spawn(impatient(permits.clone(), held.clone(), seed * 7919 + 1))).collect();
        for (index, asker) in askers.into_iter().enumerate() {
            if index % 5 == 0 {
                asker.abort();
                let _ = asker.await;
            } else {
                asker.await.unwrap();
            }
        }
        assert_eq!((permits.in_flight(), permits.waiting()), (0, 0));
    }
}
