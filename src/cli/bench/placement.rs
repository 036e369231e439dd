//! `--scenario placement`: calculates how 256 shards spread over many nodes, how many move when a node joins, leaves or
//! dies, and for how long no node serves a shard that moves. There is no server and no database; the result is the same
//! on every machine.
//!
//! The model has three times: the lease; the interval between two surveys (each node reads all nodes and shards, and
//! acts on what it sees); and the time until requests under way are answered, after which their shards are released. A
//! statement takes no time.

use std::fmt;

use clap::Args;
use serde::Serialize;

use crate::cluster::placement::owner;
use crate::domain::shard::{SHARDS, ShardNum};

#[derive(Debug, Args)]
pub(super) struct PlacementArgs {
    /// Placement: numbers of nodes; each is a line of the table
    #[arg(
        long, value_delimiter = ',', default_values_t = [10, 30, 100, 256, 1000],
        value_parser = clap::value_parser!(u32).range(2..=2000)
    )]
    nodes: Vec<u32>,
    /// Placement: length of a lease in milliseconds
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1000..=60_000))]
    lease_ms: u32,
    /// Placement: milliseconds between two surveys of a node
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    look_ms: u32,
    /// Placement: milliseconds until requests under way are answered
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=30_000))]
    answer_ms: u32,
}

/// Renewals per lease, as in the engine.
const RENEWALS: u64 = 5;

/// Joins, leaves and deaths that each figure is made of.
const TRIALS: u64 = 50;

/// The golden ratio: multiples of it, modulo 1, cover the unit interval evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    lease_ms: u32,
    look_ms: u32,
    answer_ms: u32,
    fleets: Vec<FleetReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FleetReport {
    nodes: u32,
    shards_fewest: usize,
    shards_mean: f64,
    shards_most: usize,
    nodes_without: usize,
    joins: Change,
    leaves: Change,
    dies: Change,
    renewals_per_second: f64,
    looks_per_second: f64,
    /// Rows of nodes and shards that the surveys of all nodes read.
    rows_read_per_second: f64,
}

/// The effect of one node that joins, leaves or dies, over all trials.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    shards_moved_mean: f64,
    shards_moved_most: usize,
    /// Milliseconds in which no node begins requests for a shard that moves.
    gap_least_ms: u64,
    gap_mean_ms: f64,
    gap_most_ms: u64,
}

/// Milliseconds since an arbitrary origin.
type Moment = u64;

struct Fleet<'a> {
    nodes: Vec<i64>,
    args: &'a PlacementArgs,
}

pub(super) fn measure(args: &PlacementArgs) -> Report {
    let PlacementArgs { nodes, lease_ms, look_ms, answer_ms } = args;
    let fleets = nodes.iter().map(|count| Fleet { nodes: (1..=i64::from(*count)).collect(), args }.report()).collect();
    Report { lease_ms: *lease_ms, look_ms: *look_ms, answer_ms: *answer_ms, fleets }
}

impl Fleet<'_> {
    fn report(&self) -> FleetReport {
        let owners = placed(&self.nodes);
        let shards_of = |node: &i64| owners.iter().filter(|owner| *owner == node).count();
        let shards: Vec<usize> = self.nodes.iter().map(shards_of).collect();
        let count = self.nodes.len() as f64;
        let looks_per_second = count * 1000.0 / f64::from(self.args.look_ms);
        FleetReport {
            nodes: self.nodes.len() as u32,
            shards_fewest: shards.iter().copied().min().unwrap_or(0),
            shards_mean: SHARDS as f64 / count,
            shards_most: shards.iter().copied().max().unwrap_or(0),
            nodes_without: shards.iter().filter(|shards| **shards == 0).count(),
            joins: over_trials(|trial| self.join(&owners, trial)),
            leaves: over_trials(|trial| self.leave(&owners, trial)),
            dies: over_trials(|trial| self.die(&owners, trial)),
            renewals_per_second: count * 1000.0 / self.renew_every() as f64,
            looks_per_second,
            rows_read_per_second: looks_per_second * (count + SHARDS as f64),
        }
    }

    /// A node joins. Each owner sees it at the owner's next survey and releases shards; the node acquires them at its
    /// own next survey.
    fn join(&self, owners: &[i64], trial: u64) -> Vec<u64> {
        let came = self.moment(trial);
        let comer = self.nodes.len() as i64 + 1 + trial as i64;
        let nodes: Vec<i64> = self.nodes.iter().copied().chain([comer]).collect();
        let moved = owners.iter().zip(placed(&nodes)).filter(|(before, now)| **before != *now);
        moved
            .map(|(giver, _)| {
                let stopped = self.look_of(*giver, came);
                self.look_of(comer, self.let_go(stopped)) - stopped
            })
            .collect()
    }

    /// A node begins nothing more and releases its shards once its requests are answered; the other nodes acquire them
    /// at their next survey.
    fn leave(&self, owners: &[i64], trial: u64) -> Vec<u64> {
        let left = self.moment(trial);
        self.takers(owners, self.one(trial)).map(|taker| self.look_of(taker, self.let_go(left)) - left).collect()
    }

    /// A node dies. The other nodes acquire its shards at their first survey after its lease has ended.
    fn die(&self, owners: &[i64], trial: u64) -> Vec<u64> {
        let (died, gone) = (self.moment(trial), self.one(trial));
        let renewed = at_or_after(gone, self.renew_every(), died) - self.renew_every();
        let ended = renewed + u64::from(self.args.lease_ms);
        self.takers(owners, gone).map(|taker| self.look_of(taker, ended) - died).collect()
    }

    /// The next owner of each shard of `gone`.
    fn takers(&self, owners: &[i64], gone: i64) -> impl Iterator<Item = i64> {
        let rest: Vec<i64> = self.nodes.iter().copied().filter(|node| *node != gone).collect();
        let moved: Vec<i64> =
            owners.iter().zip(placed(&rest)).filter(|(before, _)| **before == gone).map(|(_, now)| now).collect();
        moved.into_iter()
    }

    fn look_of(&self, node: i64, from: Moment) -> Moment {
        at_or_after(node, u64::from(self.args.look_ms), from)
    }

    fn let_go(&self, stopped: Moment) -> Moment {
        stopped + u64::from(self.args.answer_ms)
    }

    fn renew_every(&self) -> u64 {
        u64::from(self.args.lease_ms) / RENEWALS
    }

    /// When the trial's change happens: anywhere between two renewals.
    fn moment(&self, trial: u64) -> Moment {
        let long_since = 10 * u64::from(self.args.lease_ms + self.args.look_ms);
        long_since + part(trial, self.renew_every())
    }

    /// The node that leaves or dies in this trial.
    fn one(&self, trial: u64) -> i64 {
        1 + part(trial, self.nodes.len() as u64).cast_signed()
    }
}

