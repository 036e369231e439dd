//! Writes directly into a database, to create rows that the API would refuse, such as rows older than its rules.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::databases::On;
use crate::support::world::World;

/// A Python script that reads the rows to write from its input.
const SQLITE: &str = "
import json, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as database:
    for name, url in json.load(sys.stdin):
        assert database.execute('UPDATE webhook SET url = ? WHERE name = ?', (url, name)).rowcount == 1, name
";

/// Replaces the URLs of webhooks, found by name, with unchecked ones. The server must have ended.
pub(crate) fn rewrite_urls<'a>(world: &World, urls: impl Iterator<Item = (&'a str, &'a str)>) {
    match On::this_test() {
        On::Sqlite => in_sqlite(world, &urls.collect::<Vec<_>>()),
        On::Postgres => {
            let update = |(name, url): (&str, &str)| {
                assert!(!url.contains('$') && !name.contains('\''), "no quoting for {url:?} and {name}");
                format!("UPDATE webhook SET url = $${url}$$ WHERE name = '{name}';")
            };
            world.database().ask(&urls.map(update).collect::<String>());
        }
    }
}

/// Runs a statement that must change a row. The server must have ended.
pub(crate) fn tamper(world: &World, sql: &str) {
    match On::this_test() {
        On::Sqlite => {
            let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as database:\n    assert database.execute(sys.argv[2]).rowcount > 0";
            let mut python = Command::new("python3");
            let ended = python.args(["-c", script]).arg(world.dir().join("p.db")).arg(sql).status();
            assert!(ended.expect("python3 runs").success(), "nothing was changed: {sql}");
        }
        On::Postgres => {
            let changed = world.database().ask(&format!("{sql} RETURNING 1"));
            assert!(!changed.trim().is_empty(), "nothing was changed: {sql}");
        }
    }
}

fn in_sqlite(world: &World, urls: &[(&str, &str)]) {
    let mut python = Command::new("python3")
        .args(["-c", SQLITE])
        .arg(world.dir().join("p.db"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let written = python.stdin.take().expect("an input").write_all(json!(urls).to_string().as_bytes());
    assert!(python.wait().expect("python3 ends").success() && written.is_ok(), "the rows were not written");
}
