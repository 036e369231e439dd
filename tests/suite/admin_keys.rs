//! Admin keys and sessions: listed, created with an expiry, and revoked, over the API and on the command line.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::server::{self, Env};
use crate::support::world::{World, new_key, new_session, text};

/// Restarts the world without a configured admin key; returns a client with the key that the first start printed.
async fn without_configured_key(world: &mut World) -> Client {
    world.stop().await;
    world.env().remove("POSTHASTE_ADMIN_KEY");
    world.restart().await;
    let printed = world.server().output().stdout();
    let key = printed.lines().find_map(|line| line.strip_prefix("admin key, shown only now: ")).expect("a key");
    world.anyone().with_key(key)
}

async fn keys(world: &mut World, args: &[&str]) -> (bool, String) {
    let env: Env = world.env().clone();
    let (status, output) = server::run(world.dir(), &[&["keys", "admin"], args].concat(), &env).await;
    (status.success(), output.all())
}

fn named<'l>(list: &'l [Value], name: &str) -> &'l Value {
    list.iter().find(|key| key["name"] == name).unwrap_or_else(|| panic!("no {name}: {list:?}"))
}

on_both!(an_admin_key_is_listed_opens_everything_and_is_revoked_with_its_sessions);
async fn an_admin_key_is_listed_opens_everything_and_is_revoked_with_its_sessions() {
    let world = World::start().await;
    let admin = world.admin();
    let made = admin.post("/admin-keys", &json!({"name": "on-call"})).await.expect(201);
    let (id, key) = (text(&made, "id"), world.anyone().with_key(&text(&made, "key")));
    key.get("/tenants").await.expect(200);
    let cookie = key.act("/session").await;
    let cookie = cookie.header("set-cookie").expect("a cookie").split(';').next().unwrap().to_owned();
    let browser = || world.anyone().call(Method::GET, "/tenants").header("Cookie", &cookie);
    send(browser()).await.expect(200);
    world.client().get("/admin-keys").await.problem(403);

    let listed = admin.walk("/admin-keys").await;
    assert_eq!(named(&listed, "on-call")["source"], "database");
    assert!(!Value::from(listed.clone()).to_string().contains(&text(&made, "key")));
    assert_eq!(listed.last().unwrap()["source"], "configuration");
    assert_eq!(admin.pages("/admin-keys", 1).await.concat().len(), listed.len());

    assert_eq!(admin.delete(&format!("/admin-keys/{id}")).await.status, 204);
    assert_eq!(key.get("/tenants").await.problem(401).code(), "invalid_key");
    send(browser()).await.problem(401);
    admin.delete(&format!("/admin-keys/{id}")).await.problem(404);
    let audit = admin.walk(&format!("/audit?subject={id}")).await;
    let actions: Vec<&str> = audit.iter().filter_map(|entry| entry["action"].as_str()).collect();
    assert_eq!(actions, ["key.delete", "key.create"]);
}

#[tokio::test]
async fn the_key_of_the_configuration_is_not_revoked_here() {
    let world = World::start().await;
    let refused = world.admin().delete("/admin-keys/configuration").await;
    assert_eq!(refused.problem(409).code(), "configured_key");
    assert!(refused.problem(409).detail().contains("POSTHASTE_ADMIN_KEY"));
}

on_both!(the_last_admin_key_stays);
async fn the_last_admin_key_stays() {
    let mut world = World::start().await;
    let first = without_configured_key(&mut world).await;
    let id = text(named(&first.walk("/admin-keys").await, "first admin key"), "id");
    let path = format!("/admin-keys/{id}");
    assert_eq!(first.delete(&path).await.problem(409).code(), "last_admin_key");
    first.delete("/admin-keys/configuration").await.problem(404);

    let made = first.post("/admin-keys", &json!({"name": "second"})).await.expect(201);
    let second = world.anyone().with_key(&text(&made, "key"));
    assert_eq!(first.delete(&path).await.status, 204);
    first.get("/tenants").await.problem(401);
    second.get("/tenants").await.expect(200);
}

