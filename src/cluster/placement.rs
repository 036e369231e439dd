//! Which node should own which shard: rendezvous hashing over the living nodes. Every node computes the placement by
//! itself, from the same list in any order, and gets the same answer. Pure.
//!
//! Each shard goes to the node with the highest weight for it. A node that joins or leaves does not change the weights
//! of the others, so the only shards that move are those that it gains or loses.

use std::cmp::Reverse;

use crate::domain::shard::{SHARDS, ShardNum};

/// What a node must do so that every node owns what it should.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    /// This node owns them, and another one should.
    pub hand_off: Vec<ShardNum>,
    /// No node owns them, and this one should.
    pub acquire: Vec<ShardNum>,
}

/// Which node should own this shard; `None` if there are no nodes.
#[must_use]
pub fn owner(shard: ShardNum, nodes: &[i64]) -> Option<i64> {
    // Weights are practically never equal; if they are, the older node gets the shard.
    nodes.iter().copied().max_by_key(|node| (weight(*node, shard), Reverse(*node)))
}

/// What `me` must do. `nodes` are the living nodes; a node that leaves leaves itself out, and so hands off everything.
/// `owners` are the present owners; the shards of a dead node have none.
#[must_use]
pub fn moves(me: i64, nodes: &[i64], owners: &[Option<i64>; SHARDS]) -> Moves {
    let mut moves = Moves::default();
    for (shard, holder) in ShardNum::all().zip(owners) {
        let should = owner(shard, nodes);
        if *holder == Some(me) && should.is_some_and(|should| should != me) {
            moves.hand_off.push(shard);
        } else if holder.is_none() && should == Some(me) {
            moves.acquire.push(shard);
        }
    }
    moves
}

/// Nodes of different versions must agree, so this function never changes.
fn weight(node: i64, shard: ShardNum) -> u64 {
    mix(mix(node.cast_unsigned()) ^ u64::from(shard.num().cast_unsigned()))
}

/// One step of SplitMix64 from this state. Numbers of nodes and shards are neighbours, but their outputs look
/// unrelated; different inputs never have the same output.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn placement(nodes: &[i64]) -> [Option<i64>; SHARDS] {
        let mut shards = ShardNum::all();
        std::array::from_fn(|_| owner(shards.next().expect("one of 256"), nodes))
    }

    fn most(nodes: &[i64]) -> usize {
        let placed = placement(nodes);
        nodes.iter().map(|node| placed.iter().filter(|owner| **owner == Some(*node)).count()).max().unwrap_or(0)
    }

    /// Numbers as a database gives them, with gaps where nodes have left.
    fn some_nodes() -> impl Strategy<Value = Vec<i64>> {
        btree_set(1..5_000i64, 1..50).prop_map(|nodes| nodes.into_iter().collect())
    }

    #[test]
    fn without_nodes_nobody_has_anything_and_nothing_moves() {
        assert_eq!(owner(ShardNum::from(7), &[]), None);
        assert_eq!(moves(1, &[], &[Some(1); SHARDS]), Moves::default());
        assert_eq!(moves(1, &[], &[None; SHARDS]), Moves::default());
    }

    /// If this fails, nodes of this version and of the last one would fight over shards.
    #[test]
    fn the_weights_are_those_of_every_version() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the first number of SplitMix64 from the seed 0");
        let owner = |shard| owner(shard, &[1, 2, 3, 4, 5]).expect("an owner");
        let placed: Vec<_> = ShardNum::all().take(16).map(owner).collect();
        assert_eq!(placed, [5, 3, 1, 3, 5, 4, 2, 3, 2, 4, 2, 4, 4, 1, 2, 1]);
    }

    #[test]
    fn one_node_acquires_everything_and_one_that_leaves_hands_off_everything() {
        let all: Vec<ShardNum> = ShardNum::all().collect();
        assert_eq!(moves(5, &[5], &[None; SHARDS]), Moves { hand_off: vec![], acquire: all.clone() });
        assert_eq!(moves(5, &[6, 9], &[Some(5); SHARDS]), Moves { hand_off: all, acquire: vec![] });
    }

    /// Shards fall on nodes as if at random, so the bound is a few standard deviations. Measured over all numbers up to
    /// 450: at most 4.1 standard deviations, which is 1.2 times the share with 2 nodes, 1.6 with 10, 2.7 with 50.
    #[test]
    fn nobody_has_far_more_than_its_share() {
        for count in 1..=50 {
            for first in (1..=400).step_by(10) {
                let nodes: Vec<i64> = (first..).take(count).collect();
                let share = SHARDS as f64 / count as f64;
                let most = most(&nodes) as f64;
                assert!(most <= share + 4.2 * share.sqrt(), "{count} nodes from {first}: {most} shards for one");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_shard_has_one_owner_whatever_the_order(nodes in some_nodes(), places in vec(any::<Index>(), 50)) {
            let mut shuffled = nodes.clone();
            for (at, place) in places.iter().enumerate().take(nodes.len()) {
                shuffled.swap(at, place.index(nodes.len()));
            }
            let placed = placement(&nodes);
            prop_assert_eq!(placed, placement(&shuffled));
            prop_assert!(placed.iter().all(|owner| owner.is_some_and(|owner| nodes.contains(&owner))));
        }

        #[test]
        fn only_shards_of_the_node_that_goes_or_to_the_node_that_comes_move(nodes in some_nodes(), which: Index) {
            let gone = nodes[which.index(nodes.len())];
            let rest: Vec<i64> = nodes.iter().copied().filter(|node| *node != gone).collect();
            for (with, without) in placement(&nodes).into_iter().zip(placement(&rest)) {
                prop_assert!(with == without || with == Some(gone));
            }
        }

        /// From any start: once every node has handed off and acquired, every node owns what it should, without asking another.
        #[test]
        fn handing_off_and_then_acquiring_ends_where_it_should(nodes in some_nodes(), before in vec(any::<Option<Index>>(), SHARDS)) {
            let held = |at: usize| before[at].map(|which| nodes[which.index(nodes.len())]);
            let mut owners: [Option<i64>; SHARDS] = std::array::from_fn(held);
            for node in &nodes {
                for given in moves(*node, &nodes, &owners).hand_off {
                    owners[given.place()] = None;
                }
            }
            let mut acquired = BTreeSet::new();
            for node in &nodes {
                for shard in moves(*node, &nodes, &owners).acquire {
                    prop_assert!(acquired.insert(shard), "two nodes would acquire one shard");
                    owners[shard.place()] = Some(*node);
                }
            }
            prop_assert_eq!(owners, placement(&nodes));
        }
    }
}
