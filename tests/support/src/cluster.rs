//! A private PostgreSQL server for the tests of one process: created from the installed programs in its own directory,
//! reached through a socket there, and removed when the process ends, however that happens. Used by the store's tests
//! and by the suite.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Fully durable, because durability is tested, but small. Many tests run at once and each opens several connections.
const SETTINGS: [&str; 10] = [
    "listen_addresses=",
    "max_connections=600",
    "shared_buffers=64MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=256MB",
    "log_min_messages=warning",
    "log_checkpoints=off",
    "track_commit_timestamp=on",
    "unix_socket_permissions=0777",
];

/// Runs the server until the shell's input ends; the kernel closes it when the test process is gone. The shutdown is
/// immediate, because the data is not needed again.
const WATCH: &str = r#"
trap '' INT TERM HUP
dir=$1; bin=$2; prepare=$3; from=$4; shift 4
eval "$prepare" >"$dir/prepare.log" 2>&1 || { echo "it was not prepared: $(cat "$dir/prepare.log")"; exit 1; }
"$bin/postgres" -D "$dir/data" -k "$dir" "$@" >"$dir/server.log" 2>&1 </dev/null &
server=$!
until "$bin/pg_isready" -q -h "$dir" -U posthaste; do
  kill -0 $server 2>/dev/null || { echo "postgres ended: $(cat "$dir/server.log")"; exit 1; }
  sleep 0.05
done
echo ready
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "$dir"
"#;

/// Creates the data directory.
const INIT: &str =
    r#""$bin/initdb" -D "$dir/data" -U posthaste -A trust -E UTF8 --locale=C.UTF-8 --no-instructions --no-sync"#;

/// Creates the data directory of a server that has counted 12,885,101,888 transactions.
#[allow(dead_code, reason = "not every test binary restores a database")]
const INIT_AGED: &str = r#""$bin/initdb" -D "$dir/data" -U posthaste -A trust -E UTF8 --locale=C.UTF-8 --no-instructions --no-sync &&
"$bin/pg_resetwal" -x 200000 -e 3 -D "$dir/data" && head -c 262144 /dev/zero >"$dir/data/pg_xact/0000""#;

/// Copies the server whose socket is in `$from` and makes the copy its standby.
#[allow(dead_code, reason = "not every test binary has a standby")]
const COPY: &str = r#""$bin/pg_basebackup" -D "$dir/data" -h "$from" -U posthaste -c fast --no-sync &&
touch "$dir/data/standby.signal" &&
echo "primary_conninfo = 'host=$from user=posthaste'" >>"$dir/data/postgresql.auto.conf""#;

/// Settings of a server that a standby can follow.
#[allow(dead_code, reason = "not every test binary has a standby")]
const REPLICATED: [&str; 3] = ["wal_level=replica", "max_wal_senders=4", "wal_retrieve_retry_interval=200ms"];

/// A PostgreSQL server. Dropping it ends the server at once.
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    /// The watcher's input, which the end of the process closes.
    _life: ChildStdin,
}

/// A database for one test; dropping it removes the database.
pub struct Database {
    name: String,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(INIT, Path::new("/"), &[]))
}

