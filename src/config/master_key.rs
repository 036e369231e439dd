//! Reads the master key and the previous ones, from variables or from a file. Called by `config`.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, hidden, settings};
use crate::secrets::MasterKey;

/// The master key, or `None` if it is the one in the file beside the database; and the previous master keys.
pub(super) fn read(
    key: Option<SecretString>,
    file: Option<PathBuf>,
    previous: Option<SecretString>,
) -> Result<(Option<MasterKey>, Vec<MasterKey>), ConfigError> {
    let (current, mut before) = match (key, file) {
        (Some(_), Some(_)) => {
            return Err(hidden("master_key", "either POSTHASTE_MASTER_KEY or POSTHASTE_MASTER_KEY_FILE, not both"));
        }
        (Some(text), None) => (Some(one(text.expose_secret(), "master_key")?), Vec::new()),
        (None, Some(path)) => {
            let mut keys = in_file(&path)?.into_iter();
            (keys.next(), keys.collect())
        }
        (None, None) => (None, Vec::new()),
    };
    let previous = previous.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
    for part in previous.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        before.push(one(part, "previous_master_keys")?);
    }
    Ok((current, before))
}

fn one(text: &str, setting: &'static str) -> Result<MasterKey, ConfigError> {
    MasterKey::parse(text).ok_or_else(|| hidden(setting, settings::expected(setting)))
}

fn in_file(path: &Path) -> Result<Vec<MasterKey>, ConfigError> {
    let (key, expected) = ("master_key_file", settings::expected("master_key_file"));
    let unreadable = |source| ConfigError::Unreadable { key, path: path.to_owned(), expected, source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    MasterKey::parse_lines(&text).ok_or_else(|| super::refused(key, path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "b25lIG9uZSBvbmUgb25lIG9uZSBvbmUgb25lIG9uZSE=";
    const TWO: &str = "dHdvIHR3byB0d28gdHdvIHR3byB0d28gdHdvIHR3byE=";

    fn secret(text: &str) -> Option<SecretString> {
        Some(text.into())
    }

    #[test]
    fn the_key_and_what_it_was_before_come_from_variables_or_from_the_lines_of_a_file() {
        let (current, before) = read(secret(ONE), None, secret(&format!("{TWO}, {ONE},"))).unwrap();
        assert!(current.is_some() && before.len() == 2);
        let (current, before) = read(None, None, secret(TWO)).unwrap();
        assert!(current.is_none() && before.len() == 1, "the key itself is beside the database");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, format!("{ONE}\n\n{TWO}\n")).unwrap();
        let (current, before) = read(None, Some(path.clone()), secret(TWO)).unwrap();
        assert!(current.is_some() && before.len() == 2);
        assert!(read(secret(ONE), Some(path), None).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for refused in [read(secret("hush"), None, None), read(secret(ONE), None, secret("hush"))] {
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("base64") && !said.contains("hush"), "{said}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for text in ["", "hush", format!("{ONE}\nhush").as_str()] {
            std::fs::write(&path, text).unwrap();
            let said = read(None, Some(path.clone()), None).unwrap_err().to_string();
            assert!(
                said.contains("on each line") && said.contains("POSTHASTE_MASTER_KEY_FILE") && !said.contains("hush"),
                "{said}"
            );
        }
    }
}
