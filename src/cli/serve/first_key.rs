//! Shows the admin key that a first start has created, once. Called by `serve`. The key goes to standard output, unless
//! standard output is the systemd journal, which would keep the key; then it goes to a file that only this user can
//! read.

use std::fs::{File, OpenOptions};
use std::io::{self, Write, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::cli::say;

/// Set by systemd for a service whose output goes to the journal: device and inode of the stream (systemd.exec(5)).
const JOURNAL: &str = "JOURNAL_STREAM";

/// Shows `key`. A key file is written next to `beside`, the SQLite file, if there is one.
pub(super) fn show(key: &str, beside: Option<&Path>) {
    if !is_journal() {
        if let Err(error) = writeln!(stdout(), "admin key, shown only now: {key}") {
            tracing::warn!(%error, "admin key not printed; create another with `posthaste keys admin create`");
        }
        return;
    }
    let path = beside.map_or_else(
        || PathBuf::from("posthaste.admin-key"),
        |database| {
            let mut name = database.as_os_str().to_owned();
            name.push(".admin-key");
            PathBuf::from(name)
        },
    );
    match keep(key, &path) {
        Ok(()) => {
            let path = path.display();
            say(format_args!("admin key: in {path}, which only this user can read; take it and delete the file"));
        }
        Err(error) => {
            let path = path.display();
            say(format_args!(
                "admin key: {path} cannot be written ({error}); make one with `posthaste keys admin create`"
            ));
        }
    }
}

fn keep(key: &str, path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{key}")
}

fn is_journal() -> bool {
    let Ok(stream) = std::env::var(JOURNAL) else { return false };
    let file = stdout().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    file.is_ok_and(|file| is_stream(&stream, file.dev(), file.ino()))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream == format!("{device}:{inode}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_kept_key_is_read_by_its_user_alone_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.db.admin-key");
        keep("phk_x", &path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "phk_x\n");
        assert!(keep("phk_y", &path).is_err());
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("8:17", 8, 17));
        assert!(!is_stream("8:17", 8, 18) && !is_stream("", 8, 17));
    }
}
