//! Parses the command line. A wrong value is reported with its setting; secrets are refused as arguments, because every
//! user of the machine sees the arguments of every process. Called by [`super::run`].

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::config::{self, ConfigError};

/// For each secret: the argument's id, the flag that is refused, and the variable and the file flag that are accepted.
const SECRETS: [(&str, &str, &str, &str); 3] = [
    ("admin_key", "admin-key", "POSTHASTE_ADMIN_KEY", "admin-key-file"),
    ("master_key", "master-key", "POSTHASTE_MASTER_KEY", "master-key-file"),
    ("previous_master_keys", "previous-master-keys", "POSTHASTE_PREVIOUS_MASTER_KEYS", "master-key-file"),
];

/// URLs that may hold a password.
const URLS: [(&str, &str, &str); 2] = [
    ("database_url", "--database-url", "POSTHASTE_DATABASE_URL"),
    ("database_listen_url", "--database-listen-url", "POSTHASTE_DATABASE_LISTEN_URL"),
];

/// Why no command runs. A request for help is one of the reasons.
pub(super) enum Refused {
    Usage(clap::Error),
    Setting(ConfigError),
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Self {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let setting = context(ContextKind::InvalidArg).zip(context(ContextKind::InvalidValue));
        match setting.and_then(|(flag, value)| config::refused_flag(flag, value)) {
            Some(setting) => Self::Setting(setting),
            None => Self::Usage(error),
        }
    }
}

impl Refused {
    pub(super) fn tell(self) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // A closed standard error cannot be reported anywhere.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            Self::Setting(error) => {
                eprintln!("posthaste: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// Parses the arguments; returns them with warnings about unsafe ones.
pub(super) fn parse(command: Command) -> Result<(ArgMatches, Vec<String>), Refused> {
    let matches = command.try_get_matches()?;
    let mut deepest = &matches;
    while let Some((_, of_command)) = deepest.subcommand() {
        deepest = of_command;
    }
    for (id, flag, variable, file) in SECRETS {
        if is_argument(deepest, id) {
            return Err(Refused::Setting(ConfigError::Argument { flag, variable, file }));
        }
    }
    let warnings = URLS.iter().filter(|(id, _, _)| is_argument(deepest, id) && has_password(deepest, id));
    let warnings = warnings.map(|(_, flag, variable)| {
        format!(
            "{flag} holds a password, which every user of this machine can read; use {variable}, PGPASSWORD or PGPASSFILE instead"
        )
    });
    let warnings = warnings.collect();
    Ok((matches, warnings))
}

fn is_argument(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
}

fn has_password(matches: &ArgMatches, id: &str) -> bool {
    let Ok(Some(url)) = matches.try_get_one::<SecretString>(id) else { return false };
    Url::parse(url.expose_secret())
        .is_ok_and(|url| url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password"))
}
