//! Reading requests: paths, queries and bodies, with their limits.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, ORIGIN, USER_AGENT};
use tokio::time::timeout;

use super::reply::Reply;

/// Largest request body. etcd takes no more than 1.5 MiB in one request.
pub(super) const MAX_BODY: usize = 1 << 20;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A path, decoded and cut at its slashes. `None` if an escape or the text is broken, or it does
/// not begin with a slash.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    let decoded = percent_decode(path)?;
    let rest = decoded.strip_prefix('/')?;
    Some(rest.split('/').map(str::to_owned).collect())
}

/// `%40` and the like; `None` if an escape is broken or the result is not text.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Values of a key in a query string, in order. A key without `=` has an empty value.
pub(super) fn query_values(query: &str, key: &str) -> Vec<String> {
    let decode = |text: &str| percent_decode(&text.replace('+', " "));
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(k, _)| decode(k).as_deref() == Some(key))
        .filter_map(|(_, value)| decode(value))
        .collect()
}

/// Exactly one Content-Type, and it is JSON, with or without parameters.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let media = value.to_str().unwrap_or("").split(';').next().unwrap_or("");
    media.trim().eq_ignore_ascii_case("application/json")
}

/// Whether a browser sends this for a page of somebody else. Programs send no Origin.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let host = headers.get(HOST).and_then(|h| h.to_str().ok());
    let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// Whether a browser was led here by a name that it could have been given for another place: a page
/// of somebody else whose name now points to this machine. Only TLS tells such names apart, so
/// without it browsers must use an address, `localhost`, or a name without a domain.
pub(super) fn is_led_astray(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if !text(USER_AGENT).is_some_and(|agent| agent.starts_with("Mozilla/")) {
        return false;
    }
    let Some(host) = text(HOST) else {
        return true;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().is_ok();
    let local = name == "localhost" || name.ends_with(".localhost") || !name.contains('.');
    !address && !local
}

/// Reads a JSON body of limited size in limited time.
pub(super) async fn read_json<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Reply> {
    decode(&read(body).await?)
}

/// The same for a body that may be left out.
pub(super) async fn read_json_or_nothing<T: serde::de::DeserializeOwned>(
    body: Incoming,
) -> Result<Option<T>, Reply> {
    let body = read(body).await?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    decode(&body).map(Some)
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    serde_json::from_slice(body)
        .map_err(|e| Reply::bad_request(format!("unable to decode body: {e}")))
}

async fn read(body: Incoming) -> Result<Bytes, Reply> {
    let read = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect());
    match read.await {
        Err(_) => {
            let message = "the body did not arrive in time";
            Err(Reply::error(StatusCode::REQUEST_TIMEOUT, message))
        }
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let message = format!("the body is larger than {MAX_BODY} bytes");
            Err(Reply::error(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(e)) => Err(Reply::bad_request(format!("unable to read body: {e}"))),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_decoded_and_cut() {
        let cut = |path| segments(path).map(|s| s.join("|"));
        for (path, expect) in [
            ("/", Some("")),
            ("/fleet/v1/units/", Some("fleet|v1|units|")),
            ("/u/a%401.service", Some("u|a@1.service")),
            ("/u/a%2Fb", Some("u|a|b")),
            ("x", None),
            ("*", None),
            ("/%", None),
            ("/%4", None),
            ("/%+4", None),
            ("/%ff", None),
        ] {
            assert_eq!(cut(path).as_deref(), expect, "{path}");
        }
    }

    #[test]
    fn query_values_are_found_and_decoded() {
        for (query, expect) in [
            ("a=1&b=2&a=%33+x", &["1", "3 x"][..]),
            ("%61=1", &["1"]),
            ("a", &[""]),
            ("b=a=1", &[]),
            ("a=%&a=2", &["2"]),
            ("", &[]),
        ] {
            assert_eq!(query_values(query, "a"), expect, "{query}");
        }
    }

    #[test]
    fn one_content_type_and_it_is_json() {
        let headers = |values: &[&str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(CONTENT_TYPE, value.parse().unwrap());
            }
            map
        };
        assert!(is_json(&headers(&["application/json"])));
        assert!(is_json(&headers(&["Application/JSON; charset=utf-8"])));
        assert!(!is_json(&headers(&[])));
        assert!(!is_json(&headers(&["text/plain"])));
        assert!(!is_json(&headers(&[
            "application/json",
            "application/json"
        ])));
    }

    #[test]
    fn pages_of_others_are_known_by_their_origin() {
        for (origin, host, expect) in [
            (None, Some("h"), false),
            (Some("http://h:1"), Some("h:1"), false),
            (Some("http://evil"), Some("h"), true),
            (Some("null"), Some("h"), true),
            (Some("http://h"), None, true),
        ] {
            let mut headers = HeaderMap::new();
            let mut set =
                |name, value: Option<&str>| value.map(|v| headers.insert(name, v.parse().unwrap()));
            set(ORIGIN, origin);
            set(HOST, host);
            assert_eq!(is_foreign(&headers), expect, "{origin:?} {host:?}");
        }
    }

    #[test]
    fn browsers_come_by_names_that_cannot_be_bent() {
        const BROWSER: Option<&str> = Some("Mozilla/5.0 (X11)");
        for (agent, host, expect) in [
            (BROWSER, Some("localhost:8080"), false),
            (BROWSER, Some("10.0.2.11:49153"), false),
            (BROWSER, Some("[fe80::1]:1"), false),
            (BROWSER, Some("[::1]"), false),
            (BROWSER, Some("node1"), false),
            (BROWSER, Some("a.localhost"), false),
            (BROWSER, Some("evil.example:8080"), true),
            (BROWSER, Some("evil.example"), true),
            (BROWSER, Some("127.0.0.1.evil.example"), true),
            (BROWSER, None, true),
            (Some("Go-http-client/1.1"), Some("node1.example"), false),
            (Some("curl/8"), Some("node1.example:1"), false),
            (None, None, false),
        ] {
            let mut headers = HeaderMap::new();
            let mut set =
                |name, value: Option<&str>| value.map(|v| headers.insert(name, v.parse().unwrap()));
            set(USER_AGENT, agent);
            set(HOST, host);
            assert_eq!(is_led_astray(&headers), expect, "{agent:?} {host:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC{0,40}") {
            let _ = segments(&text);
            let _ = query_values(&text, "a");
        }
    }
}
