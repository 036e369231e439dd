//! Pages for people: one plain style, light and dark, and a Content-Security-Policy that lets a page load nothing else.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const STYLE: &str = "\
    :root{color-scheme:light dark}\
    body{font:1rem/1.6 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1.25rem}\
    h1{line-height:1.25;margin-bottom:.25rem}\
    h2{font-size:1.05rem;margin:1.75rem 0 .25rem}\
    p{margin:.25rem 0}\
    code{font:.9em ui-monospace,monospace;background:color-mix(in srgb,currentColor 10%,transparent);\
    padding:.1em .3em;border-radius:.25em}\
    .sub{opacity:.75}\
    nav{margin-top:2.5rem}";

/// Allows the one style by its digest.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!("default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'");
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// A page with this title. `body` is HTML.
pub(super) fn page(title: &str, body: &str) -> Response {
    let title = text(title);
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n{body}\n</html>\n"
    );
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, POLICY.clone()),
    ];
    (headers, page).into_response()
}

/// The text with what HTML gives a meaning escaped, and what stands between backticks as code.
pub(super) fn text(plain: &str) -> String {
    let mut html = String::with_capacity(plain.len());
    let mut is_code = false;
    for letter in plain.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '`' => {
                let _ = write!(html, "<{}code>", if is_code { "/" } else { "" });
                is_code = !is_code;
            }
            letter => html.push(letter),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_become_markup_and_code_is_marked() {
        assert_eq!(text("a <b> & \"c\""), "a &lt;b&gt; &amp; &quot;c&quot;");
        assert_eq!(text("send `a<b` again"), "send <code>a&lt;b</code> again");
    }
}
