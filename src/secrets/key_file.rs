//! The file with the master keys beside a SQLite database, for which no setting names a master key.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::master_key::MasterKey;

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error(
        "{path} is missing, under which the secrets in the database are sealed; put it back, or set POSTHASTE_MASTER_KEY"
    )]
    Missing { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: not a master key on every line; expected 32 bytes in base64")]
    NoKeys { path: PathBuf },
}

/// `<database>.key`
pub(crate) fn path_of(database: &Path) -> PathBuf {
    database.with_added_extension("key")
}

/// The keys in the file beside the database, the master key first. A new database gets a file with a new key, readable
/// by its owner alone.
pub(crate) fn read_or_create(database: &Path, is_new: bool) -> Result<Vec<MasterKey>, KeyFileError> {
    let path = path_of(database);
    if !is_new && !path.exists() {
        return Err(KeyFileError::Missing { path });
    }
    match create(&path) {
        Ok(key) => Ok(vec![key]),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path),
        Err(source) => Err(KeyFileError::Io { path, source }),
    }
}

/// Never touches a file that exists.
fn create(path: &Path) -> io::Result<MasterKey> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let key = MasterKey::generate();
    file.write_all(key.to_base64().expose_secret().as_bytes())?;
    file.sync_all()?;
    Ok(key)
}

fn read(path: PathBuf) -> Result<Vec<MasterKey>, KeyFileError> {
    let mut text = String::new();
    if let Err(source) = File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
        return Err(KeyFileError::Io { path, source });
    }
    MasterKey::parse_lines(&text).ok_or(KeyFileError::NoKeys { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_gets_a_key_and_finds_the_same_again() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("posthaste.db");

        let missing = read_or_create(&database, false).unwrap_err();
        let made = read_or_create(&database, true).unwrap();
        let found = read_or_create(&database, false).unwrap();

        let path = path_of(&database);
        assert!(matches!(&missing, KeyFileError::Missing { path: of } if *of == path), "{missing}");
        assert_eq!((made.len(), found.len()), (1, 1));
        assert_eq!(made[0].bytes(), found[0].bytes());
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
        std::fs::write(&path, "hush").unwrap();
        let refused = read_or_create(&database, false).unwrap_err().to_string();
        let expected = format!("{}: not a master key on every line; expected 32 bytes in base64", path.display());
        assert_eq!(refused, expected);
    }
}
