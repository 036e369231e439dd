//! Errors of a start that fails: they name the setting, the value and what is accepted. Also the permissions of the
//! files that a server creates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::server::{self, Env, Server};
use crate::support::world::{ADMIN_KEY, World, sober_env};

/// For each setting a wrong value and the accepted values that the error names. Errors do not repeat secrets.
const WRONG: &[(&str, &str, &str)] = &[
    ("POSTHASTE_DATABASE_URL", "mysql://x/y", "sqlite://path or postgres://user@host/database"),
    ("POSTHASTE_DATABASE_CONNECTIONS", "5", "6 to 200"),
    ("POSTHASTE_DATABASE_CONNECTIONS", "many", "6 to 200"),
    ("POSTHASTE_DATABASE_LISTEN_URL", "https://hush-hush@db/x", "postgres://user@host/database"),
    ("POSTHASTE_DATABASE_POLL_ONLY", "perhaps", "true or false"),
    ("POSTHASTE_ADVERTISE_URL", "here", "a URL such as http://10.0.0.5:8080"),
    ("POSTHASTE_LEASE_MS", "999", "1000 to 60000"),
    ("POSTHASTE_LEASE_MS", "15s", "1000 to 60000"),
    ("POSTHASTE_FORCE_UNSAFE_DATABASE", "1", "true or false"),
    ("POSTHASTE_MIGRATE", "on", "true or false"),
    ("POSTHASTE_LISTEN", "localhost", "an address and a port such as 127.0.0.1:8080"),
    ("POSTHASTE_METRICS_LISTEN", "9090", "an address and a port such as 127.0.0.1:9090"),
    ("POSTHASTE_ADMIN_KEY", "hush-hush", "at least 32 characters"),
    ("POSTHASTE_ADMIN_KEY", "hush-hush-hush-hush-hush-hush-hush-hush ", "none at either end a space"),
    ("POSTHASTE_ADMIN_KEY", "hush-hush-hush-hush-hush-hush-hush-hüsh", "printable ASCII"),
    ("POSTHASTE_ADMIN_KEY_FILE", "/nowhere/key", "a file with an admin key"),
    ("POSTHASTE_MASTER_KEY", "hush-hush", "32 bytes in base64"),
    ("POSTHASTE_MASTER_KEY_FILE", "/nowhere/key", "a file with a key of 32 bytes in base64 on each line"),
    ("POSTHASTE_PREVIOUS_MASTER_KEYS", "hush-hush", "keys of 32 bytes in base64, separated by commas"),
    ("POSTHASTE_ALLOW_HTTP", "yes", "true or false"),
    ("POSTHASTE_EGRESS_ALLOW", "10.0.0.0/99", "networks in CIDR notation"),
    ("POSTHASTE_EGRESS_ALLOW", "10.1.2.3/8", "expected 10.0.0.0/8"),
    ("POSTHASTE_EGRESS_ALLOW", "::ffff:10.0.0.0/104", "IPv4 ones in their own notation"),
    ("POSTHASTE_DNS_SERVERS", "dns.example.com", "addresses such as 10.0.0.53:53"),
    ("POSTHASTE_ENDPOINT_THREADS", "0", "1 to 256"),
    ("POSTHASTE_MAX_IN_FLIGHT", "8193", "2 to 8192"),
    ("POSTHASTE_PAYLOAD_MEMORY_BYTES", "64MiB", "67108864 or more"),
    ("POSTHASTE_STOP_GRACE_MS", "-1", "0 to 86400000"),
    ("POSTHASTE_STOP_GRACE_MS", "99999999999999999999", "0 to 86400000"),
    ("POSTHASTE_STOP_DELAY_MS", "soon", "0 to 86400000"),
    ("POSTHASTE_STOP_DELAY_MS", "86400001", "0 to 86400000"),
    ("POSTHASTE_BODY_LIMIT_BYTES", "1", "1024 to 67108864"),
    ("POSTHASTE_MAX_CONNECTIONS", "7", "8 to 1000000"),
    ("POSTHASTE_CORS_ORIGINS", "*", "origins as browsers write them"),
    ("POSTHASTE_KEY_REQUESTS_PER_SECOND", "1000001", "0, which is no limit, to 1000000"),
    ("POSTHASTE_KEY_REQUESTS_BURST", "none", "1 to 1000000"),
    ("POSTHASTE_TENANT_REQUESTS_PER_SECOND", "-3", "0, which is no limit, to 1000000"),
    ("POSTHASTE_TENANT_REQUESTS_BURST", "x", "1 to 1000000"),
    ("POSTHASTE_RETENTION_EVENTS", "soon", "off, or a whole number of seconds, minutes, hours or days"),
    ("POSTHASTE_RETENTION_RESPONSES", "3651d", "10s to 3650d"),
    ("POSTHASTE_RETENTION_AUDIT", "9s", "10s to 3650d"),
    ("POSTHASTE_LOG", "a=b=c", "a tracing filter such as info or posthaste=debug"),
    ("POSTHASTE_LOG", "warning", "off, error, warn, info, debug, trace"),
];