on_both!(admin_keys_are_made_listed_and_revoked_on_the_command_line);
async fn admin_keys_are_made_listed_and_revoked_on_the_command_line() {
    let mut world = World::start().await;
    // With SQLite the command asks the server that has the file open; with PostgreSQL it works on the database.
    let (ok, said) = keys(&mut world, &["create", "--name", "spare"]).await;
    assert!(ok, "{said}");
    let key = said.lines().find_map(|line| line.strip_prefix("admin key, shown only now: ")).expect("a key").to_owned();
    let id = said.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
    let spare = world.anyone().with_key(&key);
    spare.get("/tenants").await.expect(200);
    let (ok, said) = keys(&mut world, &["list"]).await;
    assert!(ok && said.contains(&id) && said.contains("spare") && !said.contains(&key), "{said}");
    assert!(said.contains("configuration"), "{said}");

    let (ok, said) = keys(&mut world, &["revoke", &id]).await;

    assert!(ok, "{said}");
    let is_refused = async || (spare.get("/tenants").await.status == 401).then_some(());
    fact::until("the server refuses the revoked key", is_refused).await;
    let (ok, said) = keys(&mut world, &["revoke", &id]).await;
    assert!(!ok && said.contains("key"), "{said}");
    world.stop().await;
    let (ok, said) =
        keys(&mut world, &["create", "--name", "while stopped", "--expires-at", "2100-01-01T00:00:00Z"]).await;
    assert!(ok && said.contains("phk_"), "{said}");
    world.restart().await;
    assert_eq!(
        named(&world.admin().walk("/admin-keys").await, "while stopped")["expiresAt"],
        "2100-01-01T00:00:00.000Z"
    );
}

#[tokio::test]
async fn a_command_that_cannot_reach_the_server_says_how_to_name_it() {
    let mut world = World::start().await;
    let (ok, said) = keys(&mut world, &["list", "--server", "http://127.0.0.1:9"]).await;
    assert!(!ok && said.contains("http://127.0.0.1:9") && said.contains("refused"), "{said}");
    assert!(said.contains("--server") && said.contains("POSTHASTE_LISTEN"), "{said}");
}

on_both!(sessions_are_shown_with_their_key_and_ended_by_id);
async fn sessions_are_shown_with_their_key_and_ended_by_id() {
    let world = World::start().await;
    let theirs = world.another_tenant().await;
    let theirs_session = new_session(&theirs.client).await;
    let admins = new_session(&world.admin()).await;
    let made = new_key(&world.admin(), &world.tenant.id, &["read"]).await;
    let opened = world.anyone().with_key(&text(&made, "key")).act("/session").await;
    let id = text(&opened.expect(201), "id");
    let cookie = opened.header("set-cookie").expect("a cookie").split(';').next().unwrap().to_owned();
    let browser = async || send(world.anyone().call(Method::GET, "/webhooks").header("Cookie", &cookie)).await;
    browser().await.expect(200);

    let ours = world.client().walk("/sessions").await;
    assert_eq!((ours.len(), &ours[0]["id"], &ours[0]["keyId"]), (1, &json!(id), &made["id"]));
    assert_eq!((&ours[0]["keyName"], &ours[0]["scopes"]), (&made["name"], &json!(["read"])));
    let all = world.admin().walk("/sessions").await;
    let of = |id: &str| all.iter().find(|session| session["id"] == id).unwrap_or_else(|| panic!("no {id}: {all:?}"));
    assert_eq!(of(&theirs_session)["tenantId"], theirs.id.as_str());
    assert_eq!((&of(&admins)["tenantId"], &of(&admins)["keyId"]), (&Value::Null, &Value::Null));
    world.caller(&["read", "publish", "operate"]).await.get("/sessions").await.problem(403);
    for foreign in [&theirs_session, &admins] {
        world.client().delete(&format!("/sessions/{foreign}")).await.problem(404);
    }

    assert_eq!(world.client().delete(&format!("/sessions/{id}")).await.status, 204);
    browser().await.problem(401);
    assert!(world.client().walk("/sessions").await.is_empty());
    assert_eq!(world.client().walk(&format!("/audit?action=session.end&subject={id}")).await.len(), 1);
    assert_eq!(world.admin().delete(&format!("/sessions/{admins}")).await.status, 204);
}
