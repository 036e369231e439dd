//! Tests the key cache against a store of its own, on both databases.

use axum::http::header::AUTHORIZATION;
use futures_util::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::api::key::{new_first_admin_key, new_tenant_key};
use crate::domain::id::TenantNum;
use crate::secrets::MasterKey;
use crate::store::Options;
use crate::store::audit::Author;
use crate::store::keys::NewApiKey;
use crate::store::tenants::NewTenant;
use test_support::cluster::Database;

const MASTER_KEY: &str = "cG9zdGhhc3RlIHBvc3RoYXN0ZSBwb3N0aGFzdGUgcG8=";

/// A store with a tenant that has one key.
struct World {
    store: Store,
    tenant: Tenant,
    shown: String,
    key: NewApiKey,
    /// Last, so that the store closes before its directory and its database go.
    _home: (TempDir, Option<Database>),
}

impl World {
    async fn new(on_postgres: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = on_postgres.then(Database::new);
        let options = match &database {
            None => Options::of(format!("sqlite://{}", directory.path().join("test.db").display())),
            Some(database) => Options { master_key: MasterKey::parse(MASTER_KEY), ..Options::of(database.url()) },
        };
        let store = Store::open(options).await.unwrap();
        let new = NewTenant {
            id: TenantId::generate(),
            name: "Tenant".to_owned(),
            allow_undeclared_types: true,
            retention: Default::default(),
            created_at: UnixMillis::now(),
            catalogue: Vec::new(),
        };
        let tenant = store.create_tenant(new, None, &Author::engine()).await.unwrap();
        let (shown, key) = new_tenant_key(tenant.num, "ci");
        store.create_key(key.clone(), None, &Author::engine()).await.unwrap();
        Self { store, tenant, shown, key, _home: (directory, database) }
    }

    async fn try_key(&self, keys: &Keys, shown: &str) -> Result<Arc<Access>, &'static str> {
        let headers: HeaderMap = [(AUTHORIZATION, format!("Bearer {shown}").parse().unwrap())].into_iter().collect();
        keys.identify(&self.store, &headers).await.map_err(|problem| problem.into_parts().1)
    }

    /// Another secret for the same id, with a right checksum.
    fn wrong_secret(&self) -> String {
        let id = self.key.id.to_string();
        key::spell(id.trim_start_matches("key_"))
    }
}

/// A key whose id does not exist.
fn unknown_id() -> String {
    new_first_admin_key().0
}

macro_rules! on_both {
    ($($name:ident),*) => {$(
        mod $name {
            #[tokio::test]
            async fn on_sqlite() {
                super::$name(super::World::new(false).await).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                super::$name(super::World::new(true).await).await;
            }
        }
    )*};
}

on_both! {
    what_another_node_has_changed_of_a_tenant_or_a_key_is_read_again,
    a_wrong_checksum_is_refused_without_the_database,
    what_is_refused_once_is_refused_from_memory_and_tells_nothing,
    the_time_of_a_refusal_does_not_tell_whether_there_is_such_a_key,
    uses_are_noted_together_and_survive_what_is_forgotten,
    a_key_that_has_ended_opens_nothing,
    right_keys_are_found_among_any_number_of_wrong_ones
}

