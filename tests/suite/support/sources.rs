//! The source of the product, for the tests that read it.

use std::fs;
use std::path::{Path, PathBuf};

/// Adds the Rust files at a path: the file itself, or all that a folder contains.
pub(crate) fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a readable directory") {
            sources(&entry.expect("an entry").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// The code of a file without tests and comments.
pub(crate) fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}
