//! Mirrors the journal's writer task around its model: it gathers, commits and announces. Other nodes commit in
//! between, and a commit may be answered late.

use std::rc::Rc;
use std::time::Duration;

use crate::domain::id::EventSeq;

use super::process::Process;
use super::trace;
use super::world::World;

const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The database has refused a batch.
struct Refused;

/// A transaction; dropping it rolls it back.
struct Transaction {
    world: Rc<World>,
    number: u64,
    /// Two servers may use the same number.
    server: u32,
}

impl Transaction {
    /// Answers whether the transaction was still open.
    fn end(&self) -> bool {
        self.server == self.world.servers.get() && self.world.tables.borrow_mut().transactions.end(self.number)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.end();
    }
}

impl Process {
    /// `Writer::run`.
    pub(super) async fn write_journal(self: Rc<Self>) {
        loop {
            let most = 1 + self.world.pick(self.world.bounds.batch);
            let gathered = || match self.writer.borrow_mut().gather(most) {
                None => Some(false),
                Some(true) => Some(true),
                Some(false) => None,
            };
            if !self.world.tasks.until(gathered).await {
                self.writer_ended.set(true);
                return;
            }
            self.pause().await;
            if self.commit().await {
                self.tell().await;
            }
            self.shift().await;
        }
    }

    /// `Writer::settle`; answers whether anything was committed in the end.
    async fn commit(&self) -> bool {
        while self.try_to_commit().await.is_err() {
            self.world.note(|| format!("a batch of process {} is refused", self.incarnation));
            if !self.writer.borrow_mut().refuse() {
                return false;
            }
            self.world.sleep(RETRY_PAUSE).await;
        }
        true
    }

    /// `Writer::commit`.
    async fn try_to_commit(&self) -> Result<(), Refused> {
        let world = &self.world;
        self.may_be_refused()?;
        let number = self.writer.borrow_mut().begin(&mut world.tables.borrow_mut(), world.elapsed());
        let transaction = Transaction { world: world.clone(), number, server: world.servers.get() };
        self.stay().await;
        self.writer.borrow_mut().prepare(&world.tables.borrow(), self.wall());
        self.stay().await;
        self.may_be_refused()?;
        let is_lost = world.is_clustered && world.happens(world.trouble.get().answer_lost);
        if is_lost && world.happens(500) {
            drop(transaction);
            self.ask_what_became_of_it().await;
            return Err(Refused);
        }
        // The server may have ended the transaction because the client was silent for long, or may be another server.
        if world.is_clustered && !transaction.end() {
            return Err(Refused);
        }
        self.untold.set(true);
        self.writer.borrow_mut().commit(&mut world.tables.borrow_mut(), number, self.wall());
        world
            .note(|| format!("process {} commits: {}", self.incarnation, trace::records(self.writer.borrow().batch())));
        self.tell_oracle();
        world.remember();
        if is_lost {
            self.ask_what_became_of_it().await;
            if transaction.server != world.servers.get() && !self.writer.borrow().is_there(&world.tables.borrow()) {
                self.untold.set(false);
                self.writer.borrow_mut().take_back();
                return Err(Refused);
            }
        }
        Ok(())
    }

    fn may_be_refused(&self) -> Result<(), Refused> {
        let refuses = self.is_cut_off.get() || self.world.happens(self.world.trouble.get().batch_refused);
        if refuses { Err(Refused) } else { Ok(()) }
    }

    /// Lets others have a turn within a transaction.
    async fn stay(&self) {
        if self.world.is_clustered {
            for _ in 0..self.world.pick(4) {
                self.pause().await;
            }
        }
    }

    /// `Writer::resolve_commit`: it waits until the database answers; publishers may be refused before.
    async fn ask_what_became_of_it(&self) {
        self.world.note(|| format!("process {} gets no answer to its commit", self.incarnation));
        let is_over = || self.is_cut_off.get();
        self.world.sleep(RETRY_PAUSE).await;
        if self.world.happens(300) {
            self.writer.borrow_mut().refuse_publishes();
        }
        self.world.tasks.until(|| (!is_over()).then_some(())).await;
    }

    /// Tells the oracle what has just been committed.
    fn tell_oracle(&self) {
        let (writer, mut oracle) = (self.writer.borrow(), self.world.oracle.borrow_mut());
        let accepted: Vec<EventSeq> = writer.accepted().collect();
        oracle.accepted(self.incarnation, &accepted);
        oracle.check_purged(&self.world, writer.purged());
    }

    /// `Writer::announce`. A process that dies in the middle has committed events whose publishers got no answer.
    async fn tell(&self) {
        self.pause().await;
        self.writer.borrow_mut().answer();
        self.pause().await;
        let remote_shards = self.writer.borrow_mut().announce(self.wall());
        self.untold.set(false);
        self.world.note(|| "the batch is announced".to_owned());
        if self.world.happens(100) {
            super::checker::ledger_agrees(self);
        }
        self.notify_fanouts(&remote_shards);
    }

    /// `Writer::change_ownership`, for the changes in the batch.
    async fn shift(&self) {
        let gaining = self.writer.borrow_mut().shift(&self.world.tables.borrow(), self.wall());
        for gaining in gaining {
            self.stay().await;
            self.writer.borrow_mut().gain(gaining);
        }
    }
}