/// The owner that placement names for each shard.
fn placed(nodes: &[i64]) -> Vec<i64> {
    ShardNum::all().filter_map(|shard| owner(shard, nodes)).collect()
}

/// A point between 0 and `whole`; consecutive numbers spread evenly.
fn part(number: u64, whole: u64) -> u64 {
    ((number as f64 * GOLDEN).fract() * whole as f64) as u64
}

/// The first moment, at or after `from`, at which a node does what it does every `every` ms. Each node has its own
/// phase.
fn at_or_after(node: i64, every: u64, from: Moment) -> Moment {
    let phase = part(node.cast_unsigned(), every);
    phase + from.saturating_sub(phase).next_multiple_of(every)
}

fn over_trials(gaps_of: impl Fn(u64) -> Vec<u64>) -> Change {
    let trials: Vec<Vec<u64>> = (0..TRIALS).map(gaps_of).collect();
    let gaps: Vec<u64> = trials.iter().flatten().copied().collect();
    Change {
        shards_moved_mean: gaps.len() as f64 / TRIALS as f64,
        shards_moved_most: trials.iter().map(Vec::len).max().unwrap_or(0),
        gap_least_ms: gaps.iter().copied().min().unwrap_or(0),
        gap_mean_ms: gaps.iter().sum::<u64>() as f64 / gaps.len().max(1) as f64,
        gap_most_ms: gaps.iter().copied().max().unwrap_or(0),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lease_ms, look_ms, answer_ms, fleets } = self;
        writeln!(
            f,
            "lease {lease_ms} ms, a survey every {look_ms} ms, requests under way answered within {answer_ms} ms\n\
             moved: shards, mean (most); gap: ms in which no node serves a shard that moves, mean (most)"
        )?;
        let (joins, leaves, dies) = ("one joins: moved, gap", "one leaves", "one dies");
        write!(f, "nodes  shards: least  mean  most  without   {joins:<23}   {leaves:<23}   {dies:<23}")?;
        write!(f, "   a second: renewals  looks  rows read")?;
        for fleet in fleets {
            let FleetReport { nodes, shards_fewest, shards_mean, shards_most, nodes_without, .. } = fleet;
            let FleetReport { joins, leaves, dies, .. } = fleet;
            write!(f, "\n{nodes:5}  {shards_fewest:13} {shards_mean:5.1} {shards_most:5}    {nodes_without:5}")?;
            write!(f, "   {joins}   {leaves}   {dies}")?;
            let FleetReport { renewals_per_second, looks_per_second, rows_read_per_second, .. } = fleet;
            write!(f, "   {renewals_per_second:18.0} {looks_per_second:6.0}  {rows_read_per_second:9.0}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shards_moved_mean, shards_moved_most, gap_least_ms: _, gap_mean_ms, gap_most_ms } = self;
        write!(f, "{shards_moved_mean:4.1} ({shards_moved_most:2}) {gap_mean_ms:5.0} ({gap_most_ms:5})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(nodes: u32) -> FleetReport {
        let args = PlacementArgs { nodes: vec![nodes], lease_ms: 15_000, look_ms: 1000, answer_ms: 100 };
        measure(&args).fleets.pop().expect("one fleet")
    }

    #[test]
    fn a_death_costs_a_lease_and_a_look_at_most_and_a_hand_over_an_answer_and_a_look() {
        let FleetReport { joins, leaves, dies, .. } = report(10);
        assert!(dies.gap_least_ms >= 12_000 && dies.gap_most_ms <= 16_000, "{dies:?}");
        for handed in [joins, leaves] {
            assert!(handed.gap_least_ms >= 100 && handed.gap_most_ms <= 1100, "{handed:?}");
            assert!((15.0..40.0).contains(&handed.shards_moved_mean), "about 256 ÷ 10: {handed:?}");
        }
    }

    #[test]
    fn beyond_a_node_for_each_shard_some_have_nothing_to_do() {
        let FleetReport { shards_fewest, nodes_without, .. } = report(300);
        assert_eq!(shards_fewest, 0);
        assert!(nodes_without >= 300 - SHARDS);
    }
}