/// Settings that `https` tests.
const ELSEWHERE: [&str; 2] = ["POSTHASTE_TLS_CERT_FILE", "POSTHASTE_TLS_KEY_FILE"];

fn env_in(dir: &Path, settings: &[(&'static str, &str)]) -> Env {
    let mut env = sober_env(dir);
    env.extend(settings.iter().map(|(key, value)| (*key, (*value).to_owned())));
    env
}

async fn run(dir: &Path, args: &[&str], settings: &[(&'static str, &str)]) -> (Option<i32>, String) {
    let (status, output) = server::run(dir, args, &env_in(dir, settings)).await;
    let said = output.all();
    assert!(!said.contains("panicked"), "{said}");
    (status.code(), said)
}

#[tokio::test]
async fn each_setting_says_its_names_its_value_and_what_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    for (variable, value, accepted) in WRONG {
        let mut settings = vec![(*variable, *value)];
        if variable.ends_with("_FILE") && variable.contains("ADMIN") {
            settings.push(("POSTHASTE_ADMIN_KEY", ""));
        }
        let mut env = env_in(dir.path(), &settings);
        if settings.len() > 1 {
            env.remove("POSTHASTE_ADMIN_KEY");
        }
        let (status, output) = server::run(dir.path(), &["serve"], &env).await;
        let said = output.all();
        assert_eq!(status.code(), Some(2), "{variable}={value}: {said}");
        let key = variable.trim_start_matches("POSTHASTE_").to_lowercase();
        for part in [*variable, &format!("{key} in the file"), accepted] {
            assert!(said.contains(part), "{variable}={value}: no {part:?} in {said}");
        }
        let is_secret = value.contains("hush") || *variable == "POSTHASTE_DATABASE_URL";
        assert_eq!(said.contains(&format!("`{value}`")), !is_secret, "{variable}={value}: {said}");
        assert!(!said.contains("hush"), "{said}");
    }
}

#[tokio::test]
async fn the_table_of_wrong_values_knows_every_setting() {
    let dir = tempfile::tempdir().unwrap();
    let (_, said) = run(dir.path(), &["serve"], &[("POSTHASTE_NONSENSE", "1")]).await;
    let (_, known) = said.split_once("known are ").expect("a list");
    for variable in known.split(',').map(str::trim) {
        let is_here = WRONG.iter().any(|(of, _, _)| *of == variable) || ELSEWHERE.contains(&variable);
        assert!(is_here, "add a wrong value of {variable} here");
    }
}

#[tokio::test]
async fn a_secret_is_not_taken_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, variable) in [
        ("--admin-key", "POSTHASTE_ADMIN_KEY"),
        ("--master-key", "POSTHASTE_MASTER_KEY"),
        ("--previous-master-keys", "POSTHASTE_PREVIOUS_MASTER_KEYS"),
    ] {
        for command in [&["serve"] as &[&str], &["check"], &["keys", "status"]] {
            let argument = format!("{flag}={ADMIN_KEY}");
            let (code, said) = run(dir.path(), &[command, &[argument.as_str()]].concat(), &[]).await;
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(flag) && said.contains(variable) && said.contains("-file"), "{said}");
            assert!(!said.contains(ADMIN_KEY), "{said}");
        }
    }
    let url = "postgres://me:hush-hush@127.0.0.1:9/x";
    let (_, said) = run(dir.path(), &["check", "--database-url", url], &[]).await;
    assert!(said.contains("--database-url holds a password") && said.contains("PGPASSFILE"), "{said}");
    assert!(!said.contains("hush"), "{said}");
}

#[tokio::test]
async fn an_admin_key_is_taken_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("admin"), format!("{ADMIN_KEY}\n")).unwrap();
    let mut env = sober_env(dir.path());
    env.remove("POSTHASTE_ADMIN_KEY");
    let server = Server::start(dir.path(), &["--admin-key-file", "admin"], &env).await;
    crate::support::client::Client::open(server.url()).with_key(ADMIN_KEY).get("/tenants").await.expect(200);
}