impl Cluster {
    #[allow(clippy::zombie_processes, reason = "it outlives this process, whose end it waits for")]
    fn start(prepare: &str, from: &Path, settings: &[&str]) -> Self {
        let bin = programs();
        let owner = owner();
        let dir = directory();
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(&dir).arg(&bin).arg(prepare).arg(from);
        watch.args(SETTINGS.iter().chain(settings).flat_map(|setting| ["-c", setting])).current_dir("/");
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&dir, Some(user), Some(group)).expect("root may give a directory away");
            watch.uid(user).gid(group);
        }
        // A process group of its own, so that Ctrl-C ends the tests and only their end ends the server.
        watch.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut watch = watch.spawn().expect("a shell");
        let life = watch.stdin.take().expect("an input");
        let mut said = BufReader::new(watch.stdout.take().expect("an output"));
        let mut first = String::new();
        said.read_line(&mut first).expect("a word");
        if first != "ready\n" {
            said.read_to_string(&mut first).expect("the rest");
            panic!("no PostgreSQL: {first}");
        }
        Self { dir, bin, _life: life }
    }

    /// A server that has counted many transactions and that a standby can follow.
    #[allow(dead_code, reason = "not every test binary has a server of its own")]
    pub fn aged() -> Self {
        Self::start(INIT_AGED, Path::new("/"), &REPLICATED)
    }

    /// A standby of the server whose socket is in this directory. The standby lacks everything that the server no
    /// longer sends.
    #[allow(dead_code, reason = "not every test binary has a standby")]
    pub fn standby_of(socket: &Path) -> Self {
        Self::start(COPY, socket, &REPLICATED)
    }

    /// Promotes a standby to primary.
    #[allow(dead_code, reason = "not every test binary has a standby")]
    pub fn promote(&self) {
        assert_eq!(self.run("SELECT pg_promote(true, 30)").trim(), "t", "the standby was not promoted");
    }

    /// The directory of this server's socket.
    #[allow(dead_code, reason = "not every test binary has a server of its own")]
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    #[allow(dead_code, reason = "not every test binary has a server of its own")]
    pub fn create_database(&self, name: &str) {
        self.run(&format!("CREATE DATABASE {name}"));
    }

    /// A dump of a database by `pg_dump`.
    #[allow(dead_code, reason = "the store's tests look at rows")]
    pub fn dump_of(&self, database: &str) -> Vec<u8> {
        let mut dump = Command::new(self.bin.join("pg_dump"));
        dump.args(["-U", "posthaste", "-d", database, "-h"]).arg(&self.dir);
        let output = dump.output().expect("pg_dump runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn run(&self, sql: &str) -> String {
        self.run_in("postgres", sql)
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "posthaste", "-d", database, "-c", sql]);
        psql.arg("-h").arg(&self.dir);
        psql
    }

    pub fn run_in(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql).output().expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Database {
    /// Creates an empty database.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        cluster().run(&format!("CREATE DATABASE {name}"));
        Self { name }
    }

    /// Allows or forbids connections from now on; forbidding also ends the existing ones.
    #[allow(dead_code, reason = "not every test binary has an outage")]
    pub fn open_for_all(&self, open: bool) {
        let name = &self.name;
        cluster().run(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {open}"));
        if !open {
            let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname =";
            cluster().run(&format!("{all} '{name}'"));
        }
    }

    #[allow(dead_code, reason = "not every test binary has a pooler")]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the server's socket, as a host to connect to.
    #[allow(dead_code, reason = "not every test binary has a pooler")]
    pub fn host(&self) -> &'static Path {
        &cluster().dir
    }

    /// Runs SQL; returns what `psql` prints, a line for each row.
    #[allow(dead_code, reason = "the store's tests have connections of their own")]
    pub fn ask(&self, sql: &str) -> String {
        cluster().run_in(&self.name, sql)
    }

    /// Starts running SQL and does not wait for the result.
    #[allow(dead_code, reason = "not every test binary keeps the server busy")]
    pub fn begin(&self, sql: &str) -> Child {
        cluster().psql(&self.name, sql).stdout(Stdio::null()).spawn().expect("psql runs")
    }

    /// A dump of this database by `pg_dump`.
    #[allow(dead_code, reason = "the store's tests look at rows")]
    pub fn dump(&self) -> Vec<u8> {
        cluster().dump_of(&self.name)
    }

    /// Restores a dump into this database, which must be empty.
    #[allow(dead_code, reason = "not every test binary restores a database")]
    pub fn restore(&self, dump: &[u8]) {
        let mut psql = cluster().psql(&self.name, "SELECT 1");
        psql.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut psql = psql.spawn().expect("psql runs");
        psql.stdin.take().expect("an input").write_all(dump).expect("psql reads");
        assert!(psql.wait().expect("psql ends").success(), "the dump was not restored");
    }

    pub fn url(&self) -> String {
        self.url_at(Self::socket())
    }

    /// The URL of this database through a socket in another directory.
    pub fn url_at(&self, dir: &Path) -> String {
        format!("postgres://posthaste@localhost/{}?host={}", self.name, dir.display())
    }

    /// The directory of the server's socket.
    pub fn socket() -> &'static Path {
        &cluster().dir
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        cluster().run(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// The directory of the newest installed PostgreSQL programs.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(version.map(|version| (version, entry.path().join("bin"))));
    }
    found.sort();
    let (_, bin) = found.pop().expect("PostgreSQL in /usr/lib/postgresql; scripts/test installs it");
    bin
}

/// The user to run as, if the tests run as root: PostgreSQL and PgBouncer refuse to run as root.
pub fn owner() -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").expect("users");
    let ids = |name: &str| {
        let line = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let status = fs::read_to_string("/proc/self/status").expect("this process");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()).expect("a user");
    if uid == "0" { ids("postgres").or_else(|| ids("nobody")) } else { None }
}

/// A new directory, in memory where possible: on disk, tests would mostly wait for the disk.
fn directory() -> PathBuf {
    let place =
        Some(Path::new("/dev/shm")).filter(|place| place.is_dir()).map_or_else(std::env::temp_dir, Path::to_owned);
    tempfile::Builder::new().prefix("posthaste-pg-").tempdir_in(place).expect("a directory").keep()
}