async fn what_another_node_has_changed_of_a_tenant_or_a_key_is_read_again(world: World) {
    let keys = Keys::new(None);
    let identify = || world.try_key(&keys, &world.shown);
    assert!(identify().await.is_ok() && keys.tenant(&world.store, world.tenant.id).await.unwrap().is_some());

    let strict = Tenant { allow_undeclared_types: false, ..world.tenant.clone() };
    world.store.update_tenant(&strict, UnixMillis::now(), &Author::engine()).await.unwrap();
    for stale in [Stale::Tenant(TenantNum(strict.num.0 + 1)), Stale::Tenant(strict.num)] {
        keys.forget(stale);
        let access = identify().await.unwrap();
        let is_read_again = stale == Stale::Tenant(strict.num);
        assert_eq!(access.tenant.as_ref().unwrap().allow_undeclared_types, !is_read_again);
        let selected = keys.tenant(&world.store, strict.id).await.unwrap().unwrap();
        assert_eq!(selected.allow_undeclared_types, !is_read_again);
    }
    world.store.delete_key(strict.num, world.key.id, &Author::engine()).await.unwrap();
    assert!(identify().await.is_ok(), "nobody has told yet");
    keys.forget(Stale::Everything);
    assert!(identify().await.is_err());
    let is_refused = || keys.refused.lock().has(&key::digest(world.shown.as_bytes()));
    assert!(is_refused());
    keys.forget(Stale::Everything);
    assert!(!is_refused(), "a database with another history may have it");
}

async fn a_wrong_checksum_is_refused_without_the_database(world: World) {
    world.store.close().await;
    let keys = Keys::new(None);
    for shown in [world.wrong_secret(), unknown_id()] {
        let last = if shown.ends_with('a') { 'b' } else { 'a' };
        let bent = format!("{}{last}", &shown[..shown.len() - 1]);
        assert_eq!(world.try_key(&keys, &bent).await.err(), Some("invalid_key"));
        // The same key with a right checksum needs the database.
        assert_eq!(world.try_key(&keys, &shown).await.err(), Some("storage_unavailable"));
    }
}

async fn what_is_refused_once_is_refused_from_memory_and_tells_nothing(world: World) {
    let keys = Keys::new(None);
    world.try_key(&keys, &world.shown).await.unwrap();
    let (wrong, unknown) = (world.wrong_secret(), unknown_id());
    for shown in [&wrong, &unknown] {
        assert_eq!(world.try_key(&keys, shown).await.err(), Some("invalid_key"));
    }
    world.store.close().await;
    for shown in [&wrong, &unknown] {
        assert_eq!(world.try_key(&keys, shown).await.err(), Some("invalid_key"));
    }
    // The first time, both are looked up, although the right key of one id is cached.
    for shown in [world.wrong_secret(), unknown_id()] {
        assert_eq!(world.try_key(&keys, &shown).await.err(), Some("storage_unavailable"));
    }
    assert!(world.try_key(&keys, &world.shown).await.is_ok());
    for number in 0..3 * MOST_REFUSED as u64 {
        keys.refused.lock().add(key::digest(&number.to_be_bytes()));
    }
    let Refused { newer, older } = &*keys.refused.lock();
    assert!(newer.len() <= MOST_REFUSED && older.len() <= MOST_REFUSED, "it fills no more memory than this");
}

/// How often a sample of the first kind took longer than one of the second, from 0 to 1; 0.5 when nothing tells them
/// apart.
fn longer(first: &[Duration], second: &[Duration]) -> f64 {
    let wins: f64 = first
        .iter()
        .flat_map(|a| {
            second.iter().map(move |b| {
                if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                }
            })
        })
        .sum();
    wins / (first.len() * second.len()) as f64
}

const SAMPLES: usize = 400;

/// Chance alone exceeds this distance from one half once in a million times (the rank statistic is normal, with a
/// deviation of √((2n + 1) / 12 n²)). The rest allows for a database that takes a moment longer over a row that exists.
fn most_by_chance() -> f64 {
    let n = SAMPLES as f64;
    4.9 * ((2.0 * n + 1.0) / (12.0 * n * n)).sqrt() + 0.05
}

