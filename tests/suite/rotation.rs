//! Rotation of secrets while they are used: signing secrets under load (F24), and the master key that seals them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::databases::{self, On, on_both};
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::server::{self, Env};
use crate::support::verify;
use crate::support::world::World;

/// How long secrets are rotated, unless a variable says otherwise.
const SECONDS: u64 = 5;

/// On a busy machine a request may be under way for this long after it was signed.
const UNDER_WAY: Duration = Duration::from_secs(10);

fn seconds() -> u64 {
    let given = std::env::var("POSTHASTE_ROTATION_SECONDS");
    given.map_or(SECONDS, |text| text.parse().expect("POSTHASTE_ROTATION_SECONDS is a number"))
}

/// A secret became the current one between these two moments.
type Began = (Instant, Instant);

/// Rotates under load. `start` is a moment before the first secret was used.
async fn rotated(world: &World, hook: &Hook, grace: u32, start: Instant) -> Vec<Began> {
    let mut began = vec![(start, start)];
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..seconds() {
        tick.tick().await;
        let before = Instant::now();
        hook.rotate_secret(world.client(), grace).await;
        began.push((before, Instant::now()));
    }
    began
}

on_both!(while_a_secret_is_rotated_every_second_each_request_verifies_with_the_old_or_the_new_one);
async fn while_a_secret_is_rotated_every_second_each_request_verifies_with_the_old_or_the_new_one() {
    let world = World::start().await;
    let start = Instant::now();
    let without_grace = world.hook(Receiver::ok(), json!({})).await;
    let with_grace = world.hook(Receiver::ok(), json!({})).await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let publish = async {
        let mut published = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            world.publish("message.sent").await;
            published += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        published
    };
    let rotate = async {
        let both = tokio::join!(rotated(&world, &without_grace, 0, start), rotated(&world, &with_grace, 2, start));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        both
    };
    let (published, (began, began_with_grace)) = tokio::join!(publish, rotate);

    for (hook, began, grace) in [(&without_grace, began, 0), (&with_grace, began_with_grace, 2)] {
        // `saw` verifies that each request is signed with some secret of the webhook.
        let requests = hook.saw(published).await;
        let secrets = hook.secrets();
        for request in &requests {
            let signers = verify::plain_signers(
                request.header("x-webhook-signature"),
                &request.body,
                &secrets,
                verify::Format::Hex,
            )
            .unwrap();
            if grace == 0 {
                assert_eq!(signers.len(), 1, "only the current one signs: {signers:?}");
            }
            for signer in signers {
                let generation = secrets.len() - 1 - signer;
                assert!(request.arrived >= began[generation].0, "a secret signed before it was created");
                let ended = began.get(generation + 1).map(|(_, after)| *after + Duration::from_secs(grace) + UNDER_WAY);
                assert!(ended.is_none_or(|ended| request.arrived <= ended), "a secret signed long after its end");
            }
        }
        println!("{} requests, {} secrets, grace {grace} s", requests.len(), secrets.len());
    }
}

const NEXT_KEY: &str = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";

/// Makes `NEXT_KEY` the master key of the next start; `keep` keeps the old one as a previous key.
fn change_key(world: &mut World, keep: bool) {
    match On::this_test() {
        On::Sqlite => {
            let path = world.dir().join("p.db.key");
            let old = std::fs::read_to_string(&path).unwrap();
            let old = old.lines().last().unwrap().to_owned();
            std::fs::write(&path, if keep { format!("{NEXT_KEY}\n{old}\n") } else { NEXT_KEY.to_owned() }).unwrap();
        }
        On::Postgres => {
            world.env().insert("POSTHASTE_MASTER_KEY", NEXT_KEY.to_owned());
            match keep {
                true => world.env().insert("POSTHASTE_PREVIOUS_MASTER_KEYS", databases::MASTER_KEY.to_owned()),
                false => world.env().remove("POSTHASTE_PREVIOUS_MASTER_KEYS"),
            };
        }
    }
}

async fn keys(world: &mut World, command: &str) -> (bool, String) {
    let env: Env = world.env().clone();
    let (status, output) = server::run(world.dir(), &["keys", command], &env).await;
    (status.success(), output.all())
}

on_both!(a_master_key_is_replaced_beside_a_running_server);
async fn a_master_key_is_replaced_beside_a_running_server() {
    let mut world = World::start().await;
    let hook = world.hook(Receiver::ok(), json!({"headers": {"X-Team": "billing"}})).await;
    hook.rotate_secret(world.client(), 3_600).await;
    world.stop().await;
    change_key(&mut world, true);
    world.restart().await;
    let (ok, status) = keys(&mut world, "status").await;
    assert!(ok && status.contains("to be sealed anew: 3"), "{status}");
    world.publish("message.sent").await;

    let (ok, rotated) = keys(&mut world, "rotate").await;

    assert!(ok && rotated.contains("sealed anew: 3") && rotated.contains("to be sealed anew: 0"), "{rotated}");
    world.publish("message.sent").await;
    world.stop().await;
    change_key(&mut world, false);
    world.restart().await;
    let (ok, status) = keys(&mut world, "status").await;
    assert!(ok && status.contains("to be sealed anew: 0") && !status.contains("was the master key"), "{status}");
    world.publish("message.sent").await;
    let requests = hook.saw(3).await;
    assert!(requests.iter().all(|request| request.header("x-team") == "billing"));
    let entries = world.admin().walk("/audit?action=secrets.rewrap").await;
    let author = if On::this_test() == On::Sqlite { "admin" } else { "command" };
    assert_eq!((entries.len(), &entries[0]["author"]), (1, &json!(author)));
    assert!(!entries[0].to_string().contains(NEXT_KEY));
}
