//! `/docs`: the API reference for browsers, and `/llms.txt`: a guide for language models. The reference is Swagger UI
//! over `/openapi.json`; the program carries its files, and the page loads nothing from another host.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::problem::Problem;

/// Path of the page.
pub(super) const PAGE: &str = "/docs";

/// Path of what the page loads.
pub(super) const FILE: &str = "/docs/{file}";

/// Path of the guide.
pub(super) const GUIDE: &str = "/llms.txt";

/// The page runs scripts of this server alone, and calls this server alone. Swagger UI has its icons in `data:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Files of Swagger UI that the page loads.
const LOADED: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

/// A browser keeps the files for an hour: they only change with the program.
const KEPT: (HeaderName, &str) = (CACHE_CONTROL, "max-age=3600");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) async fn page() -> impl IntoResponse {
    ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, POLICY)], include_str!("reference/page.html"))
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    match name.as_str() {
        "reference.css" => Ok(([(CONTENT_TYPE, CSS), KEPT], include_str!("reference/reference.css")).into_response()),
        "reference.js" => Ok(([(CONTENT_TYPE, SCRIPT), KEPT], include_str!("reference/reference.js")).into_response()),
        name => vendored(name),
    }
}

/// A file of Swagger UI. It is compressed once, when the program is built, and always sent so: all browsers take gzip.
fn vendored(name: &str) -> Result<Response, Problem> {
    let found = LOADED.contains(&name).then(|| utoipa_swagger_ui::serve(name, Arc::new(Config::default())));
    let file = found.transpose().map_err(|error| Problem::internal(&error))?.flatten();
    let SwaggerFile { bytes, content_type, .. } = file.ok_or(Problem::no_such("file"))?;
    let headers = [(CONTENT_TYPE, content_type.as_str()), (CONTENT_ENCODING, "gzip"), KEPT];
    Ok((headers, bytes.into_owned()).into_response())
}

pub(super) async fn guide() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], include_str!("reference/llms.txt"))
}
