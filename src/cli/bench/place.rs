//! The database of the server under test: a SQLite file in a temporary directory, or a PostgreSQL database that holds
//! at most the schema before and after.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::CliError;
use crate::secrets::MasterKey;
use crate::store::{Contents, OpenError, Options, Store};

/// Undo every migration.
const EVERY: u32 = u32::MAX;

pub(super) struct Place {
    directory: PathBuf,
    shared: Option<Shared>,
}

/// A PostgreSQL database.
struct Shared {
    url: String,
    master_key: String,
    store: Store,
    /// Whether the schema existed before and must exist afterwards.
    had_schema: bool,
}

impl Place {
    /// Prepares the PostgreSQL database at `url`, which must be empty, or else a SQLite file in `directory`.
    pub(super) async fn prepare(directory: &Path, url: Option<&str>) -> Result<Self, CliError> {
        let mut place = Self { directory: directory.to_owned(), shared: None };
        if let Some(url) = url {
            let master_key = STANDARD.encode(rand::random::<[u8; 32]>());
            // Before the store is opened, because opening migrates the database.
            let had_schema = match Store::contents(&options(url, &master_key)).await? {
                Contents::Nothing => false,
                Contents::Schema => true,
                Contents::Occupied(why) => return Err(OpenError::Setting(refusal(&why)).into()),
            };
            let store = Store::open(options(url, &master_key)).await?;
            place.shared = Some(Shared { url: url.to_owned(), master_key, store, had_schema });
        }
        Ok(place)
    }

    /// Opens the database that the server uses.
    pub(super) fn options(&self) -> Options {
        match &self.shared {
            Some(Shared { url, master_key, .. }) => options(url, master_key),
            None => self.file("bench.db"),
        }
    }

    /// Opens a database on the same disk, for measurements beside the server.
    pub(super) fn beside(&self) -> Options {
        match &self.shared {
            Some(_) => self.options(),
            None => self.file("floor.db"),
        }
    }

    fn file(&self, name: &str) -> Options {
        Options::of(format!("sqlite://{}", self.directory.join(name).display()))
    }

    /// The server's settings, as environment variables.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let url = ("POSTHASTE_DATABASE_URL", self.options().url);
        let key = self.shared.as_ref().map(|shared| ("POSTHASTE_MASTER_KEY", shared.master_key.clone()));
        [url].into_iter().chain(key).collect()
    }

    /// The store that knows how much write-ahead log was written; PostgreSQL only.
    pub(super) fn store(&self) -> Option<Store> {
        self.shared.as_ref().map(|shared| shared.store.clone())
    }

    /// Empties the database; the schema stays if it existed before.
    pub(super) async fn clear(self) -> Result<(), CliError> {
        if let Some(Shared { url, master_key, store, had_schema }) = self.shared {
            store.close().await;
            Store::migrate_down(&options(&url, &master_key), EVERY, true).await?;
            if had_schema {
                Store::open(options(&url, &master_key)).await?.close().await;
            }
        }
        Ok(())
    }
}

fn refusal(why: &str) -> String {
    format!(
        "--database-url: {why}; a benchmark wants an empty PostgreSQL database of its own, which it empties afterwards"
    )
}

fn options(url: &str, master_key: &str) -> Options {
    Options { master_key: MasterKey::parse(master_key), ..Options::of(url) }
}
