//! Checks every answer that a test receives against the OpenAPI document: its status must be listed, and its body must
//! have the members of the schema and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde_json::{Value, json};

/// Another test asserts that the program prints the same document.
const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::read);

/// Servers that run an older version; their answers are not checked.
static OLDER: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

struct Contract(Vec<Operation>);

struct Operation {
    method: String,
    /// Segments of the path; placeholders begin with `{`.
    path: Vec<String>,
    /// The answers by status.
    answers: BTreeMap<String, Described>,
}

struct Described {
    /// `None` for an answer without JSON.
    body: Option<Arc<Validator>>,
    /// In lower case.
    headers: BTreeSet<String>,
}

/// Headers that an answer has only if the document says so.
const DESCRIBED: [&str; 5] = ["etag", "link", "location", "retry-after", "www-authenticate"];

/// Notes whether the server at this address runs an older version.
pub(crate) fn note(url: &str, is_older: bool) {
    let mut older = OLDER.lock().expect("no holder panics");
    if is_older {
        older.insert(url.to_owned());
    } else {
        older.remove(url);
    }
}

/// How an answer contradicts the document; `None` if it does not.
pub(crate) fn broken(method: &Method, url: &Url, status: u16, headers: &HeaderMap, body: &str) -> Option<String> {
    let origin = url.origin().ascii_serialization();
    if OLDER.lock().expect("no holder panics").contains(&origin) {
        return None;
    }
    let operation = CONTRACT.operation(method, url.path())?;
    let Some(described) = operation.answers.get(&status.to_string()) else {
        return Some(format!("the status {status} is not listed"));
    };
    if let Some(name) =
        DESCRIBED.iter().find(|name| headers.contains_key(**name) && !described.headers.contains(**name))
    {
        return Some(format!("the header {name} is not listed"));
    }
    let is_missing = |name: &&&str| described.headers.contains(**name) && !headers.contains_key(**name);
    // A webhook that cannot be read may have no version.
    if let Some(name) = ["etag", "location"].iter().find(is_missing).filter(|_| !body.contains("\"damage\":")) {
        return Some(format!("the header {name} is missing"));
    }
    let schema = described.body.as_ref()?;
    let value: Value = match serde_json::from_str(body) {
        Ok(value) => value,
        Err(error) => return Some(format!("no JSON: {error}")),
    };
    if value.get("nextCursor").is_some() && !is_linked(&value["nextCursor"], headers) {
        return Some("the header link is not the next page".to_owned());
    }
    let errors: Vec<String> =
        schema.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// Whether the header `Link` goes with this `nextCursor`.
fn is_linked(next: &Value, headers: &HeaderMap) -> bool {
    let link = headers.get("link").map(|link| link.to_str().expect("text"));
    match next.as_str() {
        Some(cursor) => link.is_some_and(|link| link.ends_with(&format!("&cursor={cursor}>; rel=\"next\""))),
        None => link.is_none(),
    }
}

impl Contract {
    fn read() -> Self {
        let mut document: Value = serde_json::from_str(DOCUMENT).expect("JSON");
        close(&mut document, false);
        let mut compiled = BTreeMap::new();
        let mut operations = Vec::new();
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods).filter(|(method, _)| METHODS.contains(&method.as_str())) {
                let answers = members(&operation["responses"]).map(|(status, answer)| {
                    let answer = resolved(&document, answer);
                    let json = members(&answer["content"]).find(|(kind, _)| kind.contains("json"));
                    let schema = json.map(|(_, content)| content["schema"].clone());
                    let body = schema.map(|schema| compile(&document, schema, &mut compiled));
                    let headers = members(&answer["headers"]).map(|(name, _)| name.to_lowercase()).collect();
                    (status.clone(), Described { body, headers })
                });
                let path = path.split('/').map(str::to_owned).collect();
                operations.push(Operation { method: method.to_uppercase(), path, answers: answers.collect() });
            }
        }
        Self(operations)
    }

    /// The matching operation with the fewest placeholders.
    fn operation(&self, method: &Method, path: &str) -> Option<&Operation> {
        let parts: Vec<&str> = path.split('/').collect();
        let is_placeholder = |part: &String| part.starts_with('{');
        let fits = |operation: &&Operation| {
            operation.method == method.as_str()
                && operation.path.len() == parts.len()
                && operation.path.iter().zip(&parts).all(|(own, part)| is_placeholder(own) || own == part)
        };
        self.0
            .iter()
            .filter(fits)
            .min_by_key(|operation| operation.path.iter().filter(|own| is_placeholder(own)).count())
    }
}

/// What a reference stands for; anything else stands for itself.
pub(crate) fn resolved<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is not in the document")),
        None => part,
    }
}

/// How a value contradicts a schema of the document: members that the schema does not name are forbidden, too.
pub(crate) fn misfits(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut document = json!({"components": document["components"], "schema": schema});
    close(&mut document, false);
    let validator = compile(&document, document["schema"].clone(), &mut BTreeMap::new());
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn compile(document: &Value, mut schema: Value, compiled: &mut BTreeMap<String, Arc<Validator>>) -> Arc<Validator> {
    let compiled = compiled.entry(schema.to_string()).or_insert_with(|| {
        schema["components"] = document["components"].clone();
        Arc::new(jsonschema::validator_for(&schema).expect("a valid schema"))
    });
    compiled.clone()
}

/// Forbids members that a schema does not name. A part of another schema (`allOf`) is closed together with the whole.
fn close(value: &mut Value, is_part: bool) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| close(item, is_part)),
        Value::Object(members) => {
            if members.contains_key("$ref") && !is_part {
                members.insert("unevaluatedProperties".to_owned(), json!(false));
            }
            members.iter_mut().for_each(|(name, member)| close(member, name == "allOf"));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

#[test]
fn an_answer_that_is_not_as_the_document_says_is_noticed() {
    let at = "2026-01-01T00:00:00.000Z";
    let tenant = json!({"id": "ten_1", "name": "Acme", "allowUndeclaredTypes": true,
        "retention": {"eventsSeconds": null, "responsesSeconds": 3600}, "createdAt": at, "updatedAt": at});
    let page = |tenant: &Value| json!({"data": [tenant], "nextCursor": null}).to_string();
    let told = |status, body: &str| {
        let url = "http://127.0.0.1:1/api/v1/tenants".parse().expect("a URL");
        broken(&Method::GET, &url, status, &HeaderMap::new(), body)
    };
    assert_eq!(told(200, &page(&tenant)), None);
    assert!(told(418, &page(&tenant)).is_some_and(|told| told.contains("418")));
    assert!(told(200, "<html>").is_some_and(|told| told.contains("no JSON")));
    assert!(told(200, "{\"data\": []}").is_some_and(|told| told.contains("nextCursor")));
    assert!(told(200, &page(&tenant).replace("null", "\"c\"")).is_some_and(|told| told.contains("link")));
    let mut more = tenant.clone();
    more["secret"] = json!("s");
    assert!(told(200, &page(&more)).is_some_and(|told| told.contains("secret")));
    let mut other = tenant;
    other["name"] = json!(1);
    assert!(told(200, &page(&other)).is_some_and(|told| told.contains("/data/0/name")));
}
