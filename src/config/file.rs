//! Reads the file with settings, in TOML. Called by `config`. An error names line, column and setting and never repeats
//! the line, which may hold a secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::settings::{self, Kind, Setting};
use super::{ConfigError, Written};

/// How the parser's error for a repeated key begins.
const TWICE: &str = "duplicate key";

/// The longest unknown key that an error shows. A key that is longer or has other characters may be a misplaced secret.
const LONGEST_KEY: usize = 40;

/// The settings of a file, and their lines.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) written: Written,
    path: PathBuf,
    lines: BTreeMap<&'static str, usize>,
}

impl Settings {
    /// The error with the line of its setting, if the setting is in the file, and without its value.
    pub(super) fn located(&self, error: ConfigError) -> ConfigError {
        let line = |key| self.lines.get(key).copied();
        let (key, line, why) = match &error {
            ConfigError::Value { key, expected, .. } => {
                (key, line(key), format!("the value is not accepted; expected {expected}"))
            }
            ConfigError::InsideNetwork { key, .. } => {
                let why = "a value is not accepted, it is an address inside of a network; expected the network's first address";
                (key, line(key), why.to_owned())
            }
            ConfigError::Hidden { key, why, expected } => {
                (key, line(key), format!("the value is not accepted, {why}; expected {expected}"))
            }
            ConfigError::Unreadable { key, expected, source, .. } => {
                (key, line(key), format!("the file that it names cannot be read ({source}); expected {expected}"))
            }
            ConfigError::Unknown { .. } | ConfigError::File { .. } | ConfigError::Argument { .. } => return error,
        };
        let why = format!("{}: {why}", settings::names(key));
        line.map_or(error, |line| ConfigError::File { path: self.path.clone(), line, why })
    }
}

pub(super) fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        key: "config",
        path: path.to_owned(),
        expected: "a TOML file that can be read",
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let failed = |line: usize, why: String| ConfigError::File { path: path.to_owned(), line, why };
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        let (what, expected) = if error.message().starts_with(TWICE) {
            ("a setting is there for the second time", "each setting once")
        } else {
            ("this is not TOML", "lines such as max_in_flight = 1024")
        };
        failed(line, format!("column {column}: {what}{}; expected {expected}", setting_at(text, line)))
    })?;
    let (mut settings, mut lines) = (Table::new(), BTreeMap::new());
    for (key, value) in table {
        let line = line_of(text, &key);
        let setting = settings::find(&key).ok_or_else(|| failed(line, unknown(&key)))?;
        let value = of_kind(setting, &value)
            .map_err(|expected| failed(line, format!("{}: {expected}", settings::names(setting.key))))?;
        lines.insert(setting.key, line);
        settings.insert(key, value);
    }
    // Every value has its kind by now, so this does not fail.
    let written = Written::deserialize(settings).map_err(|_| failed(1, "the settings cannot be read".to_owned()))?;
    Ok(Settings { written, path: path.to_owned(), lines })
}

/// The error for a key that is not a setting. The key is shown unless it may be a secret.
fn unknown(key: &str) -> String {
    if let Some(setting) = settings::find_by_other_name(key) {
        return format!("unknown setting `{key}`; expected `{}`, as it is called in the file", setting.key);
    }
    let known: Vec<&str> = settings::SETTINGS.iter().map(|setting| setting.key).collect();
    let shown = if is_key(key) { format!("`{key}`") } else { "that is not shown".to_owned() };
    format!("unknown setting {shown}; known are {}", known.join(", "))
}

/// The value in the form of its setting's kind, or what was expected instead.
fn of_kind(setting: &Setting, value: &Value) -> Result<Value, String> {
    let text = match value {
        Value::Array(parts) if setting.kind == Kind::List => {
            let parts: Option<Vec<String>> = parts.iter().map(scalar).collect();
            parts.map(|parts| parts.join(","))
        }
        other => scalar(other),
    };
    let read = text.as_ref().and_then(|text| match setting.kind {
        Kind::Number => text.parse::<i64>().ok().filter(|number| *number >= 0).map(Value::Integer),
        Kind::Switch => text.parse().ok().map(Value::Boolean),
        Kind::Text | Kind::Secret | Kind::List => Some(Value::String(text.clone())),
    });
    read.ok_or_else(|| {
        let whole = if setting.kind == Kind::Number { "a whole number, " } else { "" };
        format!("{} that is not accepted; expected {whole}{}", kind_of(value), setting.expected)
    })
}

/// What kind of value stands in the file.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "a switch",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// Line and column, from one.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

