//! The journal of a simulated process: the real writer over the tables in memory. Others have their turns between its
//! statements, batches are refused, and the answers to commits are lost.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::journal::WriterTask;
use crate::journal::model::{Commit, CommitAnswer, Connection, Tables};
use crate::store::fanouts::FanoutKey;

use super::process::Process;
use super::tasks::{pause, until};
use super::trace;
use super::world::{self, sleep};

/// As long as the pause between two questions about a commit.
const PAUSE: Duration = Duration::from_millis(200);

/// How often an answer of the database takes long, per mille.
const LONG: u32 = 50;

/// What the writer of one process has committed, and whether the process knows of it.
#[derive(Default)]
pub(super) struct Commits(Mutex<State>);

#[derive(Default)]
struct State {
    phase: Phase,
    /// How many batches were committed.
    count: u64,
    /// Fan-outs found by scans that the writer has been asked to track.
    claimed: BTreeSet<FanoutKey>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Feed and ledger know of every commit.
    #[default]
    Announced,
    /// A batch is committed.
    Committed,
    /// The writer knows that it is, and has answered its publishers.
    Answered,
}

impl Commits {
    /// Whether feed and ledger know of every commit.
    pub(super) fn are_announced(&self) -> bool {
        self.0.lock().phase == Phase::Announced
    }

    /// Whether the writer was asked to track this fan-out.
    pub(super) fn has_claimed(&self, key: FanoutKey) -> bool {
        self.0.lock().claimed.contains(&key)
    }

    fn set(&self, phase: Phase) {
        self.0.lock().phase = phase;
    }

    /// The number of the last batch, if its publishers are answered.
    fn answered(&self) -> Option<u64> {
        let state = self.0.lock();
        (state.phase == Phase::Answered).then_some(state.count)
    }

    /// Feed and ledger know of this batch; answers whether no other was committed since.
    fn announce(&self, batch: u64) -> bool {
        let mut state = self.0.lock();
        let is_last = state.count == batch;
        if is_last {
            state.phase = Phase::Announced;
        }
        is_last
    }
}

/// The connection of a process's journal to the database.
pub(super) struct JournalConnection {
    pub(super) place: usize,
    pub(super) incarnation: u32,
    pub(super) commits: Arc<Commits>,
}

impl JournalConnection {
    fn is_cut_off(&self) -> bool {
        world::current().machines[self.place].is_cut_off.get()
    }
}

impl Connection for JournalConnection {
    fn with_tables(&self, work: &mut dyn FnMut(&mut Tables)) {
        work(&mut world::current().tables.borrow_mut());
    }

    fn pause(&self) -> BoxFuture<'static, ()> {
        let world = world::current();
        let turns = world.pick(if world.is_clustered && world.happens(LONG) { 100 } else { 3 });
        Box::pin(async move {
            for _ in 0..turns {
                pause().await;
            }
        })
    }

    fn reach(&self) -> BoxFuture<'static, ()> {
        let place = self.place;
        Box::pin(async move {
            sleep(PAUSE).await;
            until(|| (!world::current().machines[place].is_cut_off.get()).then_some(())).await;
        })
    }

    fn is_refused(&self) -> bool {
        let world = world::current();
        let is_refused = self.is_cut_off() || world.happens(world.trouble.get().batch_refused / 2);
        if is_refused {
            world.note(|| format!("a batch of process {} is refused", self.incarnation));
        }
        is_refused
    }

    fn commit_answer(&self) -> CommitAnswer {
        let world = world::current();
        if !world.is_clustered || !world.happens(world.trouble.get().answer_lost) {
            return CommitAnswer::Given;
        }
        world.note(|| format!("process {} gets no answer to its commit", self.incarnation));
        if world.happens(500) { CommitAnswer::NeverAsked } else { CommitAnswer::Lost }
    }

    fn elapsed(&self) -> Duration {
        world::current().elapsed()
    }

    fn server(&self) -> u32 {
        world::current().servers.get()
    }

    fn committed(&self, commit: &Commit) {
        let world = world::current();
        let mut state = self.commits.0.lock();
        state.phase = Phase::Committed;
        state.count += 1;
        state.claimed.extend(&commit.claimed);
        drop(state);
        world.note(|| format!("process {} commits: {}", self.incarnation, trace::commit(commit)));
        let mut oracle = world.oracle.borrow_mut();
        oracle.accepted(self.incarnation, &commit.events);
        oracle.check_purged(&world, &commit.purged);
        drop(oracle);
        world.remember();
    }

    fn resolved(&self, is_committed: bool) {
        self.commits.set(if is_committed { Phase::Answered } else { Phase::Announced });
    }
}

impl Process {
    /// Runs the writer until the journal is closed. It answers publishers as soon as it knows of a commit, and tells
    /// feed and ledger at its next turn.
    pub(super) async fn run_writer(self: Rc<Self>, mut writer: WriterTask) {
        poll_fn(|context| {
            let answered = self.commits.answered();
            let polled = writer.as_mut().poll(context);
            if answered.is_some_and(|batch| self.commits.announce(batch)) {
                self.world.note(|| "the batch is announced".to_owned());
                if self.world.happens(100) {
                    super::checker::ledger_agrees(&self);
                }
            }
            polled
        })
        .await;
        self.writer_ended.set(true);
    }
}
