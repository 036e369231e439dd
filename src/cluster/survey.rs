//! What a survey means for the node that has made it: which of its shards are lost, which it owns without knowing it, and
//! which should move. Pure.

use std::collections::BTreeSet;

use crate::domain::shard::{SHARDS, ShardNum};
use crate::store::leases::{ShardSet, Survey};

use super::placement::{self, Moves};

/// The shards that this node owned under these epochs before the survey, and that the survey shows with another owner
/// or epoch: another node has acquired them, or the answer to their acquisition was lost. Shards that are being handed
/// off are left out.
pub(super) fn lost(me: i64, survey: &Survey, held: &[(ShardNum, i64)], leaving: &BTreeSet<ShardNum>) -> Vec<ShardNum> {
    let is_as_held = |shard: ShardNum, epoch: i64| survey.shards.get(shard.place()) == Some(&(Some(me), epoch));
    let lost = held.iter().filter(|(shard, epoch)| !leaving.contains(shard) && !is_as_held(*shard, *epoch));
    lost.map(|(shard, _)| *shard).collect()
}

/// The shards that the survey shows as this node's and that the node does not know as its own. Shards that are being
/// handed off are left out.
pub(super) fn unknown(
    me: i64,
    survey: &Survey,
    shard_set: &ShardSet,
    leaving: impl Fn(&ShardNum) -> bool,
) -> Vec<ShardNum> {
    let is_unknown = |shard: &ShardNum| {
        let is_mine = survey.shards.get(shard.place()).is_some_and(|(owner, _)| *owner == Some(me));
        is_mine && !shard_set.owns(*shard) && !leaving(shard)
    };
    ShardNum::all().filter(is_unknown).collect()
}

/// Which shards this node should hand off and acquire. A node whose lease has ended, but which is not reaped, may still
/// renew the lease and keeps its shards. The database lets only a node with a lease acquire shards.
pub(super) fn moves(me: i64, survey: &Survey) -> Moves {
    let living = survey.nodes.iter().filter(|node| node.is_alive || node.num == me);
    let living: Vec<i64> = living.map(|node| node.num).collect();
    let known: BTreeSet<i64> = survey.nodes.iter().map(|node| node.num).collect();
    let mut owners = [None; SHARDS];
    for (place, (owner, _)) in owners.iter_mut().zip(&survey.shards) {
        *place = owner.filter(|owner| known.contains(owner));
    }
    placement::moves(me, &living, &owners)
}

#[cfg(test)]
mod tests {
    use crate::domain::moment::UnixMillis;
    use crate::store::leases::Node;

    use super::*;

    /// Two nodes, of which the first has a lease that has ended. No shard has an owner.
    fn survey() -> Survey {
        let node = |num, lives| {
            let (started_at, lease_until) = (UnixMillis(0), UnixMillis(0));
            Node { num, name: String::new(), address: None, started_at, lease_until, is_alive: lives }
        };
        Survey { nodes: vec![node(1, false), node(2, true)], shards: vec![(None, 0); SHARDS] }
    }

    #[test]
    fn a_node_whose_lease_has_ended_unnoticed_hands_nothing_over() {
        let mut survey = survey();
        let held = moves(1, &survey).acquire;
        held.iter().for_each(|shard| survey.shards[shard.place()].0 = Some(1));
        assert!(!held.is_empty() && held.len() < SHARDS);
        assert_eq!(moves(1, &survey), Moves::default());
        let free = moves(2, &survey).acquire;
        assert_eq!(
            (free.len(), moves(2, &survey).hand_off),
            (SHARDS - held.len(), vec![]),
            "the shards of a node that is not reaped are not free"
        );
    }

    #[test]
    fn a_shard_with_another_owner_or_epoch_is_lost_unless_it_is_being_handed_off() {
        let mut survey = survey();
        let [kept, taken, raised, leaving] = [3, 4, 5, 6].map(ShardNum::from);
        for (shard, row) in [(kept, (Some(1), 7)), (taken, (Some(2), 8)), (raised, (Some(1), 9)), (leaving, (None, 8))]
        {
            survey.shards[shard.place()] = row;
        }
        let held = [kept, taken, raised, leaving].map(|shard| (shard, 7));
        assert_eq!(lost(1, &survey, &held, &BTreeSet::from([leaving])), [taken, raised]);
        assert_eq!(lost(1, &survey, &held, &BTreeSet::new()), [taken, raised, leaving]);
    }
}
