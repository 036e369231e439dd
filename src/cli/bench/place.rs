//! Where the server under test keeps its rows: a file in a temporary directory, or a PostgreSQL database that is empty
//! before and after.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::CliError;
use crate::store::seal::MasterKey;
use crate::store::{Options, Store};

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
}

impl Place {
    /// `url`: of a PostgreSQL database that holds nothing.
    pub(super) async fn prepare(directory: &Path, url: Option<&str>) -> Result<Self, CliError> {
        let mut place = Self { directory: directory.to_owned(), shared: None };
        if let Some(url) = url {
            let master_key = STANDARD.encode(rand::random::<[u8; 32]>());
            let store = Store::open(options(url, &master_key)).await?;
            let tenants = store.tenants(None, 1).await.map_err(CliError::failed)?;
            if !tenants.items.is_empty() {
                return Err(CliError::failed("the database is in use; a benchmark wants an empty one of its own"));
            }
            place.shared = Some(Shared { url: url.to_owned(), master_key, store });
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

    /// Leaves nothing behind.
    pub(super) async fn clear(self) -> Result<(), CliError> {
        if let Some(Shared { url, master_key, store }) = self.shared {
            store.close().await;
            Store::migrate_down(&options(&url, &master_key), EVERY, true).await?;
        }
        Ok(())
    }
}

fn options(url: &str, master_key: &str) -> Options {
    Options { master_key: MasterKey::parse(master_key), ..Options::of(url) }
}
