//! Reads the admin key from its variable or from a file. Called by `config`.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, hidden, settings};

/// A shorter key could be guessed.
const SHORTEST: usize = 32;

pub(super) fn read(key: Option<SecretString>, file: Option<PathBuf>) -> Result<Option<SecretString>, ConfigError> {
    let (key, setting) = match (key, file) {
        (Some(_), Some(_)) => {
            return Err(hidden("admin_key", "either POSTHASTE_ADMIN_KEY or POSTHASTE_ADMIN_KEY_FILE, not both"));
        }
        (Some(key), None) => (key, "admin_key"),
        (None, Some(path)) => {
            let expected = settings::expected("admin_key_file");
            let unreadable =
                |source| ConfigError::Unreadable { key: "admin_key_file", path: path.clone(), expected, source };
            let text = std::fs::read_to_string(&path).map_err(unreadable)?;
            (text.trim_end_matches(['\r', '\n']).into(), "admin_key_file")
        }
        (None, None) => return Ok(None),
    };
    match fault(key.expose_secret()) {
        None => Ok(Some(key)),
        Some(why) => Err(ConfigError::Hidden { key: setting, why, expected: settings::expected("admin_key") }),
    }
}

/// Why no request can carry this key, or why it is easy to guess.
fn fault(key: &str) -> Option<&'static str> {
    if key.trim() != key {
        return Some("there is white space at one end");
    }
    if key.chars().any(|c| !(c.is_ascii_graphic() || c == ' ')) {
        return Some("there is a character that is not printable ASCII");
    }
    (key.len() < SHORTEST).then_some("it is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "an-admin-key-of-many-characters-0123";

    fn said(key: &str) -> String {
        read(Some(key.into()), None).unwrap_err().to_string()
    }

    #[test]
    fn a_key_that_no_header_carries_or_anybody_guesses_is_refused_with_the_reason() {
        assert!(read(Some(KEY.into()), None).unwrap().is_some());
        for (key, why) in [
            ("short".to_owned(), "it is too short"),
            (format!("{KEY} "), "white space at one end"),
            (format!("{KEY}\n"), "white space at one end"),
            (format!("{KEY}ä"), "not printable ASCII"),
            (format!("{KEY}\u{7f}x"), "not printable ASCII"),
        ] {
            let said = said(&key);
            assert!(said.contains(why) && said.starts_with("POSTHASTE_ADMIN_KEY"), "{said}");
            assert!(!said.contains("many-characters"), "{said}");
        }
    }

    #[test]
    fn a_file_holds_the_key_and_may_end_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, format!("{KEY}\n")).unwrap();
        assert_eq!(read(None, Some(path.clone())).unwrap().unwrap().expose_secret(), KEY);
        assert!(read(Some(KEY.into()), Some(path.clone())).is_err());
        std::fs::write(&path, "short").unwrap();
        assert!(read(None, Some(path)).unwrap_err().to_string().starts_with("POSTHASTE_ADMIN_KEY_FILE"));
        let said = read(None, Some("nowhere".into())).unwrap_err().to_string();
        assert!(
            said.starts_with("POSTHASTE_ADMIN_KEY_FILE (--admin-key-file, ") && said.contains("`nowhere`"),
            "{said}"
        );
    }
}
