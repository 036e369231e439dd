//! `posthaste migrate`: runs or undoes migrations of the database schema.

use clap::{Args, Subcommand};

use crate::store::{Options, Store};

use super::{CliError, Settings, say};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Debug, Subcommand)]
enum Direction {
    /// Run all pending migrations
    Up(Settings),
    /// Undo the newest migrations; data in the tables and columns that they added is lost
    // By default, clap's usage line in an error lists every setting that has a variable, as if all were required.
    #[command(override_usage = "posthaste migrate down [OPTIONS] --steps <STEPS>")]
    Down {
        /// How many migrations to undo; at most as many as there are
        #[arg(long)]
        steps: u32,
        /// Allow the first migration to be undone, which leaves an empty database
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        settings: Settings,
    },
}

pub(super) async fn run(args: MigrateArgs) -> Result<(), CliError> {
    match args.direction {
        Direction::Up(settings) => {
            let config = settings.load()?;
            let options = Options { migrate: true, ..config.database() };
            let store = Store::open(options).await?;
            store.close().await;
            say("the schema is up to date");
        }
        Direction::Down { steps, yes, settings } => {
            let config = settings.load()?;
            let undone = Store::migrate_down(&config.database(), steps, yes).await?;
            say(format_args!("undid {undone} {}", if undone == 1 { "migration" } else { "migrations" }));
        }
    }
    Ok(())
}
