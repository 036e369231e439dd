//! The command line: parses the arguments, runs one command and turns its result into an exit code. Called by `main`;
//! each command has its own file and writes to standard output through `say`.

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
    /// Run a temporary server with sample receivers and a steady flow of events
    Demo(demo::DemoArgs),
    /// Measure the engine on this machine
    Bench(bench::BenchArgs),
    /// Upgrade the database schema, or undo migrations
    Migrate(migrate::MigrateArgs),
    /// Manage admin keys; show and rotate the master key that secrets are sealed under
    Keys(keys::KeysArgs),
    /// Check a database for damage; on SQLite no server may have it open
    Check(check::CheckArgs),
    /// Print the OpenAPI document of the management API
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

    /// 1: the command failed; 2: the command line or a setting is wrong.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(2),
            Self::Open(error) | Self::App(AppError::Open(error)) if error.is_configuration() => ExitCode::from(2),
            Self::App(AppError::Listen(ListenError::Tls(_))) => ExitCode::from(2),
            Self::Open(_) | Self::App(_) | Self::Failed(_) => ExitCode::from(1),
        }
    }
}

/// Prints a line and ignores a closed standard output, as in `posthaste serve | head -1`; `println!` would panic.
fn say(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Runs the command that the command line names.
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
