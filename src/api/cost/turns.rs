//! Turns at the readers of the database: each tenant, and all admins together, has at most half of them at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::problem::Problem;
use crate::domain::id::TenantNum;

/// Maximum wait for a turn. After that the caller has asked for more than the database can answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum answers that are made at once for one caller, however many readers there are: each holds memory.
const MOST: usize = 16;

/// Maximum requests of one caller that wait for a turn; more are refused at once.
const MOST_WAITING: usize = 256;

/// Number of known callers from which on idle ones are forgotten.
const FORGET_FROM: usize = 1024;

pub(super) struct Turns {
    /// Turns of one caller at once.
    each: usize,
    callers: Mutex<HashMap<Option<TenantNum>, Arc<Semaphore>>>,
}

/// One turn, which ends when it is dropped.
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(readers: usize) -> Self {
        Self { each: (readers / 2).clamp(1, MOST), callers: Mutex::default() }
    }

    /// Waits for a turn of this caller; no tenant is an admin.
    pub(super) async fn take(&self, caller: Option<TenantNum>) -> Result<Turn, Problem> {
        let turns = self.turns_of(caller);
        // The table, each held turn and each waiting request have one reference.
        if Arc::strong_count(&turns) > 1 + self.each + MOST_WAITING {
            return Err(refusal());
        }
        match tokio::time::timeout(PATIENCE, turns.acquire_owned()).await {
            Ok(Ok(_permit)) => Ok(Turn { _permit }),
            Ok(Err(_)) | Err(_) => Err(refusal()),
        }
    }

    fn turns_of(&self, caller: Option<TenantNum>) -> Arc<Semaphore> {
        let mut callers = self.callers.lock();
        if callers.len() >= FORGET_FROM {
            callers.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        callers.entry(caller).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
    }
}

fn refusal() -> Problem {
    Problem::overloaded("too much is read for this caller at once; ask for less at a time")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const READERS: usize = 8;

    fn now(turns: &Turns, tenant: i64) -> Option<Turn> {
        turns.take(Some(TenantNum(tenant))).now_or_never().map(Result::unwrap)
    }

    #[tokio::test]
    async fn one_tenant_has_half_of_the_readers_and_the_others_have_theirs() {
        let turns = Turns::new(READERS);
        let mut held: Vec<Turn> = (0..READERS).map_while(|_| now(&turns, 1)).collect();
        assert_eq!(held.len(), READERS / 2);
        assert!(now(&turns, 2).is_some() && turns.take(None).now_or_never().is_some());
        held.pop();
        assert!(now(&turns, 1).is_some());
    }

    #[tokio::test]
    async fn so_many_wait_and_the_next_one_is_refused() {
        let turns = Turns::new(READERS);
        let _held: Vec<Turn> = (0..READERS).map_while(|_| now(&turns, 1)).collect();
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(turns.take(Some(TenantNum(1))))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        assert!(turns.take(Some(TenantNum(1))).now_or_never().is_some_and(|turn| turn.is_err()));
        turns.take(Some(TenantNum(2))).await.unwrap();
    }

    #[tokio::test]
    async fn callers_that_read_nothing_are_forgotten_and_one_reader_is_enough() {
        let turns = Turns::new(1);
        let held = now(&turns, 0).unwrap();
        for tenant in 1..5_000 {
            turns.take(Some(TenantNum(tenant))).await.unwrap();
        }
        assert!(turns.callers.lock().len() <= FORGET_FROM && now(&turns, 0).is_none(), "one that reads is known");
        drop(held);
    }
}