/// The line of a key, or the first line if the key cannot be found.
fn line_of(text: &str, key: &str) -> usize {
    let is_there = |line: &str| {
        let line = line.trim_start().trim_start_matches(['[', '"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    };
    text.lines().position(is_there).map_or(1, |line| line + 1)
}

/// The setting that a line is about, if it begins with one.
fn setting_at(text: &str, line: usize) -> String {
    let key = text.lines().nth(line - 1).and_then(|line| line.split('=').next()).unwrap_or_default().trim();
    settings::find(key).map_or_else(String::new, |setting| format!(" (in `{}`)", setting.key))
}

fn is_key(key: &str) -> bool {
    key.len() <= LONGEST_KEY && key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        parse(Path::new("p.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_told_by_line_column_and_setting() {
        assert!(said("listen = '127.0.0.1:1'\nadmin_key = \"hush").starts_with("p.toml: line 2, column "));
        assert!(said("admin_key = hush-hush").contains("(in `admin_key`)"));
        assert!(
            said("\n\nnonsense = 1").starts_with("p.toml: line 3: unknown setting `nonsense`; known are database_url")
        );
        assert!(said("[database]\nurl = 'x'").starts_with("p.toml: line 1: unknown setting `database`"));
        assert_eq!(
            said("\nmax_in_flight = 'many'"),
            "p.toml: line 2: POSTHASTE_MAX_IN_FLIGHT (--max-in-flight, max_in_flight in the file): a text that is not accepted; \
             expected a whole number, 2 to 8192"
        );
        assert!(
            said("lease_ms = -5").ends_with("a number that is not accepted; expected a whole number, 1000 to 60000")
        );
        assert!(
            said("migrate = 1.5").ends_with("a number with a fraction that is not accepted; expected true or false")
        );
        assert!(said("listen = ['a']").contains("an array that is not accepted; expected an address and a port"));
        let twice = said("allow_http = true\nallow_http = true");
        assert!(twice.starts_with("p.toml: line 2, column "), "{twice}");
        assert!(
            twice.ends_with("a setting is there for the second time (in `allow_http`); expected each setting once"),
            "{twice}"
        );
        for other in ["POSTHASTE_LEASE_MS", "lease-ms", "LEASE_MS"] {
            let said = said(&format!("{other} = 15000"));
            assert_eq!(
                said,
                format!("p.toml: line 1: unknown setting `{other}`; expected `lease_ms`, as it is called in the file")
            );
        }
    }

    #[test]
    fn a_value_out_of_range_is_told_by_its_line_unless_it_is_not_the_files() {
        let file = parse(Path::new("p.toml"), "# ours\nlease_ms = 5").unwrap();
        let said = |given: Written| given.with_file(&file).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(
            said(Written::default()).unwrap_err(),
            "p.toml: line 2: POSTHASTE_LEASE_MS (--lease-ms, lease_ms in the file): the value is not accepted; expected 1000 to 60000"
        );
        said(Written { lease_ms: Some(15_000), ..Written::default() }).unwrap();
        let flag = said(Written { lease_ms: Some(7), ..Written::default() }).unwrap_err();
        assert!(flag.contains("`7` is not accepted"), "{flag}");
    }

    #[test]
    fn no_error_repeats_what_may_be_a_secret() {
        for text in [
            "admin_key = hush",
            "admin_key = \"hush",
            "admin_key = ['hush']",
            "admin_key = { a = 'hush' }",
            "admin_key = 1.5 # hush",
            "master_key = \"hush\" \"hush\"",
            "admin_key \"hush\"",
            "\"hush hush\" = 1",
            "hush-HUSH-1 = 2",
            "admin_key = 'hush'\nadmin_key = 'hush'",
            "previous_master_keys = [1.5, 'hush']",
        ] {
            let said = said(text);
            assert!(!said.to_lowercase().contains("hush"), "{text}: {said}");
        }
    }

    #[test]
    fn a_list_is_an_array_or_a_text_with_commas() {
        let lists = |text: &str| {
            let Written { egress_allow, dns_servers, .. } = parse(Path::new("p.toml"), text).unwrap().written;
            (egress_allow.unwrap_or_default(), dns_servers.unwrap_or_default())
        };
        let array = "egress_allow = ['10.0.0.0/8', 'fd00::/8']\ndns_servers = ['10.0.0.53']";
        assert_eq!(lists(array), lists("egress_allow = '10.0.0.0/8,fd00::/8'\ndns_servers = '10.0.0.53'"));
    }
}
