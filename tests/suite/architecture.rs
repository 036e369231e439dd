//! Checks of the source: the direction of imports, words that a layer must not contain, migrations, and the OpenAPI
//! document.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::sources::{code, sources};

/// A layer is a file `src/<name>.rs` with its folder `src/<name>/`.
struct Layer {
    name: &'static str,
    /// Modules of the crate that the layer may name besides itself and [`PLAIN`].
    may_use: &'static [&'static str],
    /// Words that the layer must not contain.
    without: &'static [&'static str],
}

/// Plain data, the clock, the host, the crash helper, the bound of log lines and histograms: every layer may name them.
const PLAIN: [&str; 6] = ["domain", "clock", "fault", "histogram", "host", "log_limit"];

const LAYERS: [Layer; 18] = [
    Layer { name: "domain", may_use: &[], without: &["actix", "axum", "sea_orm", "tokio"] },
    Layer {
        name: "cli",
        may_use: &[
            "api",
            "app",
            "cluster",
            "config",
            "delivery",
            "engine",
            "listener",
            "secrets",
            "store",
            "telemetry",
        ],
        without: &["actix", "sea_orm"],
    },
    Layer { name: "app", may_use: &["api", "config", "engine", "listener", "store"], without: &["actix", "sea_orm"] },
    Layer { name: "api", may_use: &["engine", "journal", "secrets", "store"], without: &["sea_orm", "actix", "Addr<"] },
    Layer {
        name: "engine",
        may_use: &["cluster", "delivery", "journal", "store"],
        without: &["axum", "sea_orm", "StatusCode"],
    },
    Layer { name: "cluster", may_use: &["journal", "store"], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "delivery", may_use: &[], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "journal", may_use: &["store"], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "store", may_use: &["secrets"], without: &["actix", "axum"] },
    Layer { name: "secrets", may_use: &[], without: &["actix", "axum", "sea_orm", "tokio"] },
    Layer { name: "telemetry", may_use: &[], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "listener", may_use: &[], without: &["actix", "sea_orm"] },
    Layer { name: "config", may_use: &["secrets", "store"], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "clock", may_use: &[], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "fault", may_use: &[], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "host", may_use: &[], without: &["actix", "axum", "sea_orm"] },
    Layer { name: "histogram", may_use: &[], without: &["actix", "axum", "sea_orm", "tokio"] },
    Layer { name: "log_limit", may_use: &[], without: &["actix", "axum", "sea_orm"] },
];

/// A module whose header says "Pure" waits for nothing and uses no clock and no randomness. These words show a
/// violation.
const IMPURE: [&str; 7] = ["async fn", ".await", "::now()", "::now_v7()", "rand::", "sleep(", "std::fs"];

/// As many modules are pure at least: a lower count means that a header has lost the word, and its module the check.
const LEAST_PURE: usize = 78;

/// What runs in the simulation as it ships takes its time, its tasks and its chance from the host.
const SIMULATED: [&str; 5] = ["src/engine", "src/cluster", "src/cluster.rs", "src/journal", "src/journal.rs"];

/// Modules that only the live engine has: its threads, and the actix actors. What composes it, `src/engine.rs`, is not in
/// the folder.
const LIVE: [&str; 3] = ["src/engine/arbiters.rs", "src/engine/endpoint/actor.rs", "src/engine/registry/actor.rs"];

const OF_THE_HOST: [&str; 9] = [
    "tokio::time",
    "tokio::spawn",
    "spawn_local",
    "spawn_blocking",
    "thread::spawn",
    "Instant::now",
    "UnixMillis::now",
    "SystemTime",
    "rand::",
];

/// Above this many lines the test asks whether the file does one thing. This is no limit: a limit on lines must not
/// shape the design.
const LONG_FILE: usize = 500;
const TOO_LONG_FILE: usize = 700;

const BEFORE_THE_RULE: [&str; 4] = ["m0001_spine", "m0002_isolation", "m0003_nodes", "m0004_many_nodes"];
const TAKES_AWAY: [&str; 8] = [
    "drop table",
    "drop column",
    "drop_table",
    "drop_column",
    "rename",
    "alter column",
    "modify_column",
    "set not null",
];

