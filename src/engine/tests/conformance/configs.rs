//! What an endpoint reads of its webhook, and what the route table reads of all.

use super::database::{Database, LONG, On, ended_as, id, key, with};
use super::on_all;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::delivery::Status;
use crate::domain::health::{Health, LastError, Suspension, SuspensionCause};
use crate::domain::id::WebhookNum;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::store::StoreError;
use crate::store::journal_db::rows::Rows;
use crate::store::webhooks::Routed;

on_all!(an_endpoint_reads_whether_its_webhook_is_open);
async fn an_endpoint_reads_whether_its_webhook_is_open(on: On) {
    let database = Database::new(on).await;
    let num = database.webhook().await;
    let webhook = async || database.config(num).await.unwrap().unwrap().webhook;
    let new = webhook().await;
    assert_eq!((new.num, new.tenant, new.version), (num, database.tenant, 1));
    assert!(new.is_active && new.paused_at.is_none() && new.policy.ordered);
    assert_eq!(new.url, "http://127.0.0.1/");

    database.set_paused(num, true).await;
    let paused = webhook().await;
    assert!(paused.is_active && paused.paused_at.is_some() && paused.version == 2);
    database.set_paused(num, false).await;
    assert_eq!((webhook().await.paused_at, webhook().await.version), (None, 3));

    database.delete_webhook(num).await;
    assert!(database.config(num).await.is_none(), "a deleted webhook has no endpoint");
    assert!(database.config(WebhookNum(999)).await.is_none());
}

on_all!(a_webhook_that_cannot_be_read_has_an_error_of_its_own);
async fn a_webhook_that_cannot_be_read_has_an_error_of_its_own(on: On) {
    let database = Database::new(on).await;
    let (damaged, whole) = (database.webhook().await, database.webhook().await);
    database.damage_webhook(damaged).await;
    let configs = database.engine.endpoint_configs(&[damaged, whole], UnixMillis::now()).await.unwrap();
    assert!(matches!(configs[&damaged], Err(StoreError::Unreadable { .. })), "{:?}", configs[&damaged]);
    assert!(configs[&whole].is_ok());
}

on_all!(a_secret_that_was_rotated_out_signs_until_it_ends);
async fn a_secret_that_was_rotated_out_signs_until_it_ends(on: On) {
    let database = Database::new(on).await;
    let (num, now) = (database.webhook().await, UnixMillis::now());
    let secrets = async |at| {
        let config = database.engine.endpoint_configs(&[num], at).await.unwrap().remove(&num).unwrap().unwrap();
        (config.secrets.len(), config.secrets_change_at)
    };
    assert_eq!(secrets(now).await, (1, None));
    let end = now.plus(LONG);
    database.rotate_secret(num, end).await;
    assert_eq!(secrets(now).await, (2, Some(end)));
    assert_eq!(secrets(UnixMillis(end.0 - 1)).await, (2, Some(end)));
    assert_eq!(secrets(end).await, (1, None), "at its end it signs no more");
    assert_eq!(database.config(num).await.unwrap().unwrap().webhook.version, 2);
}

on_all!(an_endpoint_reads_whether_rows_wait);
async fn an_endpoint_reads_whether_rows_wait(on: On) {
    let database = Database::new(on).await;
    let (waits, idle) = (database.webhook().await, database.webhook().await);
    let has_rows = async |num| database.config(num).await.unwrap().unwrap().has_pending_rows;
    database.accept(key(1), &[waits.0, idle.0]).await;
    assert!(!has_rows(waits).await, "a fan-out is no row");
    database.accept_due(key(2), &[waits.0], i64::from(i32::MAX)).await;
    assert!(has_rows(waits).await && !has_rows(idle).await);
    database.record(id(key(2), waits.0), ended_as(Status::Cancelled)).await;
    assert!(!has_rows(waits).await);
}

on_all!(health_is_what_was_written_last);
async fn health_is_what_was_written_last(on: On) {
    let database = Database::new(on).await;
    let (num, other) = (database.webhook().await, database.webhook().await);
    let health = async |num| database.config(num).await.unwrap().unwrap().health;
    assert_eq!(health(num).await, Health::default());
    let last_error = LastError {
        at: UnixMillis(8),
        outcome: OutcomeKind::TimedOut,
        status: Some(503),
        error: Some("busy".to_owned()),
        event: key(1),
    };
    let failing = Health {
        consecutive_failures: 7,
        openings: 2,
        open_until: Some(UnixMillis(50)),
        opened_at: Some(UnixMillis(40)),
        last_failure: Some(OutcomeKind::TimedOut),
        failing_since: Some(UnixMillis(30)),
        warned_at: Some(UnixMillis(35)),
        suspension: Some(Suspension { since: UnixMillis(45), cause: SuspensionCause::Failing }),
        recovered_at: Some(UnixMillis(15)),
        last_error: Some(Arc::new(last_error)),
        last_success_at: Some(UnixMillis(20)),
    };
    let well =
        Health { consecutive_failures: 0, open_until: None, failing_since: None, suspension: None, ..failing.clone() };
    for written in [&failing, &well] {
        database.write(with(Rows::default(), |rows| rows.health = BTreeMap::from([(num, written)]))).await;
        assert_eq!(health(num).await, *written);
    }
    assert_eq!(health(other).await, Health::default());
}

on_all!(routes_are_read_after_one_another_without_deleted_webhooks);
async fn routes_are_read_after_one_another_without_deleted_webhooks(on: On) {
    let database = Database::new(on).await;
    let mut nums = Vec::new();
    for _ in 0..4 {
        nums.push(database.webhook().await);
    }
    database.delete_webhook(nums[1]).await;
    database.switch_off(nums[2]).await;
    let (mut after, mut read) = (WebhookNum(0), Vec::new());
    loop {
        let page = database.engine.routes(after).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().all(|route| route.num > after), "{page:?}");
        after = last.num;
        read.extend(page.into_iter().map(|route| (route.num, route.is_active)));
    }
    assert_eq!(read, [(nums[0], true), (nums[2], false), (nums[3], true)]);
    let rest = database.engine.routes(nums[2]).await.unwrap();
    let [route] = &rest[..] else { panic!("{rest:?}") };
    assert_eq!((route.num, route.tenant, route.is_ordered), (nums[3], database.tenant, true));
    assert_eq!(route.events, ["message.*"]);
}

on_all!(routes_of_some_webhooks_say_which_are_deleted);
async fn routes_of_some_webhooks_say_which_are_deleted(on: On) {
    let database = Database::new(on).await;
    let (here, deleted, other) = (database.webhook().await, database.webhook().await, database.webhook().await);
    database.delete_webhook(deleted).await;
    let routed = database.engine.routes_of(&[here, deleted, WebhookNum(999)]).await.unwrap();
    let mut routed: Vec<_> = routed
        .iter()
        .map(|routed| match routed {
            Routed::Here(route) => (route.num, route.is_active),
            Routed::Deleted(tenant, num) => {
                assert_eq!(*tenant, database.tenant);
                (*num, false)
            }
        })
        .collect();
    routed.sort_unstable();
    assert_eq!(routed, [(here, true), (deleted, false)], "{other:?} was not asked for");
    assert!(database.engine.routes_of(&[]).await.unwrap().is_empty());
}
