//! The file with settings, in TOML. What is wrong with it is told by line, column and setting, never by repeating the line:
//! it may hold a secret.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::settings::{self, Kind, Setting};
use super::{ConfigError, Written};

/// Keys that look like one are shown, others may be a secret that stands where none belongs.
const LONGEST_KEY: usize = 40;

pub(super) fn read(path: &Path) -> Result<Written, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        key: "config",
        path: path.to_owned(),
        expected: "a TOML file that can be read",
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Written, ConfigError> {
    let failed = |line: usize, why: String| ConfigError::File { path: path.to_owned(), line, why };
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        failed(
            line,
            format!(
                "column {column}: this is not TOML{}; expected lines such as max_in_flight = 1024",
                setting_at(text, line)
            ),
        )
    })?;
    let mut settings = Table::new();
    for (key, value) in table {
        let line = line_of(text, &key);
        let Some(setting) = settings::find(&key) else {
            let known: Vec<&str> = settings::SETTINGS.iter().map(|setting| setting.key).collect();
            let shown = if is_key(&key) { format!("`{key}`") } else { "that is not shown".to_owned() };
            return Err(failed(line, format!("unknown setting {shown}; known are {}", known.join(", "))));
        };
        settings.insert(key, of_kind(setting, &value)?);
    }
    // Every value has its kind by now.
    Written::deserialize(settings).map_err(|_| failed(1, "the settings cannot be read".to_owned()))
}

/// The value as the settings are read, or what is wrong with it.
fn of_kind(setting: &Setting, value: &Value) -> Result<Value, ConfigError> {
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
        let value = match setting.kind {
            Kind::Secret => "***".to_owned(),
            _ => text.unwrap_or_else(|| format!("{} of TOML", value.type_str())),
        };
        ConfigError::Value { key: setting.key, value, expected: setting.expected }
    })
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

/// Where a key of the table stands, as far as that can be told.
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
        let wrong = said("max_in_flight = 'many'");
        assert!(
            wrong.starts_with("POSTHASTE_MAX_IN_FLIGHT (--max-in-flight, max_in_flight in the file): `many`"),
            "{wrong}"
        );
        assert!(wrong.ends_with("expected 2 to 8192"), "{wrong}");
        assert!(said("lease_ms = -5").contains("`-5` is not accepted; expected 1000 to 60000"));
        assert!(said("migrate = 1.5").contains("`float of TOML` is not accepted; expected true or false"));
        assert!(said("listen = ['a']").contains("expected an address and a port"));
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
            let Written { egress_allow, dns_servers, .. } = parse(Path::new("p.toml"), text).unwrap();
            (egress_allow.unwrap_or_default(), dns_servers.unwrap_or_default())
        };
        let array = "egress_allow = ['10.0.0.0/8', 'fd00::/8']\ndns_servers = ['10.0.0.53']";
        assert_eq!(lists(array), lists("egress_allow = '10.0.0.0/8,fd00::/8'\ndns_servers = '10.0.0.53'"));
    }
}
