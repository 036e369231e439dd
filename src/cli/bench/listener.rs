//! `--scenario listener`: measures how long a publish takes while very many connections to the API do nothing or next
//! to nothing.
//!
//! A connection that the server closes is opened again, so that their number stays the same. The connections live in
//! this process and the server in a child process: each process needs as many descriptors as there are connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cli::CliError;
use crate::listener::raise_limit;

use super::percentiles::{Latency, Ratio, median};
use super::publishers::Publishers;
use super::receivers::Receivers;
use super::server::Server;
use super::sink::Sink;
use super::trickle::trickle;
use super::usage::MachineTime;
use super::{Bench, PATIENCE, until};

/// Open files of this process besides the connections.
const OTHER_FILES: usize = 256;

/// Connections opened at once: a listen backlog holds only some hundred.
const OPENING: usize = 64;

/// Pause between two bytes of a dribbled head.
const DRIBBLE: Duration = Duration::from_secs(1);

/// Pause before a closed connection is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// Pause before each phase, until the work of opening or closing the connections is over.
const SETTLE: Duration = Duration::from_secs(2);

/// Duration of the warm-up publishes, which fill the connection pool.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ListenerArgs {
    /// Listener: connections that send one request and then do nothing
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    silent: u32,
    /// Listener: connections that send one byte of a request head each second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    dribbling: u32,
    /// Listener: milliseconds between two publishes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    publish_every_ms: u64,
    /// Listener: seconds per phase
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    listener_seconds: u64,
}

/// Measurements of one phase in all rounds.
struct Seen {
    publishes: Histogram<u64>,
    p99_us: Vec<u64>,
    busy: Vec<f64>,
    memory: Vec<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhaseReport {
    publish: Latency,
    p99_us_of_rounds: Vec<u64>,
    /// Share of the whole machine, median of the rounds.
    machine_busy: f64,
    /// The server's memory at the end of the phase, median of the rounds.
    memory_mib: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    silent: u32,
    dribbling: u32,
    every_ms: u64,
    quiet: PhaseReport,
    crowded: PhaseReport,
    /// p99 divided by the p99 of the quiet phase in the same round.
    p99_ratio: Ratio,
    /// Connections opened in all phases.
    opened: usize,
    bytes_per_connection: f64,
}

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report, CliError> {
    let args = &bench.args.listener;
    let wanted = (args.silent + args.dribbling) as usize;
    let files = raise_limit();
    if files < wanted + OTHER_FILES {
        let needed = wanted + OTHER_FILES;
        return Err(CliError::failed(format!("{needed} open files are needed and {files} allowed; raise `ulimit -n`")));
    }
    let server = Server::start(bench.place).await?;
    let sink = Sink::start(Receivers::new(1, 0)).await?;
    let publishers = Publishers::prepare(&server, &sink, 1, 1, bench.args.payload).await?;
    let every = Duration::from_millis(args.publish_every_ms);
    let length = Duration::from_secs(args.listener_seconds);
    bench.begin("warming up", 1);
    trickle(&publishers, every, tokio::time::sleep(WARM_UP)).await?;

    let phase = || Seen { publishes: Latency::histogram(), p99_us: Vec::new(), busy: Vec::new(), memory: Vec::new() };
    let [mut quiet, mut crowded] = [phase(), phase()];
    let mut opened = 0;
    for round in 1..=bench.args.rounds {
        bench.begin(format!("round {round} of {}", bench.args.rounds), 2);
        quiet.watch(&server, &publishers, every, length).await?;
        bench.bar.inc(1);
        let crowd = Crowd::gather(server.address()?, args).await?;
        crowded.watch(&server, &publishers, every, length).await?;
        opened += crowd.disperse().await;
        bench.bar.inc(1);
    }
    server.stop().await?;
    Ok(Report {
        silent: args.silent,
        dribbling: args.dribbling,
        every_ms: args.publish_every_ms,
        p99_ratio: Ratio::of(&crowded.p99_us, &quiet.p99_us),
        bytes_per_connection: (crowded.memory_bytes() - quiet.memory_bytes()) / (wanted.max(1) as f64),
        quiet: quiet.report(),
        crowded: crowded.report(),
        opened,
    })
}

impl Seen {
    async fn watch(
        &mut self,
        server: &Server,
        publishers: &Arc<Publishers>,
        every: Duration,
        length: Duration,
    ) -> Result<(), CliError> {
        tokio::time::sleep(SETTLE).await;
        let before = MachineTime::now()?;
        let (publishes, ()) = trickle(publishers, every, tokio::time::sleep(length)).await?;
        self.busy.push(MachineTime::now()?.busy_since(before));
        self.memory.push(server.memory()?);
        self.p99_us.push(publishes.value_at_quantile(0.99));
        self.publishes.add(publishes).map_err(CliError::failed)
    }

