//! Decides at random what happens next: a task makes progress, time passes, an event is published, an operator
//! interferes, a process dies. In the end it brings everything to rest.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rand::seq::IndexedRandom;

use crate::domain::id::{DeliveryId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::lane::AHEAD;
use crate::store::memory::Hook;

use super::checker;
use super::endpoint;
use super::operator::HUGE;
use super::process::Process;
use super::receivers::Mood;
use super::trace;
use super::world::{Place, Trouble, World};

/// Steps of one simulation, besides the turns of tasks.
const STEPS: usize = 75;

/// How many moments may pass until everything is at rest.
const MOMENTS: usize = 20_000;

/// Receivers that fail in the end do so for this many moments: their backlog takes a cool-down for each attempt.
const MOST_FAILED: usize = 600;

/// Turns of tasks at one moment, at most: a long backlog is dispatched in one.
const TURNS: usize = 80_000;

const HOUR_MS: i64 = 3_600_000;

/// How often nodes get turns while time passes.
const BREATH: Duration = Duration::from_millis(500);

pub(super) struct Scheduler {
    pub(super) world: Rc<World>,
    sets_clock: bool,
    accepts_in_the_end: bool,
}

impl Scheduler {
    pub(super) fn new(world: &Rc<World>) -> Self {
        let (sets_clock, accepts_in_the_end) = (world.happens(400), !world.happens(150));
        let sets_clock = sets_clock && !world.is_clustered;
        Self { world: world.clone(), sets_clock, accepts_in_the_end }
    }

    pub(super) fn run(&mut self) {
        let machines = self.world.machines.len();
        (0..machines).for_each(|place| Process::start(&self.world, place));
        for _ in 0..STEPS {
            self.turns(self.world.pick(20 * machines));
            if self.world.is_clustered {
                self.trouble_nodes();
            }
            self.step();
        }
        self.come_to_rest();
        checker::all_is_well(&self.world);
    }

    fn turns(&self, most: usize) {
        let _ = (0..most).all(|_| self.world.turn());
    }

    fn step(&mut self) {
        let step = self.world.pick(1000);
        let Some(process) = self.world.some_process() else { return self.begin_again(step) };
        match step {
            0..300 => self.pass(Duration::from_millis(1 + self.world.pick(200) as u64)),
            300..360 => self.pass(Duration::from_millis(1 + self.world.pick(3000) as u64)),
            360..370 => self.pass(Duration::from_secs(31)),
            370..520 => self.publish(&process),
            520..640 => self.change_mood(),
            640..920 => self.meddle(&process),
            920..950 => self.look(&process),
            950..970 => self.crash_endpoint(&process),
            970..978 => self.kill(&process),
            978..982 => process.spawn(process.clone().stop()),
            982..984 => self.world.tight.set(!self.world.tight.get()),
            984..990 if self.sets_clock => {
                let by = if self.world.happens(500) { HOUR_MS } else { -HOUR_MS };
                self.world.set_clock(process.place, by);
            }
            _ => checker::ledger_agrees(&process),
        }
    }

    /// Lets time pass. Nodes get turns in between, for their periodic work.
    fn pass(&self, mut time: Duration) {
        while self.world.is_clustered && time > BREATH {
            self.world.advance(BREATH);
            time -= BREATH;
            self.turns(100);
        }
        self.world.advance(time);
    }

    /// Starts the processes that have ended.
    fn begin_again(&mut self, step: usize) {
        self.world.tasks.reap();
        if step.is_multiple_of(3) {
            self.world.advance(Duration::from_millis(700));
        }
        self.start_missing();
    }

    pub(super) fn start_missing(&self) {
        for place in 0..self.world.machines.len() {
            if self.world.machines[place].process.borrow().is_none() {
                Process::start(&self.world, place);
            }
        }
    }

    fn some_hook(&self) -> Option<WebhookNum> {
        let hooks = self.world.hooks.read();
        let living: Vec<WebhookNum> =
            hooks.rows.values().filter(|hook| !hook.is_deleted).map(|hook| hook.num).collect();
        living.choose(&mut *self.world.chance.borrow_mut()).copied()
    }

    fn publish(&self, process: &Rc<Process>) {
        let Some(hook) = self.some_hook().and_then(|num| self.world.hook(num)) else { return };
        let kind = match self.world.pick(40) {
            0..16 => "message.sent",
            16..36 => "call.ended",
            36..38 => return process.spawn(process.clone().test(hook.num)),
            _ => HUGE,
        };
        let times = match self.world.pick(100) {
            // More than the 32 oldest pending events that the ledger knows.
            0 => 45,
            1..10 => 8,
            _ => 1 + self.world.pick(3),
        };
        for _ in 0..times {
            process.spawn(process.clone().publish(hook.tenant, kind));
        }
    }

    fn change_mood(&self) {
        let mut receivers = self.world.receivers.borrow_mut();
        let Some(num) = self.some_hook() else { return };
        if let Some(receiver) = receivers.get_mut(&num) {
            receiver.change(&mut self.world.chance.borrow_mut());
            self.world.note(|| format!("{num:?} {:?}", receiver.mood));
        }
    }

    /// An operator's request goes to any process; one that only the owner can serve goes to the owner.
    fn meddle(&self, process: &Rc<Process>) {
        let Some(num) = self.some_hook() else { return };
        let process = process.clone();
        match self.world.pick(100) {
            0..12 => process.clone().spawn(process.close(num, |hook| hook.is_paused = true)),
            12..32 => process.clone().spawn(process.open(num, |hook| hook.is_paused = false)),
            32..36 => process.clone().spawn(process.close(num, |hook| hook.is_active = false)),
            36..46 => process.clone().spawn(process.open(num, |hook| hook.is_active = true)),
            46..95 => self.meddle_at_owner(num),
            95..98 => process.clone().spawn(process.open(num, |hook| hook.url.push_str("next/"))),
            98 => self.damage(num),
            _ if self.world.happens(600) => process.clone().spawn(process.delete(num)),
            _ => {}
        }
    }

    /// Makes the webhook's row unreadable, or readable again.
    fn damage(&self, num: WebhookNum) {
        if let Some(hook) = self.world.hooks.write().rows.get_mut(&num) {
            hook.is_unreadable = !hook.is_unreadable;
            self.world.note(|| format!("row of {num:?} unreadable: {}", hook.is_unreadable));
        }
    }

    fn meddle_at_owner(&self, num: WebhookNum) {
        let owner = self.world.processes().into_iter().find(|process| process.shard_set.serves(num));
        let Some(process) = owner else { return };
        match self.world.pick(49) {
            0..8 => process.clone().spawn(process.purge(num)),
            8..16 => process.clone().spawn(process.probe(num)),
            16..34 => self.some_delivery(num).into_iter().for_each(|id| process.spawn(process.clone().retry(id))),
            _ => self.some_delivery(num).into_iter().for_each(|id| process.spawn(process.clone().cancel(id))),
        }
    }

    /// One of the webhook's latest deliveries.
    fn some_delivery(&self, webhook: WebhookNum) -> Option<DeliveryId> {
        let tables = self.world.tables.read();
        let events = tables.events().filter(|(_, targets)| targets.contains(&webhook)).map(|(event, _)| event.seq);
        let events: Vec<_> = events.collect();
        let latest = &events[events.len().saturating_sub(12)..];
        let event = *latest.choose(&mut *self.world.chance.borrow_mut())?;
        Some(DeliveryId { event, webhook })
    }

    /// The API reads the figures of a webhook.
    fn look(&self, process: &Rc<Process>) {
        if let Some(num) = self.some_hook() {
            let process = process.clone();
            process.clone().spawn(async move { drop(process.ledger.oldest_of(&[num]).await) });
        }
    }

    fn crash_endpoint(&self, process: &Rc<Process>) {
        let live = process.endpoints();
        if let Some(endpoint) = live.choose(&mut *self.world.chance.borrow_mut()) {
            endpoint::crash(*endpoint);
        }
    }

    fn kill(&self, process: &Rc<Process>) {
        process.kill();
        self.world.tasks.reap();
    }

    /// Troubles that only nodes have.
    fn trouble_nodes(&self) {
        let processes = self.world.processes();
        let Some(process) = processes.choose(&mut *self.world.chance.borrow_mut()).cloned() else { return };
        match self.world.pick(1000) {
            0..25 => self.world.tasks.freeze(process.incarnation),
            25..75 => self.world.tasks.thaw(process.incarnation),
            75..90 => self.world.machines[process.place].is_cut_off.set(true),
            90..130 => self.world.machines[process.place].is_cut_off.set(false),
            130..200 => self.start_missing(),
            200..208 => self.kill(&process),
            218..228 => self.let_lease_end(&process),
            228..244 if self.world.loses_databases() => self.world.fail_over(self.world.pick(10)),
            244..252 if self.world.loses_databases() => self.world.restore(self.world.pick(10)),
            // Longer than two leases.
            208..218 => self.pass(Duration::from_secs(33)),
            _ => {}
        }
    }

    /// Publishes shortly before the lease may no longer be acted upon; it is renewed shortly after.
    fn let_lease_end(&self, process: &Rc<Process>) {
        self.world.machines[process.place].renews_in_vain.set(true);
        self.pass(Duration::from_secs(11));
        self.publish(process);
        self.pass(Duration::from_secs(2));
        self.world.machines[process.place].renews_in_vain.set(false);
    }
}

/// The end.
impl Scheduler {
    fn come_to_rest(&mut self) {
        self.world.trouble.set(Trouble::NONE);
        let mood = if self.accepts_in_the_end { Mood::Accepts } else { Mood::Fails };
        self.set_moods(mood);
        for process in self.world.processes() {
            self.world.tasks.thaw(process.incarnation);
            self.world.machines[process.place].is_cut_off.set(false);
            self.world.machines[process.place].renews_in_vain.set(false);
        }
        let runs = |place: &Place| place.process.borrow().as_ref().is_some_and(|process| !process.is_stopping.get());
        self.wait_until(|world| world.machines.iter().all(runs));
        self.set_all_right();
        self.wait_until(is_at_rest);
        self.write_everything();
        self.wait_until(is_at_rest);
        self.world.processes().iter().for_each(|process| checker::ledger_agrees(process));
    }

    /// Waits until the journals have written what their writers have in hand.
    fn write_everything(&self) {
        let processes = self.world.processes();
        let (written, all) = (Rc::new(Cell::new(0)), processes.len());
        for process in processes {
            let (journal, written) = (process.journal.clone(), written.clone());
            process.spawn(async move {
                let _ = journal.barrier().await;
                written.set(written.get() + 1);
            });
        }
        self.wait_until(|_| written.get() == all);
    }

    fn set_moods(&self, mood: Mood) {
        self.world.receivers.borrow_mut().values_mut().for_each(|receiver| receiver.mood = mood);
    }

    /// Opens most webhooks and pauses some, whose deliveries must wait. The owner releases quarantined endpoints.
    fn set_all_right(&self) {
        if self.world.is_clustered {
            self.wait_until(checker::all_is_served);
        }
        self.world.hooks.write().rows.values_mut().for_each(|hook| hook.is_unreadable = false);
        let hooks = self.world.hooks.read().rows.clone();
        for num in hooks.into_values().filter(|hook| !hook.is_deleted).map(|hook| hook.num) {
            let mut owners = self.world.processes().into_iter().filter(|process| process.shard_set.serves(num));
            let Some(process) = owners.next() else { continue };
            if self.world.happens(100) {
                process.spawn(process.clone().close(num, |hook| hook.is_paused = true));
            } else {
                process.spawn(process.clone().open(num, |hook| (hook.is_active, hook.is_paused) = (true, false)));
            }
        }
    }

    /// An operator asks for probes of webhooks that are suspended: nothing else ends the suspension of one that was gone.
    fn probe_suspended(&self) {
        let hooks = self.world.hooks.read().rows.clone();
        let is_suspended = |num| self.world.tables.read().health(num).suspension.is_some();
        for num in hooks.into_values().filter(|hook| hook.is_open() && is_suspended(hook.num)).map(|hook| hook.num) {
            let mut owners = self.world.processes().into_iter().filter(|process| process.shard_set.serves(num));
            let Some(process) = owners.next() else { continue };
            process.spawn(process.clone().probe(num));
        }
    }

    fn wait_until(&self, is_so: impl Fn(&World) -> bool) {
        for moment in 0..MOMENTS {
            if moment == MOST_FAILED {
                self.set_moods(Mood::Accepts);
            }
            // Some processes learn only now that they are reaped, and end; their supervisor starts them again.
            self.start_missing();
            let goes_on = (0..TURNS).all(|_| self.world.turn());
            assert!(!goes_on, "tasks make progress without end");
            if is_so(&self.world) {
                return;
            }
            self.probe_suspended();
            self.world.advance(next_moment(&self.world));
        }
        panic!("nothing comes to rest: {}", what_is_left(&self.world));
    }
}

/// The time until something may happen. A row that is due now needs the due poller, which runs once a second.
fn next_moment(world: &World) -> Duration {
    let (now, tables, hooks) = (world.true_now(), world.tables.read(), world.hooks.read());
    let now = UnixMillis(now.0 + world.machines.iter().map(|place| place.skew.get()).max().unwrap_or(0));
    let open = hooks.rows.values().filter(|hook| hook.is_open());
    // The head of an ordered webhook blocks the others.
    let first = |hook: &Hook| if hook.policy.ordered { 1 } else { usize::MAX };
    let due = open.flat_map(|hook| tables.due_moments(hook.num).take(first(hook))).min();
    let due = due.map(|due| due.since(now).saturating_sub(AHEAD).max(Duration::from_secs(1)));
    let timer = world.next_timer().map(|at| at - world.elapsed());
    [due, timer].into_iter().flatten().min().unwrap_or(Duration::from_secs(1))
}

/// No delivery is pending that could be sent.
fn is_at_rest(world: &World) -> bool {
    let (tables, hooks) = (world.tables.read(), world.hooks.read());
    let may_wait = |hook: &Hook| !hook.is_open() && !hook.is_deleted;
    let is_done = |hook: &Hook| may_wait(hook) || !tables.has_pending_rows(hook.num);
    let is_idle = |process: &Rc<Process>| process.feed.is_idle() && process.journal.depth().0 == 0;
    let are_idle = world.processes().iter().all(is_idle) && !world.oracle.borrow().is_anything_under_way();
    let is_settled = tables.open_fanouts().next().is_none() && hooks.rows.values().all(is_done);
    are_idle && is_settled && (!world.is_clustered || checker::all_is_served(world))
}

fn what_is_left(world: &World) -> String {
    let (tables, hooks) = (world.tables.read(), world.hooks.read());
    let fanouts: Vec<String> = tables.open_fanouts().map(trace::event).collect();
    let open = hooks.rows.values().filter(|hook| hook.is_open() || hook.is_deleted);
    let rows = open.flat_map(|hook| tables.pending_of(hook.num).map(|event| (hook.num, event)));
    let rows: Vec<String> = rows.map(|(num, event)| format!("w{} {}", num.0, trace::event(event))).collect();
    let shards: Vec<_> = tables.leases.owners().collect();
    let node = |process: &Rc<Process>| {
        let Process { shard_set, context, .. } = process.as_ref();
        let (node, served) = (shard_set.node(), shard_set.served());
        let (has_diverged, has_lease) = (shard_set.has_diverged(), context.lease.is_valid());
        format!(
            "process {}: {node:?} serves {served:?}, diverged {has_diverged}, lease {has_lease}",
            process.incarnation
        )
    };
    let nodes: Vec<String> = world.processes().iter().map(node).collect();
    format!("fan-outs {fanouts:?}, rows {rows:?}, shards {shards:?}, {nodes:?}")
}