async fn the_time_of_a_refusal_does_not_tell_whether_there_is_such_a_key(world: World) {
    let keys = Keys::new(None);
    world.try_key(&keys, &world.shown).await.unwrap();
    let took = async |shown: &str| {
        let start = std::time::Instant::now();
        assert!(world.try_key(&keys, shown).await.is_err());
        start.elapsed()
    };
    let (mut wrong, mut unknown, mut bent) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..SAMPLES {
        let (ours, nobodys) = (world.wrong_secret(), unknown_id());
        // The order alternates, so that noise on this machine affects both kinds alike.
        if round % 2 == 0 {
            wrong.push(took(&ours).await);
            unknown.push(took(&nobodys).await);
        } else {
            unknown.push(took(&nobodys).await);
            wrong.push(took(&ours).await);
        }
        bent.push(took(&nobodys[..nobodys.len() - 1]).await);
    }
    let difference = (longer(&wrong, &unknown) - 0.5).abs();
    assert!(difference < most_by_chance(), "which is which shows with {difference:.3} beside {:.3}", most_by_chance());
    let seen = longer(&unknown, &bent) - 0.5;
    assert!(seen > most_by_chance(), "a look at the database would show: {seen:.3}");
}

async fn last_use(world: &World) -> Option<UnixMillis> {
    world.store.keys(world.tenant.num, None, 10).await.unwrap().items[0].last_used_at
}

async fn uses_are_noted_together_and_survive_what_is_forgotten(world: World) {
    let keys = Keys::new(None);
    keys.note(&world.store).await;
    assert_eq!(last_use(&world).await, None);
    let before = UnixMillis::now_reference();
    world.try_key(&keys, &world.shown).await.unwrap();
    keys.forget_tenant(world.tenant.num);
    keys.note(&world.store).await;
    let first = last_use(&world).await.unwrap();
    assert!(first >= before && first <= UnixMillis::now_reference());
    world.try_key(&keys, &world.shown).await.unwrap();
    keys.note(&world.store).await;
    let second = last_use(&world).await.unwrap();
    assert!(second >= first);
    let earlier = [(world.store.keys(world.tenant.num, None, 10).await.unwrap().items[0].num, before)];
    world.store.note_uses(&earlier).await.unwrap();
    assert_eq!(last_use(&world).await, Some(second), "another node has seen a later use");
}

async fn a_key_that_has_ended_opens_nothing(world: World) {
    let (shown, mut key) = new_tenant_key(world.tenant.num, "short");
    key.expires_at = Some(UnixMillis(key.created_at.0 + 60_000));
    world.store.create_key(key, None, &Author::engine()).await.unwrap();
    let keys = Keys::new(None);
    let access = world.try_key(&keys, &shown).await.unwrap();
    assert_eq!(
        access.enter(UnixMillis(UnixMillis::now_reference().0 + 60_000)).unwrap_err().into_parts().1,
        "key_expired"
    );
    let (shown, mut key) = new_tenant_key(world.tenant.num, "over");
    key.expires_at = Some(key.created_at);
    world.store.create_key(key, None, &Author::engine()).await.unwrap();
    assert_eq!(world.try_key(&keys, &shown).await.err(), Some("key_expired"));
}

async fn right_keys_are_found_among_any_number_of_wrong_ones(world: World) {
    let keys = Keys::new(None);
    world.try_key(&keys, &world.shown).await.unwrap();
    let mut right = vec![world.shown.clone()];
    for number in 0..20 {
        let (shown, key) = new_tenant_key(world.tenant.num, &number.to_string());
        world.store.create_key(key, None, &Author::engine()).await.unwrap();
        right.push(shown);
    }
    let wrong: Vec<String> = (0..2_000).map(|n| if n % 2 == 0 { world.wrong_secret() } else { unknown_id() }).collect();
    // Right keys, one of them used before, stand in the middle and at the end of many wrong ones.
    keys.forget_tenant(world.tenant.num);
    let tried = wrong.chunks(100).zip(right.chunks(1)).flat_map(|(wrong, right)| wrong.iter().chain(right));
    let answers = join_all(tried.map(async |shown| (shown, world.try_key(&keys, shown).await.err()))).await;
    for (shown, refused) in answers {
        assert_eq!(refused, (!right.contains(shown)).then_some("invalid_key"));
    }
}
