//! Modules do not go round in circles: of two modules in one folder, with all that is in them, at most one imports the
//! other, however long the way. A module may name the modules that it is made of, and they may name it: they are one thing
//! in several files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::sources::{code, sources};

/// The modules of the same folder that each module imports, with all that is in them, by their paths in the crate.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The name of the module in a file, if it is part of the product: tests and the database that they use are not.
fn module(src: &Path, file: &Path) -> Option<String> {
    let name = file.strip_prefix(src).expect("below src").with_extension("").to_string_lossy().replace('/', "::");
    let is_tool = name.split("::").any(|part| ["tests", "memory", "lib", "main"].contains(&part));
    (!is_tool).then_some(name)
}

/// The paths that a tree of imports names: `a::{b, c::{d, e}}` names `a::b`, `a::c::d` and `a::c::e`.
fn leaves(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((before, inside)) = tree.split_once('{') else {
        return found.push(format!("{prefix}{}", tree.split(" as ").next().expect("a path").trim()));
    };
    let prefix = format!("{prefix}{}", before.trim());
    let inside = inside.rsplit_once('}').expect("it ends").0;
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = inside[start..at].trim();
                if !branch.is_empty() {
                    leaves(&prefix, branch, found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The path from the root of the crate; `None` for another crate.
fn absolute(of: &str, path: &str) -> Option<String> {
    let mut base: Vec<&str> = of.split("::").collect();
    let mut parts = path.split("::").peekable();
    match parts.next()? {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
            while parts.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        _ => return None,
    }
    Some(base.into_iter().chain(parts).collect::<Vec<_>>().join("::"))
}

fn imports() -> Imports {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let modules: BTreeMap<String, PathBuf> =
        files.into_iter().filter_map(|file| Some((module(&src, &file)?, file))).collect();
    let nearest = |path: &str| {
        let mut name = path;
        while !modules.contains_key(name) {
            name = name.rsplit_once("::")?.0;
        }
        Some(name.to_owned())
    };
    let imported = |of: &String, file: &PathBuf| {
        let code = code(file);
        let statements = code.split('\n').scan(0, |at, line| {
            let start = *at;
            *at += line.len() + 1;
            Some((start, line.trim_start()))
        });
        let mut paths = Vec::new();
        for (start, line) in statements {
            let is_import = line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ");
            let Some(tree) = is_import.then(|| code[start..].split_once("use ")).flatten() else { continue };
            leaves("", tree.1.split(';').next().expect("it ends"), &mut paths);
        }
        let named = paths.iter().filter_map(|path| nearest(&absolute(of, path)?));
        named.collect::<BTreeSet<String>>()
    };
    let mut imports = Imports::new();
    for (from, to) in modules.iter().flat_map(|(name, file)| imported(name, file).into_iter().map(move |to| (name, to)))
    {
        let Some((from, to)) = siblings(from, &to) else { continue };
        imports.entry(to.clone()).or_default();
        imports.entry(from).or_default().insert(to);
    }
    imports
}

/// The two modules of one folder in which these two are; `None` if one of them is in the other.
fn siblings(from: &str, to: &str) -> Option<(String, String)> {
    let (a, b): (Vec<&str>, Vec<&str>) = (from.split("::").collect(), to.split("::").collect());
    let apart = a.iter().zip(&b).position(|(a, b)| a != b)?;
    Some((a[..=apart].join("::"), b[..=apart].join("::")))
}

/// The way from a module back to itself, if there is one.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    let (mut done, mut way) = (BTreeSet::new(), Vec::new());
    fn visit(
        name: &String,
        imports: &Imports,
        done: &mut BTreeSet<String>,
        way: &mut Vec<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|passed| passed == name) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(name.clone()) {
            return None;
        }
        way.push(name.clone());
        let found = imports[name].iter().find_map(|next| visit(next, imports, done, way));
        way.pop();
        found
    }
    imports.keys().find_map(|name| visit(name, imports, &mut done, &mut way))
}

#[test]
fn no_module_imports_what_imports_it() {
    let imports = imports();
    assert!(imports.len() > 200 && imports.values().map(BTreeSet::len).sum::<usize>() > 500, "the imports are read");

    assert_eq!(circle(&imports), None);
}

#[test]
fn a_circle_is_found_however_long() {
    let of = |pairs: &[(&str, &str)]| -> Imports {
        let mut imports = Imports::new();
        for (from, to) in pairs {
            imports.entry((*to).to_owned()).or_default();
            imports.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        imports
    };
    assert_eq!(circle(&of(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let found = circle(&of(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")]));
    assert_eq!(found.unwrap(), ["a", "b", "c"]);
    assert_eq!(siblings("a::b::c", "a::d"), Some(("a::b".to_owned(), "a::d".to_owned())));
    assert_eq!((siblings("a::b", "a"), siblings("a", "a::b")), (None, None));
    let mut paths = Vec::new();
    leaves("", "super::{a, b::{self, C as D}, e}", &mut paths);
    assert_eq!(paths, ["super::a", "super::b::self", "super::b::C", "super::e"]);
    assert_eq!(absolute("x::y::z", "super::super::a").as_deref(), Some("x::a"));
}
