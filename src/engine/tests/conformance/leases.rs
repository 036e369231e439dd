//! Nodes and their leases: who is there, with which slot, and what becomes of a node that does not renew.

use super::database::{Database, LONG, On, id, key, shard, wanted};
use super::{on_clusters, on_each};

use crate::domain::id::{Slot, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::leases::{Renewal, ShardSet};

impl Database {
    async fn nodes(&self) -> Vec<i64> {
        let survey = self.cluster.survey(&self.shard_set).await.unwrap().unwrap();
        survey.nodes.iter().map(|node| node.num).collect()
    }
}

on_clusters!(each_node_has_a_number_and_a_slot_of_its_own);
async fn each_node_has_a_number_and_a_slot_of_its_own(on: On) {
    let database = Database::new(on).await;
    let mut nodes = vec![database.shard_set.clone()];
    for _ in 0..3 {
        nodes.push(database.another().await);
    }
    let nums: Vec<i64> = nodes.iter().map(|node| node.node().unwrap()).collect();
    assert!(nums.is_sorted_by(|a, b| a < b), "{nums:?}");
    assert_eq!(nodes.iter().map(ShardSet::slot).collect::<Vec<_>>(), [0, 1, 2, 3].map(Slot));
    assert!(nodes[1].owned().is_empty() && nodes[0].owned().len() == 256);
    assert_eq!(database.nodes().await, nums);
}

on_clusters!(a_slot_comes_back_only_after_all_others);
async fn a_slot_comes_back_only_after_all_others(on: On) {
    let database = Database::new(on).await;
    let leaving = database.another().await;
    database.cluster.deregister(&leaving).await.unwrap();
    assert_eq!(database.another().await.slot(), Slot(2), "slot 1 is free, and was used a moment ago");
}

on_clusters!(a_survey_shows_who_lives_and_who_owns_what);
async fn a_survey_shows_who_lives_and_who_owns_what(on: On) {
    let database = Database::new(on).await;
    let before = database.cluster.survey(&database.shard_set).await.unwrap().unwrap();
    let another = database.another_with(&[shard(3)]).await;
    let survey = database.cluster.survey(&another).await.unwrap().unwrap();
    let names: Vec<_> = survey.nodes.iter().map(|node| (node.name.as_str(), node.address.as_deref())).collect();
    assert_eq!(names, [("first", Some("http://127.0.0.1:1")), ("another", None)]);
    assert!(survey.nodes.iter().all(|node| node.is_alive && node.lease_until > node.started_at));
    assert_eq!(survey.shards.len(), 256);
    assert_eq!(survey.shards[3].0, another.node());
    assert_eq!(survey.shards[4].0, database.shard_set.node());
    assert!(survey.shards[3].1 > before.shards[3].1, "each change of the owner raises the epoch");
    assert_eq!(survey.shards[4].1, before.shards[4].1);
    database.expire_leases().await;
    let survey = database.cluster.survey(&another).await.unwrap().unwrap();
    assert!(survey.nodes.iter().all(|node| !node.is_alive));
}

on_clusters!(a_node_that_renews_too_late_goes_on_if_nobody_has_reaped_it);
async fn a_node_that_renews_too_late_goes_on_if_nobody_has_reaped_it(on: On) {
    let database = Database::new(on).await;
    let shard_set = &database.shard_set;
    assert_eq!(database.cluster.lease(), LONG);
    assert_eq!(database.cluster.renew(shard_set).await.unwrap(), Renewal::Renewed);
    database.expire_leases().await;
    assert_eq!(database.cluster.renew(shard_set).await.unwrap(), Renewal::Renewed);
    assert!(!database.cluster.reap_expired(shard_set.node().unwrap()).await.unwrap(), "it lives");
    let survey = database.cluster.survey(shard_set).await.unwrap().unwrap();
    assert!(survey.nodes[0].is_alive && survey.shards.iter().all(|(owner, _)| *owner == shard_set.node()));
}

on_clusters!(a_node_whose_lease_has_ended_is_reaped_and_its_shards_are_free_and_in_doubt);
async fn a_node_whose_lease_has_ended_is_reaped_and_its_shards_are_free_and_in_doubt(on: On) {
    let database = Database::new(on).await;
    let (reaped, node) = (&database.shard_set, database.shard_set.node().unwrap());
    database.accept(key(1), &[3]).await;
    database.expire_leases().await;
    let another = database.another().await;
    let before = UnixMillis::now();
    assert!(database.cluster.reap_expired(node).await.unwrap());
    assert!(database.cluster.reap_expired(node).await.unwrap(), "it is gone already");
    assert_eq!(database.cluster.renew(reaped).await.unwrap(), Renewal::Reaped);
    let survey = database.cluster.survey(&another).await.unwrap().unwrap();
    assert_eq!(survey.nodes.iter().map(|node| node.num).collect::<Vec<_>>(), [another.node().unwrap()]);
    assert!(survey.shards.iter().all(|(owner, _)| owner.is_none()));

    assert_eq!(database.own(&another, &[shard(3)]).await.len(), 1);
    let in_doubt = another.in_doubt_of(WebhookNum(3));
    assert!(in_doubt.events_to == key(1) && in_doubt.due_to >= before, "{in_doubt:?}");
    assert!(database.cluster.acquire(reaped, &[shard(4)]).await.unwrap().is_empty(), "the reaped node gets nothing");
    database.cluster.release(reaped, &[shard(3)], true).await.unwrap();
    database.cluster.deregister(reaped).await.unwrap();
    let survey = database.cluster.survey(&another).await.unwrap().unwrap();
    assert_eq!(survey.shards[3].0, another.node(), "and takes nothing away");
}

on_clusters!(a_node_that_leaves_frees_in_doubt_what_it_still_owns);
async fn a_node_that_leaves_frees_in_doubt_what_it_still_owns(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3]).await;
    let another = database.another_with(&[shard(4)]).await;
    database.cluster.deregister(&database.shard_set).await.unwrap();
    let all: Vec<ShardNum> = ShardNum::all().collect();
    assert_eq!(database.own(&another, &all).await.len(), 255);
    assert_eq!(another.in_doubt_of(WebhookNum(3)).events_to, key(1));
    assert_eq!(another.in_doubt_of(WebhookNum(4)), InDoubt::NOTHING);
    assert_eq!(database.cluster.renew(&database.shard_set).await.unwrap(), Renewal::Reaped);
}