/// The one place in a pure module that reads the store: it fills the route table.
const EXCEPT: [(&str, &str); 1] = [("src/engine/routes.rs", "load")];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn layer_files(name: &str) -> Vec<PathBuf> {
    let src = root().join("src");
    let mut found = vec![src.join(format!("{name}.rs"))];
    let folder = src.join(name);
    if folder.is_dir() {
        sources(&folder, &mut found);
    }
    found
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests") || path.components().any(|part| part.as_os_str() == "tests")
}

#[test]
fn imports_point_down() {
    for layer in LAYERS {
        for file in layer_files(layer.name).iter().filter(|file| !is_test(file)) {
            let code = code(file);
            for absent in layer.without {
                assert!(!code.contains(absent), "{} names {absent}", file.display());
            }
            for used in code.split("crate::").skip(1) {
                let module: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let allowed = module == layer.name
                    || PLAIN.contains(&module.as_str())
                    || layer.may_use.contains(&module.as_str());
                assert!(allowed, "{} names crate::{module}", file.display());
            }
        }
    }
}

#[test]
fn only_the_store_names_the_orm() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let store = layer_files("store");
    for file in files.iter().filter(|file| !store.contains(file)) {
        assert!(!code(file).contains("sea_orm"), "{} names sea_orm", file.display());
    }
    let manifest = fs::read_to_string(root().join("migration/Cargo.toml")).expect("a manifest");
    assert!(!manifest.contains("entity"), "migrations must not change with the entities");
}

/// Whether the header of a module says "Pure".
fn says_pure(file: &Path) -> bool {
    let text = fs::read_to_string(file).expect("a readable file");
    let mut header = text.lines().take_while(|line| line.starts_with("//!"));
    header.any(|line| line.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "Pure"))
}

#[test]
fn what_decides_neither_waits_nor_reads_a_clock() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files.retain(|file| says_pure(file));
    assert!(files.len() >= LEAST_PURE, "the headers of {} modules say \"Pure\"", files.len());
    for file in files {
        let (name, mut code) = (file.strip_prefix(root()).expect("below the root").display().to_string(), code(&file));
        for (_, function) in EXCEPT.iter().filter(|(file, _)| *file == name) {
            let start = code.find(&format!("async fn {function}(")).expect("the exception is there");
            let end = code[start..].find("\n    }\n").expect("an end") + start;
            code.replace_range(start..end, "");
        }
        for word in IMPURE {
            assert!(!code.contains(word), "{name} contains {word}");
        }
    }
}

#[test]
fn what_the_simulation_runs_asks_the_host_and_selects_in_order() {
    let mut files = Vec::new();
    SIMULATED.iter().for_each(|place| sources(&root().join(place), &mut files));
    let name = |file: &Path| file.strip_prefix(root()).expect("below the root").display().to_string();
    files.retain(|file| !LIVE.contains(&name(file).as_str()) && !name(file).contains("/tests"));
    assert!(files.len() > 50, "only {} files", files.len());
    for file in files {
        let (name, code) = (name(&file), code(&file));
        for word in OF_THE_HOST {
            assert!(!code.contains(word), "{name} contains {word}");
        }
        for select in code.split("select!").skip(1) {
            assert!(select.trim_start_matches([' ', '{', '\n']).starts_with("biased;"), "{name} selects at random");
        }
    }
}

/// Older versions keep serving beside a newer one, unless a migration's name says that they cannot.
#[test]
fn a_migration_that_takes_anything_away_says_so_in_its_name() {
    let mut files = Vec::new();
    sources(&root().join("migration/src"), &mut files);
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.retain(|file| name(file).starts_with('m') && !name(file).contains("_contract_"));
    assert!(files.len() >= BEFORE_THE_RULE.len());
    for file in files.iter().filter(|file| !BEFORE_THE_RULE.contains(&name(file).as_str())) {
        let code = code(file);
        let mut up = code.split("async fn down").next().expect("a text").to_owned();
        if let Some(down) = up.find("const DOWN") {
            let end = up[down..].find("];\n").expect("an end") + down;
            up.replace_range(down..end, "");
        }
        for word in TAKES_AWAY {
            assert!(!up.to_lowercase().contains(word), "{} has `{word}`: is it a contraction?", file.display());
        }
    }
}

