//! The program as a process: started with environment variables, ended by signals, judged by its exit code and output.
//! This module knows nothing of the API.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::contract;
use crate::support::fact;

pub(crate) type Env = BTreeMap<&'static str, String>;

/// In an environment, names another program to run instead of the tested one.
pub(crate) const BINARY: &str = "TEST_BINARY";

/// Time limit for a command that does its work and ends.
const COMMAND: Duration = Duration::from_secs(240);

/// Time limit for a graceful stop: the grace for requests in flight, with room for a busy machine.
const EXIT: Duration = Duration::from_secs(45);

pub(crate) struct Server {
    child: Child,
    output: Output,
    url: String,
}

/// What a process wrote, in files that outlive it.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Output {
    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub(crate) fn all(&self) -> String {
        format!("{}\n{}", self.stdout(), self.stderr())
    }
}

/// Spawns the program with `args`, in `dir`, with only `env` as its environment.
fn spawn(dir: &Path, args: &[&str], env: &Env) -> (Child, Output) {
    let program = env.get(BINARY).map_or(env!("CARGO_BIN_EXE_posthaste"), String::as_str);
    spawn_as(Command::new(program), dir, args, env)
}

fn spawn_as(mut command: Command, dir: &Path, args: &[&str], env: &Env) -> (Child, Output) {
    let log = tempfile::Builder::new().prefix("output-").tempdir_in(dir).expect("a directory for output").keep();
    let output = Output { stdout: log.join("stdout"), stderr: log.join("stderr") };
    let child = command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_BACKTRACE", "1")
        .env("PGAPPNAME", name())
        .envs(env)
        .stdin(Stdio::null())
        .stdout(File::create(&output.stdout).expect("a file"))
        .stderr(File::create(&output.stderr).expect("a file"))
        .spawn()
        .expect("the program starts");
    (child, output)
}

/// The application name by which PostgreSQL tells connections of different tests apart.
fn name() -> String {
    static STARTED: AtomicUsize = AtomicUsize::new(1);
    format!("process {}", STARTED.fetch_add(1, Ordering::Relaxed))
}

/// Runs the program to its end.
pub(crate) async fn run(dir: &Path, args: &[&str], env: &Env) -> (ExitStatus, Output) {
    let (child, output) = spawn(dir, args, env);
    let mut server = Server { child, output, url: String::new() };
    // A benchmark waits for hundreds of commits, which take long on a busy disk.
    let status = server.ended_within(COMMAND).await;
    (status, server.output.clone())
}

impl Server {
    /// Starts `posthaste serve` with additional `args` and waits until the server prints its address.
    pub(crate) async fn start(dir: &Path, args: &[&str], env: &Env) -> Self {
        let server = Self::listens(spawn(dir, &[&["serve"], args].concat(), env)).await;
        contract::note(&server.url, env.contains_key(BINARY));
        server
    }

    /// The same with a limit of `files` open files and sockets.
    pub(crate) async fn start_with_files(dir: &Path, env: &Env, files: u32) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_posthaste")]);
        Self::listens(spawn_as(shell, dir, &["serve"], env)).await
    }

    /// Starts another program and waits until it prints its address as `posthaste serve` does.
    pub(crate) async fn start_other(command: Command, dir: &Path, args: &[&str], env: &Env) -> Self {
        Self::listens(spawn_as(command, dir, args, env)).await
    }

    async fn listens((child, output): (Child, Output)) -> Self {
        let mut server = Self { child, output, url: String::new() };
        server.url = fact::until("the server prints its address", async || server.listening()).await;
        server
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory_of(self.child.id(), "VmRSS:")
    }

    /// Asserts that memory grew by at most `bytes` since it was `before`.
    pub(crate) fn has_grown_by_at_most(&self, bytes: u64, before: u64) {
        let grown = self.memory().saturating_sub(before);
        assert!(grown <= bytes, "{} MiB more", grown >> 20);
    }

    /// Peak resident memory in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        memory_of(self.child.id(), "VmHWM:")
    }

    fn listening(&mut self) -> Option<String> {
        let out = self.output.stdout();
        let url = out.lines().find_map(|line| line.strip_prefix("listening on "));
        if url.is_none()
            && let Some(status) = self.child.try_wait().expect("a child")
        {
            panic!("the server ended with {status} before it listened: {}", self.output.all());
        }
        url.map(|url| url.trim_end().trim_end_matches('/').to_owned())
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Whether the process runs; a zombie does not.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Asks the process to stop (SIGTERM), without waiting.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Freezes the process (SIGSTOP) until [`Self::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "the signal was not sent");
    }

    /// Kills the process (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a signal to a child");
        self.child.wait().expect("a child that ends");
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.ended_within(EXIT).await
    }

    async fn ended_within(&mut self, time: Duration) -> ExitStatus {
        fact::until_within(time, "the process ends", async || self.child.try_wait().expect("a child")).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let pid = self.child.id();
        let gone = Instant::now() + Duration::from_secs(5);
        while exists(pid) && Instant::now() < gone {
            std::thread::yield_now();
        }
        if std::thread::panicking() {
            eprintln!("--- what the server wrote ---\n{}\n---", self.output.all());
            return;
        }
        assert!(!exists(pid), "process {pid} is still running");
    }
}

/// A memory line of `/proc/<pid>/status`, in bytes.
fn memory_of(pid: u32, line: &str) -> u64 {
    let state = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let kib = state.lines().find_map(|text| text.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a size") * 1024
}

/// Whether any process has this id.
fn exists(pid: u32) -> bool {
    let mut probe = Command::new("kill");
    probe.args(["-0", &pid.to_string()]).stderr(Stdio::null());
    probe.status().expect("kill runs").success()
}
