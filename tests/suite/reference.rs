//! What explains the API, without a key: the pages of problems, the reference and the guide for language models.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use reqwest::Method;

use crate::support::client::{Answer, send};
use crate::support::world::World;

async fn open(world: &World, path: &str, accept: &str) -> Answer {
    send(world.anyone().root(Method::GET, path).header("Accept", accept)).await
}

/// The source files of the API and of what it takes problems from, except the explanations themselves.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("problem/kinds.rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.push(text.split("#[cfg(test)]").next().expect("a part").to_owned());
        }
    }
}

/// The code in the arguments of a call that makes a problem: the first text in them, if it stands there.
fn code_in(arguments: &str) -> Option<&str> {
    let code = arguments.trim_start().strip_prefix('"')?.split('"').next()?;
    code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(code)
}

/// Every code with which the source makes a problem.
fn used() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    sources(&root.join("src/api"), &mut texts);
    // A call of `new` gives the status first.
    let makers = ["new(StatusCode::", "bad_request(", "conflict(", "unauthenticated(", "unavailable("];
    let mut codes = BTreeSet::new();
    for text in &texts {
        for (maker, owner) in makers.iter().flat_map(|maker| ["Problem::", "Self::"].map(|owner| (maker, owner))) {
            let mark = format!("{owner}{maker}");
            for call in text.split(&mark).skip(1) {
                let (_, after_status) = call.split_once(',').unwrap_or_default();
                codes.extend(code_in(if maker.starts_with("new") { after_status } else { call }).map(str::to_owned));
            }
        }
    }
    codes
}

/// Every code that is explained.
fn explained() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/problem/kinds.rs");
    let text = fs::read_to_string(path).expect("the explanations");
    let (_, table) = text.split_once("const ALL").expect("the table");
    table.split("\n    (").skip(1).filter_map(code_in).map(str::to_owned).collect()
}

#[test]
fn every_problem_code_is_explained_and_every_explanation_is_of_a_code() {
    let (used, explained) = (used(), explained());
    assert!(used.len() > 50, "{used:?}");
    assert_eq!(used, explained);
}

#[tokio::test]
async fn the_type_of_a_problem_leads_to_its_page() {
    let world = World::start().await;
    let refused = world.client().get("/nowhere").await;
    let path = refused.json()["type"].as_str().expect("a type").to_owned();
    assert_eq!(path, "/problems/no_such_route");

    let html = open(&world, &path, "text/html,application/xhtml+xml,*/*;q=0.8").await;
    assert_eq!((html.status, html.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(html.text.contains("<h1>No such route</h1>") && html.text.contains("What to do"), "{}", html.text);
    let policy = html.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    let json = open(&world, &path, "application/json").await;
    let json = json.expect(200);
    assert_eq!((&json["type"], &json["code"], &json["status"]), (&path.into(), &"no_such_route".into(), &404.into()));
    let text = open(&world, "/problems/validation_failed", "*/*").await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.text.starts_with("Validation failed (status 422, code validation_failed)"), "{}", text.text);
}

#[tokio::test]
async fn every_explained_code_has_its_page_and_no_other_code_has_one() {
    let world = World::start().await;
    for code in explained() {
        let page = open(&world, &format!("/problems/{code}"), "application/json").await;
        let page = page.expect(200);
        assert_eq!(page["code"], *code);
        assert!((400..600).contains(&page["status"].as_u64().expect("a status")), "{page}");
        for member in ["meaning", "remedy"] {
            assert!(page[member].as_str().is_some_and(|text| text.ends_with('.')), "{page}");
        }
    }
    assert_eq!(open(&world, "/problems/nothing", "text/html").await.problem(404).code(), "not_found");
}

/// Hosts that a text names in the URLs of what a browser would load.
fn hosts(text: &str) -> Vec<&str> {
    let urls =
        ["src=\"", "href=\"", "url(", "url: \"", "@import"].into_iter().flat_map(|mark| text.split(mark).skip(1));
    urls.filter(|url| ["http:", "https:", "//"].iter().any(|start| url.trim_start_matches('"').starts_with(start)))
        .collect()
}

#[tokio::test]
async fn the_reference_is_whole_and_loads_nothing_from_another_host() {
    let world = World::start().await;
    let page = open(&world, "/docs", "text/html").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!(hosts(&page.text), [""; 0]);
    let loaded: Vec<&str> = page.text.split(['"']).filter(|text| text.starts_with("docs/")).collect();
    assert_eq!(loaded.len(), 4, "{loaded:?}");
    for path in loaded {
        let call = world.anyone().root(Method::GET, &format!("/{path}"));
        let file = call.send().await.expect("an answer");
        assert_eq!(file.status(), 200, "{path}");
        let is_zipped = file.headers().get("content-encoding").is_some();
        let bytes = file.bytes().await.expect("a body");
        let mut text = String::new();
        if is_zipped {
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).expect("gzip");
        } else {
            text = String::from_utf8(bytes.to_vec()).expect("text");
        }
        if !path.ends_with("bundle.js") {
            assert_eq!(hosts(&text), [""; 0], "{path}");
        }
        assert!(text.len() > 50, "{path}");
    }
    for other in ["/docs/index.html", "/docs/oauth2-redirect.html", "/docs/nothing"] {
        assert_eq!(open(&world, other, "*/*").await.problem(404).code(), "not_found", "{other}");
    }
}

#[test]
fn a_page_that_loads_from_another_host_is_noticed() {
    assert_eq!(hosts("<script src=\"https://cdn.example/x.js\">").len(), 1);
    assert_eq!(hosts("@import\"//cdn.example/x.css\"").len(), 1);
    assert_eq!(hosts("<script src=\"docs/x.js\"> url(data:image/svg+xml,xmlns='http://www.w3.org/2000/svg')").len(), 0);
}

#[tokio::test]
async fn the_guide_for_language_models_names_only_paths_that_exist() {
    let world = World::start().await;
    let guide = open(&world, "/llms.txt", "*/*").await;
    assert_eq!((guide.status, guide.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    let document = open(&world, "/openapi.json", "*/*").await;
    let document = document.expect(200);
    let paths: BTreeSet<String> =
        document["paths"].as_object().expect("paths").keys().map(|path| path.replace("{id}", "$")).collect();
    let calls: Vec<&str> =
        guide.text.split("$URL").skip(1).map(|call| call.split([' ', '?', '"']).next().expect("a path")).collect();
    assert_eq!(calls.len(), 10, "{calls:?}");
    for call in calls {
        let plain = call.split('/').map(|part| if part.starts_with('$') { "$" } else { part });
        let path = format!("/api/v1{}", plain.collect::<Vec<_>>().join("/"));
        assert!(paths.contains(&path), "{path} is not in the document");
    }
}
