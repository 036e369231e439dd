//! Where the server under test keeps its rows: a file in a temporary directory, or a PostgreSQL database that is empty
//! before and after, but for the schema.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::CliError;
use crate::store::seal::MasterKey;
use crate::store::{Contents, OpenError, Options, Store};

/// Migrations that a benchmark undoes: all of them.
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
    /// Whether the schema was there before, and is to be there after.
    had_schema: bool,
}

impl Place {
    /// `url`: of a PostgreSQL database that holds nothing.
    pub(super) async fn prepare(directory: &Path, url: Option<&str>) -> Result<Self, CliError> {
        let mut place = Self { directory: directory.to_owned(), shared: None };
        if let Some(url) = url {
            let master_key = STANDARD.encode(rand::random::<[u8; 32]>());
            // Before anything else: opening would migrate it.
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

    /// Of what the server writes, and of what is put straight into its database.
    pub(super) fn options(&self) -> Options {
        match &self.shared {
            Some(Shared { url, master_key, .. }) => options(url, master_key),
            None => self.file("bench.db"),
        }
    }

    /// A database for what is measured beside the server: on the same disk.
    pub(super) fn beside(&self) -> Options {
        match &self.shared {
            Some(_) => self.options(),
            None => self.file("floor.db"),
        }
    }

    fn file(&self, name: &str) -> Options {
        Options::of(format!("sqlite://{}", self.directory.join(name).display()))
    }

    /// The server's settings.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let url = ("POSTHASTE_DATABASE_URL", self.options().url);
        let key = self.shared.as_ref().map(|shared| ("POSTHASTE_MASTER_KEY", shared.master_key.clone()));
        [url].into_iter().chain(key).collect()
    }

    /// What can be asked how much was written.
    pub(super) fn store(&self) -> Option<Store> {
        self.shared.as_ref().map(|shared| shared.store.clone())
    }

    /// Leaves nothing behind but the schema, if it was there before.
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