#[test]
fn no_message_is_sent_without_looking_and_no_file_outgrows_its_reader() {
    let mut files = Vec::new();
    for place in ["src", "entity/src", "migration/src", "tests"] {
        sources(&root().join(place), &mut files);
    }
    for file in files {
        let lines = fs::read_to_string(&file).expect("a file").lines().count();
        if lines > LONG_FILE {
            eprintln!("{} has {lines} lines: does it do one thing?", file.display());
        }
        assert!(lines < TOO_LONG_FILE, "{} has {lines} lines", file.display());
        assert!(!code(&file).contains(concat!(".do_", "send(")), "{} may drop messages", file.display());
    }
}

#[test]
fn the_openapi_document_is_the_one_that_was_reviewed() {
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_posthaste")).arg("openapi").output().expect("it runs");
    let printed = String::from_utf8(printed.stdout).expect("text");
    let path = root().join("docs/openapi.json");
    let reviewed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        printed == reviewed,
        "the API changed; run `posthaste openapi > docs/openapi.json`, review the difference and commit it"
    );
    let document: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
}

/// Collects every schema that has properties, with the name of the component that contains it.
fn objects(name: &str, schema: &Value, found: &mut Vec<(String, Value)>) {
    match schema {
        Value::Object(members) => {
            if members.get("properties").is_some_and(Value::is_object) {
                found.push((name.to_owned(), schema.clone()));
            }
            members.values().for_each(|member| objects(name, member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(name, item, found)),
        _ => {}
    }
}

fn allows(schema: &Value, kind: &str) -> bool {
    let of_type = schema["type"] == kind || schema["type"].as_array().is_some_and(|kinds| kinds.contains(&kind.into()));
    of_type || schema["oneOf"].as_array().is_some_and(|parts| parts.iter().any(|part| allows(part, kind)))
}

/// Whether the values of a text, or of the texts in a list, are a set that has a name in the document.
fn is_enum(document: &Value, schema: &Value) -> bool {
    let named = schema["$ref"].as_str().and_then(|reference| document.pointer(reference.strip_prefix('#')?));
    let parts = schema["oneOf"].as_array().into_iter().flatten().chain(schema.get("items"));
    named.is_some_and(|named| named["enum"].is_array())
        || schema["enum"].is_array()
        || parts.into_iter().any(|part| is_enum(document, part))
}

/// Whether the description lists the values that a text may have: "`a`, `b` or `c`".
fn lists_values(schema: &Value, description: &Value) -> bool {
    let description = description.as_str().unwrap_or_default();
    let is_text = allows(schema, "string") || schema["$ref"].is_string() || schema["oneOf"].is_array();
    is_text && description.starts_with('`') && description.contains("` or `")
}

#[test]
fn the_openapi_document_says_what_may_be_sent_and_what_may_come() {
    let text = fs::read_to_string(root().join("docs/openapi.json")).expect("the document");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let mut found = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        objects(name, schema, &mut found);
    }
    let (mut free, mut listed) = (0, 0);
    for (name, object) in &found {
        for (property, schema) in object["properties"].as_object().expect("properties") {
            let place = format!("{name}.{property}");
            if ["data", "metadata"].contains(&property.as_str()) && allows(schema, "object") {
                assert_eq!(schema["additionalProperties"], true, "{place} takes no members");
                free += 1;
            }
            let is_required =
                object["required"].as_array().is_some_and(|names| names.contains(&property.as_str().into()));
            let is_input = name.ends_with("Input") || name.ends_with("Patch");
            assert!(!(is_input && is_required && allows(schema, "null")), "{place} is required, and null is accepted");
            listed += usize::from(is_enum(&document, schema));
            let is_listed = lists_values(schema, &schema["description"]);
            assert!(!is_listed || is_enum(&document, schema), "{place} is no enum");
        }
    }
    for operation in document["paths"].as_object().expect("paths").values().flat_map(|path| path.as_object()).flatten()
    {
        for parameter in operation.1["parameters"].as_array().into_iter().flatten() {
            let place = format!("the parameter {} of {}", parameter["name"], operation.1["operationId"]);
            let is_listed = lists_values(&parameter["schema"], &parameter["description"]);
            assert!(!is_listed || is_enum(&document, &parameter["schema"]), "{place} is no enum");
        }
    }
    assert!(free >= 4 && listed >= 15, "{free} objects are free, {listed} texts have values");
}

/// Words of ours for what the field has words for. None of them comes back.
const OWN_WORDS: [&str; 26] = [
    "whoever",
    "whomever",
    "abroad",
    "tenure",
    "deposed",
    "bury",
    "buried",
    "porter",
    "doorman",
    "roster",
    "rouse",
    "unheard",
    "late_comer",
    "holding",
    "quitting",
    "suspect",
    "pulse",
    "vitals",
    "servings",
    "heard_of",
    "is_shared",
    "now_outside",
    "lay_down",
    "is_asked_for",
    "lacks_descriptor",
    "was_committed",
];

#[test]
fn the_code_and_the_documents_use_the_words_of_the_field() {
    let mut files = Vec::new();
    for place in ["src", "entity/src", "migration/src", "docs"] {
        sources(&root().join(place), &mut files);
        documents(&root().join(place), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable file").to_lowercase();
        let mut words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let own = words.find(|word| OWN_WORDS.contains(word));
        assert_eq!(own, None, "{}", file.display());
    }
}

fn documents(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a readable directory") {
            documents(&entry.expect("an entry").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "md") {
        found.push(path.to_owned());
    }
}

/// Modules of the rooms with a vocabulary of their own whose names are plain English and need no line in the glossary.
const PLAIN_NAMES: [&str; 11] = [
    "engine/backlog_ops",
    "engine/bodies",
    "engine/configure",
    "engine/dispatch",
    "engine/delivery_ops",
    "engine/durations",
    "engine/inspect",
    "engine/listing",
    "engine/operational",
    "engine/tests",
    "journal/answers",
];

/// A path in the first column of the map is whole, or continues the folder of the one before it.
fn resolve(path: &str, before: &str) -> Option<String> {
    let src = root().join("src");
    let is_there = |path: &str| src.join(format!("{path}.rs")).exists() || src.join(path).is_dir();
    let folders = before.match_indices('/').map(|(end, _)| &before[..=end]).chain([""]);
    let mut candidates: Vec<String> = folders.map(|folder| format!("{folder}{path}")).collect();
    candidates.push(format!("{before}/{path}"));
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.len()));
    candidates.into_iter().find(|candidate| is_there(candidate) || root().join(candidate).is_dir())
}

