//! `/problems/{code}`: what a problem means, when it happens, and what to do. The `type` of every problem leads here. As
//! HTML for browsers; as JSON or plain text for others, by `Accept`.

use axum::extract::Path;
use axum::http::header::{ACCEPT, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::html::{self, text};
use super::problem::{Problem, ProblemKind};

/// The path of these pages.
pub(super) const PATH: &str = "/problems/{code}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Html,
    Json,
    Text,
}

pub(super) async fn show(Path(code): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let kind = ProblemKind::find(&code).ok_or(Problem::no_such("problem"))?;
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut response = match format_for(accepted) {
        Format::Html => as_html(kind),
        Format::Json => as_json(kind),
        Format::Text => as_text(kind).into_response(),
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The format that the caller names with the highest quality; text if it names none.
fn format_for<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let mut best = (0.0_f32, Format::Text);
    for range in accept.flat_map(|header| header.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/html" => Format::Html,
            "application/json" | "application/problem+json" => Format::Json,
            "text/plain" => Format::Text,
            _ => continue,
        };
        let quality =
            parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if quality > best.0 {
            best = (quality, format);
        }
    }
    best.1
}

fn as_html(kind: ProblemKind) -> Response {
    let ProblemKind { code, status, meaning, remedy } = kind;
    let title = kind.title();
    let body = format!(
        "<h1>{}</h1>\n<p class=\"sub\">Status {status}, code <code>{code}</code></p>\n\
         <h2>What it means</h2>\n<p>{}</p>\n<h2>What to do</h2>\n<p>{}</p>\n\
         <nav><a href=\"../docs\">API reference</a></nav>",
        text(&title),
        text(meaning),
        text(remedy),
    );
    html::page(&title, &body)
}

fn as_json(kind: ProblemKind) -> Response {
    let ProblemKind { code, status, meaning, remedy } = kind;
    axum::Json(json!({
        "type": Problem::type_of(code),
        "code": code,
        "title": kind.title(),
        "status": status,
        "meaning": meaning,
        "remedy": remedy,
    }))
    .into_response()
}

fn as_text(kind: ProblemKind) -> String {
    let ProblemKind { code, status, meaning, remedy } = kind;
    format!("{} (status {status}, code {code})\n\nWhat it means: {meaning}\n\nWhat to do: {remedy}\n", kind.title())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_html_and_a_program_what_it_asks_for() {
        let chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(format_for([chrome].into_iter()), Format::Html);
        assert_eq!(format_for(["application/json"].into_iter()), Format::Json);
        assert_eq!(format_for(["text/html;q=0.5, application/problem+json"].into_iter()), Format::Json);
        for text in ["*/*", "", "text/plain", "text/html;q=0", "text/html;q=x, image/png"] {
            assert_eq!(format_for([text].into_iter()), Format::Text, "{text}");
        }
    }
}
