//! The dashboard at `/ui`: one page, embedded, that talks to the API of the socket it came from.
//! Nothing is fetched from elsewhere, and the page's policy forbids it.

use bytes::Bytes;
use hyper::Method;

use crate::api::Reply;

const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
];

/// Answers for a path below `/ui`.
pub(crate) fn answer(method: &Method, rest: &[&str]) -> Reply {
    let (kind, text) = match rest {
        [] | [""] => ("text/html; charset=utf-8", include_str!("index.html")),
        ["app.css"] => ("text/css; charset=utf-8", include_str!("app.css")),
        ["app.js"] => ("text/javascript; charset=utf-8", include_str!("app.js")),
        ["icon.svg"] => ("image/svg+xml", include_str!("icon.svg")),
        _ => return Reply::not_found(),
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Reply::not_allowed();
    }
    Reply::Text(kind, Bytes::from_static(text.as_bytes()), HEADERS)
}