#[test]
fn the_map_of_the_code_is_true_and_the_glossary_has_its_terms() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the document");
    let section = |title: &str| {
        let start = text.find(&format!("\n## {title}\n")).expect("the section is there") + 1;
        let end = text[start + 1..].find("\n## ").map_or(text.len(), |end| start + 1 + end);
        &text[start..end]
    };
    let words = |text: &str| {
        let plain = |letter: char| if letter.is_alphanumeric() { letter.to_ascii_lowercase() } else { ' ' };
        format!(" {} ", text.chars().map(plain).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let glossary = words(section("Glossary"));
    let mut rows = 0;
    for row in section("Map of the code").lines().filter_map(|line| line.strip_prefix("| `")) {
        let paths = row.split('|').next().expect("a column").split('`').step_by(2);
        let mut before = String::new();
        for path in paths.map(|path| path.trim_end_matches("/*")).filter(|path| !path.is_empty()) {
            before = resolve(path, &before).unwrap_or_else(|| panic!("`{path}` is in the map and not in the code"));
            let has_words =
                ["engine/", "cluster/", "journal/", "store/leases/"].iter().any(|room| before.starts_with(room));
            let term = words(before.rsplit('/').next().expect("a name"));
            let is_known =
                glossary.contains(&term) || glossary.contains(&format!("{} ", term.trim_end().trim_end_matches('s')));
            let is_leaf = before.matches('/').count() > 1 && before.starts_with("engine/");
            assert!(
                !has_words || is_leaf || is_known || PLAIN_NAMES.contains(&before.as_str()),
                "`{before}` is not in the glossary"
            );
            rows += 1;
        }
    }
    assert!(rows > 100, "{rows} modules are in the map");
}
