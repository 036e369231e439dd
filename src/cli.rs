//! The command line: one command a file.

mod arguments;
pub mod bench;
mod check;
pub mod demo;
mod keys;
mod migrate;
mod openapi;
mod serve;

use std::fmt::Display;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::app::AppError;
use crate::config::{Config, ConfigError, Written};
use crate::listener::ListenError;
use crate::store::OpenError;

/// A self-hosted webhook delivery engine.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Settings),
    /// Run a temporary server with sample receivers and a trickle of events
    Demo(demo::DemoArgs),
    /// Measure the engine on this machine
    Bench(bench::BenchArgs),
    /// Bring the database's schema up to date, or back
    Migrate(migrate::MigrateArgs),
    /// List, create and revoke admin keys; see and renew what secrets are sealed under
    Keys(keys::KeysArgs),
    /// Check the soundness of a database that no server has open
    Check(check::CheckArgs),
    /// Print the OpenAPI document
    Openapi,
}

/// Settings from flags, the environment and a file.
#[derive(Debug, clap::Args)]
struct Settings {
    /// A TOML file with settings
    #[arg(long, env = "POSTHASTE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    written: Written,
}

impl Settings {
    fn load(self) -> Result<Config, CliError> {
        Ok(Config::load(self.written, self.config.as_deref())?)
    }
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }

    /// 1: it failed; 2: it was asked for wrongly.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(2),
            Self::Open(error) | Self::App(AppError::Open(error)) if error.is_configuration() => ExitCode::from(2),
            Self::App(AppError::Listen(ListenError::Tls(_))) => ExitCode::from(2),
            Self::Open(_) | Self::App(_) | Self::Failed(_) => ExitCode::from(1),
        }
    }
}

/// Prints a line. A reader that has seen enough, as in `posthaste serve | head -1`, is no failure; `println!` would panic.
fn say(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let parsed = arguments::parse(Cli::command()).and_then(|(matches, warnings)| {
        let cli = Cli::from_arg_matches(&matches).map_err(arguments::Refused::from)?;
        Ok((cli, warnings))
    });
    let (cli, warnings) = match parsed {
        Ok(parsed) => parsed,
        Err(refused) => return refused.tell(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("posthaste: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    if !matches!(cli.command, Command::Serve(_)) {
        warnings.iter().for_each(|warning| eprintln!("posthaste: {warning}"));
    }
    let ran = runtime.block_on(async {
        match cli.command {
            Command::Serve(settings) => serve::run(settings, &warnings).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Bench(args) => Box::pin(bench::run(args)).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Keys(args) => keys::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Openapi => openapi::run(),
        }
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("posthaste: {error}");
            error.exit_code()
        }
    }
}
