//! The schema, up and down, and which processes may have a database open.

use migration::MigratorTrait;

use super::super::connect::cut_short::LEFT;
use super::*;
use crate::domain::policy::Policy;
use crate::store::audit::Author;
use crate::store::webhooks::{Routed, Webhook};

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let world = World::new(On::Sqlite).await;
    let second = Store::open(world.home.options()).await;
    assert!(matches!(second, Err(OpenError::Locked { .. })));
}

on_both!(the_schema_goes_down_and_up_again);
async fn the_schema_goes_down_and_up_again(on: On) {
    let home = Home::new(on);
    home.open().await.close().await;
    home.migrate_down(1).await;
    let options = Options { migrate: false, ..home.options() };
    assert!(matches!(home.opened(options.clone()).await, Err(OpenError::NotMigrated)));
    let store = home.open().await;
    assert!(store.integrity_problems().await.unwrap().is_empty());
    store.close().await;
    drop(store);
    home.migrate_down(3).await;
    home.open().await.close().await;
    home.opened(options).await.unwrap().close().await;
}

/// Whether the route table learns that the webhook is ordered.
async fn is_ordered(store: &Store, num: WebhookNum) -> bool {
    match &store.routes_of(&[num]).await.unwrap()[..] {
        [Routed::Here(route)] => route.is_ordered,
        other => panic!("{other:?}"),
    }
}