on_clusters!(a_node_that_joins_again_keeps_its_slot_and_owns_nothing);
async fn a_node_that_joins_again_keeps_its_slot_and_owns_nothing(on: On) {
    let database = Database::new(on).await;
    let another = database.another_with(&[shard(3), shard(4)]).await;
    database.cluster.release(&another, &[shard(5)], false).await.unwrap();
    database.accept(key(1), &[7]).await;
    let (slot, before) = (another.slot(), another.node());
    let member = database.cluster.rejoin(&another, "again", None).await.unwrap().unwrap();
    assert_eq!(member.newest, key(1));
    another.rejoin(member);
    assert_eq!(another.slot(), slot);
    assert!(another.node() > before && another.owned().is_empty());
    let survey = database.cluster.survey(&another).await.unwrap().unwrap();
    assert_eq!(
        survey.nodes.iter().map(|node| node.num).collect::<Vec<_>>(),
        [database.shard_set.node().unwrap(), another.node().unwrap()]
    );
    assert_eq!((survey.shards[3].0, survey.shards[4].0, survey.shards[5].0), (None, None, database.shard_set.node()));
    assert_eq!(database.own(&another, &[shard(3)]).await.len(), 1);
    assert_eq!(another.in_doubt_of(WebhookNum(3)).events_to, key(1));
    assert_eq!(database.cluster.renew(&another).await.unwrap(), Renewal::Renewed);
}

on_clusters!(a_node_that_knows_another_server_joins_again_before_it_goes_on);
async fn a_node_that_knows_another_server_joins_again_before_it_goes_on(on: On) {
    let database = Database::new(on).await;
    let shard_set = &database.shard_set;
    database.accept_due(key(1), &[3], 10).await;
    shard_set.pretend_a_promotion();
    let read = database.engine.due(shard_set, WebhookNum(3), wanted(10)).await;
    assert!(read.is_err(), "what is pending there may have been sent: {read:?}");
    assert!(database.engine.due_one(shard_set, id(key(1), 3)).await.is_err());
    assert!(!shard_set.has_diverged(), "nothing has been asked yet");
    assert!(database.cluster.survey(shard_set).await.is_err());
    assert!(shard_set.has_diverged() && shard_set.served().is_empty());
    assert_eq!(database.cluster.renew(shard_set).await.unwrap(), Renewal::Diverged);
    let locked = database.begin().await.lock(shard_set, &[shard(3)].into()).await.unwrap();
    assert!(locked.is_reaped && locked.lost == [shard(3)].into() && locked.transaction.is_none(), "{locked:?}");

    let member = database.cluster.rejoin(shard_set, "first", None).await.unwrap().unwrap();
    shard_set.rejoin(member);
    assert!(!shard_set.has_diverged());
    assert_eq!(database.own(shard_set, &[shard(3)]).await.len(), 1);
    assert!(database.pending(id(key(1), 3)).await.is_some());
    let in_doubt = shard_set.in_doubt_of(WebhookNum(3));
    assert_eq!(in_doubt.events_to, key(1));
}

on_each!(a_process_that_has_the_database_alone_has_no_lease: on_sqlite = Sqlite, in_memory = Memory);
async fn a_process_that_has_the_database_alone_has_no_lease(on: On) {
    let database = Database::new(on).await;
    let shard_set = &database.shard_set;
    assert_eq!(database.cluster.renew(shard_set).await.unwrap(), Renewal::Renewed);
    assert!(database.cluster.rejoin(shard_set, "again", None).await.unwrap().is_none());
    assert!(!database.cluster.reap_expired(1).await.unwrap());
    assert!(database.cluster.acquire(shard_set, &[shard(3)]).await.unwrap().is_empty());
    database.cluster.release(shard_set, &[shard(3)], true).await.unwrap();
    database.cluster.deregister(shard_set).await.unwrap();
    assert_eq!(database.cluster.adopt_foreign_rows().await.unwrap(), 0);
    assert!(shard_set.serves(WebhookNum(3)));
}