    fn memory_bytes(&self) -> f64 {
        median(&self.memory)
    }

    fn report(&self) -> PhaseReport {
        PhaseReport {
            publish: Latency::of(&self.publishes),
            p99_us_of_rounds: self.p99_us.clone(),
            machine_busy: median(&self.busy),
            memory_mib: self.memory_bytes() / (1024.0 * 1024.0),
        }
    }
}

/// Connections that are opened again whenever the server closes them.
struct Crowd {
    members: JoinSet<()>,
    opened: Arc<AtomicUsize>,
}

impl Crowd {
    /// Returns once every connection was opened.
    async fn gather(server: SocketAddr, args: &ListenerArgs) -> Result<Self, CliError> {
        let opened = Arc::new(AtomicUsize::new(0));
        let door = Arc::new(Semaphore::new(OPENING));
        let mut members = JoinSet::new();
        for number in 0..args.silent + args.dribbling {
            let (opened, door) = (opened.clone(), door.clone());
            let is_silent = number < args.silent;
            members.spawn(async move {
                loop {
                    // A connection that fails is opened again like one that was closed.
                    let _ = live(server, is_silent, &door, &opened).await;
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        let wanted = (args.silent + args.dribbling) as usize;
        if until(PATIENCE, async || Ok(opened.load(Ordering::Relaxed) >= wanted)).await? {
            return Ok(Self { members, opened });
        }
        Err(CliError::failed(format!("only {} of {wanted} connections were opened", opened.load(Ordering::Relaxed))))
    }

    /// Closes the connections; returns how many were opened in all.
    async fn disperse(mut self) -> usize {
        self.members.shutdown().await;
        self.opened.load(Ordering::Relaxed)
    }
}

/// Holds one connection until the server closes it.
async fn live(server: SocketAddr, is_silent: bool, door: &Semaphore, opened: &AtomicUsize) -> std::io::Result<()> {
    let mut stream = {
        let _turn = door.acquire().await;
        let mut stream = TcpStream::connect(server).await?;
        let said: &[u8] = if is_silent { b"GET /livez HTTP/1.1\r\nhost: bench\r\n\r\n" } else { b"GET /livez" };
        stream.write_all(said).await?;
        opened.fetch_add(1, Ordering::Relaxed);
        stream
    };
    let mut heard = [0; 512];
    loop {
        tokio::select! {
            read = stream.read(&mut heard) => if read? == 0 { return Ok(()) },
            () = tokio::time::sleep(DRIBBLE), if !is_silent => stream.write_all(b"x").await?,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { silent, dribbling, every_ms, opened, .. } = self;
        writeln!(
            f,
            "a publish every {every_ms} ms, without and beside {silent} silent and {dribbling} dribbling connections"
        )?;
        for (name, phase) in [("quiet", &self.quiet), ("crowded", &self.crowded)] {
            let PhaseReport { publish, machine_busy, memory_mib, .. } = phase;
            let busy = machine_busy * 100.0;
            writeln!(f, "{name:<8} {publish}   machine {busy:.0} % busy   server {memory_mib:.1} MiB")?;
        }
        writeln!(f, "p99, crowded     {}", self.p99_ratio)?;
        write!(f, "a connection     {:9.0} bytes; {opened} were opened", self.bytes_per_connection)
    }
}