on_both!(a_webhook_is_ordered_whichever_version_wrote_its_policy);
async fn a_webhook_is_ordered_whichever_version_wrote_its_policy(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let policy = Policy { ordered: true, ..Policy::default() };
    assert!(!is_ordered(&world.store, webhook.num).await);
    let written_by_an_older_version = |policy: &Policy| {
        format!(
            "UPDATE webhook SET policy = '{}' WHERE num = {}",
            serde_json::to_string(policy).unwrap(),
            webhook.num.0
        )
    };
    world.tamper(&written_by_an_older_version(&policy)).await;
    assert!(is_ordered(&world.store, webhook.num).await);
    world.tamper(&written_by_an_older_version(&Policy::default())).await;
    assert!(!is_ordered(&world.store, webhook.num).await);

    let changed = Webhook { policy, ..webhook.clone() };
    world.store.update_webhook(&changed, UnixMillis::now(), &Author::command()).await.unwrap();
    assert!(is_ordered(&world.store, webhook.num).await);
    let home = world.stop().await;
    let since = migration::Migrator::migrations().into_iter().skip_while(|known| known.name() != "m0016_ordered");
    home.migrate_down(u32::try_from(since.count()).unwrap()).await;
    let store = home.open().await;
    assert!(is_ordered(&store, webhook.num).await, "rows from before the migration have the column, too");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_migrate_at_once() {
    let home = Home::new(On::Postgres);
    let opened = futures_util::future::join_all((0..10).map(|_| home.open())).await;
    for store in opened {
        assert_eq!(store.last_event().await.unwrap(), EventSeq::ZERO);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_schema_is_no_content_and_any_row_beyond_it_is() {
    let home = Home::new(On::Postgres);
    assert_eq!(Store::contents(&home.options()).await.unwrap(), Contents::Nothing);
    let store = home.open().await;
    assert_eq!(Store::contents(&home.options()).await.unwrap(), Contents::Schema);
    store.tamper("INSERT INTO engine_state (name, value) VALUES ('engine_id', 1)").await;
    let occupied = Contents::Occupied("table `engine_state` has rows".to_owned());
    assert_eq!(Store::contents(&home.options()).await.unwrap(), occupied);
    store.close().await;
}

async fn schema(store: &Store) -> Vec<(String, String)> {
    let sql = "SELECT name, COALESCE(sql, '') FROM sqlite_master \
               UNION ALL SELECT name, CAST(value AS TEXT) FROM engine_state \
               UNION ALL SELECT version, '' FROM seaql_migrations ORDER BY 1, 2";
    let rows = store.readers().query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap();
    rows.iter().map(|row| (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap())).collect()
}

#[tokio::test]
async fn a_file_that_an_older_version_has_half_migrated_is_finished_whatever_the_half() {
    let home = Home::new(On::Sqlite);
    let whole = home.open().await;
    let expected = schema(&whole).await;
    whole.close().await;
    for statements in 0.. {
        let home = Home::new(On::Sqlite);
        let file = sea_orm::Database::connect(format!("{}?mode=rwc", home.options().url)).await.unwrap();
        LEFT.set(statements);
        // As older versions migrated: without a transaction around it.
        let is_whole = migration::Migrator::up(&file, None).await.is_ok();
        LEFT.set(usize::MAX);
        file.close().await.unwrap();
        // The process that was killed had made a master key beside the file.
        let store = home.open_with(MasterKey::parse("cG9zdGhhc3RlIHBvc3RoYXN0ZSBwb3N0aGFzdGUgcG8=")).await.unwrap();
        assert_eq!(schema(&store).await, expected, "after {statements} statements");
        store.close().await;
        if is_whole {
            return assert!(statements > 30, "{statements}");
        }
    }
}

#[tokio::test]
async fn a_migration_of_a_file_that_fails_leaves_nothing_of_it() {
    let home = Home::new(On::Sqlite);
    for statements in [0, 1, 20, 33] {
        LEFT.set(statements);
        assert!(Store::open(home.options()).await.is_err(), "{statements}");
        let file = sea_orm::Database::connect(home.options().url).await.unwrap();
        let count = Statement::from_string(DbBackend::Sqlite, "SELECT COUNT(*) FROM sqlite_master");
        let count: i64 = file.query_one_raw(count).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(count, 0, "{statements}");
        file.close().await.unwrap();
    }
    LEFT.set(usize::MAX);
    home.open().await.close().await;
}

/// A database that a newer version with this migration has used.
async fn from_the_future(on: On, migration: &str) -> Home {
    let home = Home::new(on);
    let store = home.open().await;
    store.tamper(&format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{migration}', 0)")).await;
    store.close().await;
    home
}

on_both!(a_schema_that_a_newer_version_has_only_expanded_is_as_good_as_any);
async fn a_schema_that_a_newer_version_has_only_expanded_is_as_good_as_any(on: On) {
    let home = from_the_future(on, "m9999_future").await;
    for migrate in [true, false] {
        home.opened(Options { migrate, ..home.options() }).await.unwrap().close().await;
    }
    let refused = Store::migrate_down(&home.options(), 1, false).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Newer(why) if why == "m9999_future"), "{refused}");
}

on_both!(a_schema_that_a_newer_version_has_changed_is_refused);
async fn a_schema_that_a_newer_version_has_changed_is_refused(on: On) {
    let home = from_the_future(on, "m9999_contract_future").await;
    for migrate in [true, false] {
        let refused = Store::open(Options { migrate, ..home.options() }).await.map(drop).unwrap_err();
        assert!(matches!(&refused, OpenError::Newer(why) if why == "m9999_contract_future"), "{refused}");
    }
}

#[tokio::test]
async fn a_postgresql_that_may_lose_commits_is_refused_unless_forced() {
    let home = Home::new(On::Postgres);
    home.open().await.close().await;
    let Options { url, .. } = home.options();
    let options = Options { url: format!("{url}&options=-c%20synchronous_commit%3Doff"), ..home.options() };
    let refused = Store::open(options.clone()).await.map(drop).unwrap_err();
    assert!(refused.is_configuration(), "{refused}");
    assert!(refused.to_string().contains("synchronous_commit = off"), "{refused}");
    Store::open(Options { force_unsafe: true, ..options }).await.unwrap().close().await;
}

#[tokio::test]
async fn postgresql_needs_a_master_key_from_its_settings() {
    let home = Home::new(On::Postgres);
    let refused = home.open_with(None).await.map(drop).unwrap_err();
    assert!(refused.is_configuration() && refused.to_string().starts_with("POSTHASTE_MASTER_KEY: "), "{refused}");
}

#[tokio::test]
async fn a_file_has_one_lock_whatever_it_is_called() {
    let Home::Sqlite(directory) = &Home::new(On::Sqlite) else { panic!("a file") };
    let at = |name: &str| directory.path().join(name);
    let options = |name: &str| Options::of(format!("sqlite://{}", at(name).display()));
    let store = Store::open(options("test.db")).await.unwrap();
    std::os::unix::fs::symlink(at("test.db"), at("link.db")).unwrap();
    assert!(matches!(Store::open(options("link.db")).await, Err(OpenError::Locked { .. })));
    store.close().await;
    drop(store);
    std::fs::hard_link(at("test.db"), at("hard.db")).unwrap();
    let refused = Store::open(options("hard.db")).await.err().unwrap().to_string();
    assert!(refused.ends_with("has several names (hard links), with which SQLite damages it"), "{refused}");
}

#[tokio::test]
async fn a_lost_key_file_is_said_to_be_lost_and_not_made_again() {
    let home = Home::new(On::Sqlite);
    let store = home.open().await;
    store.close().await;
    drop(store);
    let Home::Sqlite(directory) = &home else { panic!("a file") };
    let file = directory.path().join("test.db.key");
    std::fs::remove_file(&file).unwrap();
    let refused = home.open_with(None).await.err().unwrap().to_string();
    assert!(refused.contains("test.db.key is missing") && refused.contains("POSTHASTE_MASTER_KEY"), "{refused}");
    assert!(!file.exists());
}