#[tokio::test]
async fn a_settings_file_with_a_mistake_is_told_by_line_and_never_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    for (text, part) in [
        ("listen = '127.0.0.1:0'\nadmin_key = hush-hush\n", "line 2, column"),
        ("admin_key = \"hush-hush\n", "(in `admin_key`)"),
        ("\nmax_in_flight = 'lots'\n", "p.toml: line 2: POSTHASTE_MAX_IN_FLIGHT"),
        ("\nlease_ms = 5\n", "p.toml: line 2: POSTHASTE_LEASE_MS"),
        ("stop_grace_ms = 1.5\n", "expected a whole number"),
        ("POSTHASTE_LEASE_MS = 15000\n", "expected `lease_ms`"),
        ("allow_http = true\nallow_http = true\n", "a setting is there for the second time"),
        ("dns_servers = ['10.0.0.53', 'dns.example']\n", "POSTHASTE_DNS_SERVERS"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, said) = run(dir.path(), &["serve", "--config", "p.toml"], &[]).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part) && !said.contains("hush"), "{text:?}: {said}");
    }
    let (code, said) = run(dir.path(), &["serve", "--config", "missing.toml"], &[]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("POSTHASTE_CONFIG (--config): `missing.toml` cannot be read"), "{said}");
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_told_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("text.db"), "this is no database at all, it is a text").unwrap();
    for (url, code, parts) in [
        ("sqlite://no/such/x.db", 2, ["POSTHASTE_DATABASE_URL", "there is no directory `no/such`"]),
        ("sqlite://folder", 2, ["POSTHASTE_DATABASE_URL", "folder"]),
        ("sqlite://text.db", 1, ["text.db is damaged, or no SQLite database", "restore"]),
        ("postgres://me@127.0.0.1:9/x", 1, ["PostgreSQL at 127.0.0.1, port 9", "connection refused"]),
    ] {
        let settings =
            [("POSTHASTE_DATABASE_URL", url), ("POSTHASTE_MASTER_KEY", crate::support::databases::MASTER_KEY)];
        let (found, said) = run(dir.path(), &["serve"], &settings).await;
        assert_eq!(found, Some(code), "{url}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{url}: {said}");
        assert!(!said.contains(".lock") && !said.contains("pool"), "{said}");
    }
    let (code, said) = run(dir.path(), &["check", "--database-url", "sqlite://missing.db"], &[]).await;
    assert!(code == Some(2) && said.contains("there is no such file"), "{said}");
}

#[tokio::test]
async fn a_damaged_database_is_named_with_what_to_do() {
    let mut world = World::start().await;
    world.stop().await;
    let file = world.dir().join("p.db");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100..].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let env = world.env().clone();
    let (status, output) = server::run(world.dir(), &["serve"], &env).await;
    let said = output.all();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("p.db is damaged") && said.contains("restore"), "{said}");
}

#[tokio::test]
async fn a_check_needs_no_key() {
    let mut world = World::start().await;
    world.stop().await;
    fs::remove_file(world.dir().join("p.db.key")).unwrap();
    let env = world.env().clone();
    let (status, output) = server::run(world.dir(), &["check"], &env).await;
    assert!(status.success() && output.all().contains("integrity: ok"), "{}", output.all());
    assert!(!world.dir().join("p.db.key").exists());
}

#[tokio::test]
async fn nothing_is_emptied_by_undoing_too_many_migrations() {
    let mut world = World::start().await;
    world.stop().await;
    let env = world.env().clone();
    let down = async |args: &[&str]| {
        let (status, output) = server::run(world.dir(), &[&["migrate", "down"], args].concat(), &env).await;
        (status.code(), output.all())
    };
    let (code, said) = down(&["--steps", "100"]).await;
    assert!(code == Some(2) && said.contains("--steps: `100`") && said.contains("--yes"), "{said}");
    let (code, said) = down(&["--steps", "1"]).await;
    assert!(code == Some(0) && said.contains("undid 1 migration\n"), "{said}");
    let (code, said) = down(&["--steps", "100", "--yes"]).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn the_usage_of_a_command_does_not_ask_for_settings_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    for (command, usage) in [
        (["migrate", "down"].as_slice(), "Usage: posthaste migrate down [OPTIONS] --steps <STEPS>"),
        (["keys", "admin", "create"].as_slice(), "Usage: posthaste keys admin create [OPTIONS] --name <NAME>"),
        (["keys", "admin", "revoke"].as_slice(), "Usage: posthaste keys admin revoke [OPTIONS] <ID>"),
    ] {
        let (code, said) = run(dir.path(), command, &[]).await;
        assert!(code == Some(2) && said.contains(usage), "{said}");
        assert!(!said.contains("--egress-allow"), "{said}");
    }
}

#[tokio::test]
async fn an_unknown_variable_is_an_error_of_every_command_that_has_settings() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["serve", "demo", "bench", "check"] {
        let (code, said) = run(dir.path(), &[command], &[("POSTHASTE_NONSENSE", "1")]).await;
        assert!(code == Some(2) && said.contains("POSTHASTE_NONSENSE: unknown setting"), "{command}: {said}");
    }
}

#[tokio::test]
async fn nobody_else_can_read_the_files_of_a_database() {
    let world = World::start().await;
    world.publish("message.sent").await;
    let mut seen = 0;
    for entry in fs::read_dir(world.dir()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("p.db") {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 5, "database, log, index, key and lock");
}

#[tokio::test]
async fn a_database_that_others_can_read_is_told_about() {
    let mut world = World::start().await;
    world.stop().await;
    let file = world.dir().join("p.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    world.restart().await;
    let said = world.server().output().all();
    assert!(said.contains("can be read by other users") && said.contains("chmod 600"), "{said}");
}
