//! The methods that each path takes, as the OpenAPI document lists them. Answers `OPTIONS`, and methods that a path does
//! not take.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::MatchedPath;
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::path::PathItem;

use super::response_layer::no_such_method;

/// The header `Allow` of each path. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Methods(Arc<BTreeMap<String, HeaderValue>>);

impl Methods {
    /// The methods of the paths in the document, and of `others`, which can only be read.
    pub(super) fn of(document: &Document, others: &[&str]) -> Self {
        let listed = document.paths.paths.iter().map(|(path, item)| (path.clone(), allow(item)));
        let others = others.iter().map(|path| ((*path).to_owned(), HeaderValue::from_static("GET,HEAD,OPTIONS")));
        Self(Arc::new(listed.chain(others).collect()))
    }

    /// Answers `OPTIONS` (RFC 9110 §9.3.7), or a method that a path does not take. The router would add an `Allow` of its
    /// own, which lacks `OPTIONS`.
    pub(super) async fn answer(&self, method: &Method, path: Option<&MatchedPath>) -> Response {
        let mut response = match *method {
            Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
            _ => no_such_method().await.into_response(),
        };
        if let Some(allow) = path.and_then(|path| self.0.get(path.as_str())) {
            response.headers_mut().insert(ALLOW, allow.clone());
        }
        response
    }
}

fn allow(item: &PathItem) -> HeaderValue {
    let PathItem { get, post, put, patch, delete, .. } = item;
    let taken = [
        ("GET,HEAD", get.is_some()),
        ("POST", post.is_some()),
        ("PUT", put.is_some()),
        ("PATCH", patch.is_some()),
        ("DELETE", delete.is_some()),
        ("OPTIONS", true),
    ];
    let names: Vec<&str> = taken.into_iter().filter_map(|(name, is_taken)| is_taken.then_some(name)).collect();
    HeaderValue::from_str(&names.join(",")).unwrap_or(HeaderValue::from_static("OPTIONS"))
}
