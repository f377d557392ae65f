//! What kind of user-data the bytes are: document, script, list of addresses, several parts, nothing.
//!
//! Owns the marker rules of the first line, gzip and MIME. Does not look inside a document.

use crate::config::content::{self, ContentError};
use crate::config::header_finding;
use crate::finding::Report;
use crate::yaml::Mark;

/// Largest user-data that is read, before inflating.
pub const MAX_INPUT: usize = 32 << 20;

/// How deep parts may contain parts.
const MAX_MIME_DEPTH: usize = 4;

/// Recognised user-data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing to do.
    Empty,
    /// A program text that begins with `#!`.
    Script(String),
    /// A cloud-config document, marker line included, so that line numbers are true.
    Document(String),
    /// Ignition's JSON: left to others.
    Ignition,
    /// `#include`: addresses of further user-data.
    Include(Vec<String>),
    /// MIME parts in order, with a line for each part that is skipped.
    Parts(Vec<Input>, Vec<String>),
    /// Something else.
    Unknown,
}

/// Why the bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// More than [`MAX_INPUT`].
    #[error("user-data is larger than {} MiB", MAX_INPUT >> 20)]
    TooLarge,
    /// gzip magic, but no whole gzip stream.
    #[error("user-data is compressed, but cannot be inflated")]
    Gzip(#[source] ContentError),
    /// Bytes that are no UTF-8.
    #[error("line {line}: user-data is not UTF-8 text")]
    NotText {
        /// Line of the first bad byte.
        line: u32,
    },
    /// A multipart message that is cut or says no boundary.
    #[error("user-data is a broken MIME message: {0}")]
    Mime(&'static str),
}

/// Recognises user-data; compressed input is inflated once.
pub fn classify(bytes: &[u8]) -> Result<Input, InputError> {
    if bytes.len() > MAX_INPUT {
        return Err(InputError::TooLarge);
    }
    let inflated;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        inflated = content::gunzip(bytes).map_err(InputError::Gzip)?;
        &inflated
    } else {
        bytes
    };
    text(bytes).and_then(|text| classify_text(text, 0))
}

fn text(bytes: &[u8]) -> Result<&str, InputError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let newlines = bytes[..error.valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        InputError::NotText {
            line: u32::try_from(newlines + 1).unwrap_or(u32::MAX),
        }
    })
}

fn classify_text(text: &str, depth: usize) -> Result<Input, InputError> {
    let first = text.split('\n').next().unwrap_or_default().trim_end();
    let lower = first.to_ascii_lowercase();
    if text.is_empty() {
        Ok(Input::Empty)
    } else if first.starts_with("#!") {
        Ok(Input::Script(text.to_owned()))
    } else if first == "#cloud-config" {
        Ok(Input::Document(text.to_owned()))
    } else if first == "#include" || first == "#include-once" {
        Ok(Input::Include(addresses(text)))
    } else if lower.starts_with("content-type:") || lower.starts_with("mime-version:") {
        let mut parts = Vec::new();
        let mut notes = Vec::new();
        message(text, depth, &mut parts, &mut notes)?;
        Ok(Input::Parts(parts, notes))
    } else if is_ignition(text) {
        Ok(Input::Ignition)
    } else {
        Ok(Input::Unknown)
    }
}

fn addresses(text: &str) -> Vec<String> {
    let lines = text.lines().skip(1).map(str::trim);
    lines
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn is_ignition(text: &str) -> bool {
    if !text.trim_start().starts_with('{') {
        return false;
    }
    let Ok(json) = serde_json::from_str::<serde_json::Value>(text) else {
        return false;
    };
    json.get("ignitionVersion").is_some()
        || json
            .get("ignition")
            .and_then(|i| i.get("version"))
            .is_some()
}

/// Headers of a MIME entity, names in lower case, and its body.
fn split_headers(text: &str) -> (Vec<(String, String)>, &str) {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        let line = line.trim_end_matches('\r');
        rest = after;
        if line.is_empty() {
            return (headers, rest);
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    (headers, "")
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> &'h str {
    headers
        .iter()
        .find(|(n, _)| n == name)
        .map_or("", |(_, v)| v.as_str())
}

fn parameter(value: &str, name: &str) -> Option<String> {
    for part in value.split(';').skip(1) {
        if let Some((key, text)) = part.split_once('=')
            && key.trim().eq_ignore_ascii_case(name)
        {
            return Some(text.trim().trim_matches('"').to_owned());
        }
    }
    None
}

fn message(
    text: &str,
    depth: usize,
    parts: &mut Vec<Input>,
    notes: &mut Vec<String>,
) -> Result<(), InputError> {
    if depth > MAX_MIME_DEPTH {
        return Err(InputError::Mime("parts within parts are nested too deep"));
    }
    let (headers, body) = split_headers(text);
    let kind = header(&headers, "content-type");
    let media = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if media.starts_with("multipart/") {
        let boundary = parameter(kind, "boundary").filter(|b| !b.is_empty());
        let boundary = boundary.ok_or(InputError::Mime("no boundary is given"))?;
        for part in split_parts(body, &boundary)? {
            message(part, depth + 1, parts, notes)?;
        }
        return Ok(());
    }
    let body = match header(&headers, "content-transfer-encoding")
        .to_ascii_lowercase()
        .as_str()
    {
        "base64" => content::base64_decode(body.as_bytes())
            .map_err(|_| InputError::Mime("a part is not valid base64"))?,
        "" | "7bit" | "8bit" | "binary" => body.as_bytes().to_vec(),
        other => {
            notes.push(format!("part with transfer encoding {other} skipped"));
            return Ok(());
        }
    };
    let body = if body.starts_with(&[0x1f, 0x8b]) {
        content::gunzip(&body).map_err(InputError::Gzip)?
    } else {
        body
    };
    let body = self::text(&body)?;
    match media.as_str() {
        "text/cloud-config" => parts.push(Input::Document(body.to_owned())),
        "text/x-shellscript" => parts.push(Input::Script(body.to_owned())),
        "text/x-include-url" | "text/x-include-once-url" => {
            parts.push(Input::Include(addresses(&format!("\n{body}"))));
        }
        "text/plain" | "application/octet-stream" | "" => match classify_text(body, depth + 1)? {
            Input::Empty => {}
            Input::Unknown => notes.push("part of no known kind skipped".to_owned()),
            known => parts.push(known),
        },
        other => notes.push(format!("part of type {other} skipped")),
    }
    Ok(())
}

fn split_parts<'t>(body: &'t str, boundary: &str) -> Result<Vec<&'t str>, InputError> {
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut start = None;
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        let bare = line.trim_end();
        let last = bare
            .strip_prefix(&delimiter)
            .is_some_and(|rest| rest == "--");
        if bare == delimiter || last {
            if let Some(start) = start {
                parts.push(&body[start..at]);
            }
            start = Some(at + line.len());
            if last {
                return Ok(parts);
            }
        }
        at += line.len();
    }
    Err(InputError::Mime("the closing boundary is missing"))
}

/// Validates user-data of any kind. Only documents have findings; broken input has one error.
pub fn validate(bytes: &[u8]) -> Report {
    match classify(bytes) {
        Ok(input) => validate_input(&input),
        Err(InputError::NotText { line }) => {
            let mut report = header_finding(Mark { line, column: 1 });
            report.findings[0].message = "the text is not valid UTF-8".to_owned();
            report
        }
        Err(error) => {
            let mut report = header_finding(Mark::START);
            report.findings[0].message = error.to_string();
            report
        }
    }
}

fn validate_input(input: &Input) -> Report {
    match input {
        Input::Document(text) => crate::config::validate(text),
        Input::Unknown => header_finding(Mark::START),
        Input::Parts(parts, _) => {
            let findings = parts
                .iter()
                .flat_map(|p| validate_input(p).findings)
                .collect();
            Report { findings }
        }
        Input::Empty | Input::Script(_) | Input::Ignition | Input::Include(_) => Report::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn kind(text: &str) -> &'static str {
        match classify(text.as_bytes()).unwrap() {
            Input::Empty => "empty",
            Input::Script(_) => "script",
            Input::Document(_) => "document",
            Input::Ignition => "ignition",
            Input::Include(_) => "include",
            Input::Parts(..) => "parts",
            Input::Unknown => "unknown",
        }
    }

    #[test]
    fn the_first_line_decides() {
        let cases = [
            ("", "empty"),
            ("#!/bin/python\n", "script"),
            ("#!", "script"),
            ("#cloud-config", "document"),
            ("#cloud-config \t\r\na: 1", "document"),
            ("#cloud-config-archive\n", "unknown"),
            ("\n#cloud-config\n", "unknown"),
            ("\u{feff}#cloud-config\n", "unknown"),
            ("hostname: a\n", "unknown"),
            ("{\"ignitionVersion\": 1}", "ignition"),
            ("{\"ignition\": {\"version\": \"2.0.0\"}}", "ignition"),
            ("{\"a\": 1}", "unknown"),
            ("#include\nhttp://a/b\n", "include"),
        ];
        for (text, want) in cases {
            assert_eq!(kind(text), want, "{text:?}");
        }
    }

    #[test]
    fn mime_parts_come_in_order() {
        let text = "Content-Type: multipart/mixed; boundary=\"XX\"\nMIME-Version: 1.0\n\n--XX\n\
            Content-Type: text/cloud-config\n\n#cloud-config\nhostname: a\n\n--XX\n\
            Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\nIyEvYmluL3NoCg==\n\
            --XX\nContent-Type: image/png\n\nx\n--XX--\n";
        let Input::Parts(parts, notes) = classify(text.as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!(
            parts,
            [
                Input::Document("#cloud-config\nhostname: a\n\n".into()),
                Input::Script("#!/bin/sh\n".into())
            ]
        );
        assert_eq!(notes, ["part of type image/png skipped"]);
        assert!(classify(b"Content-Type: multipart/mixed\n\nx").is_err());
        assert!(classify(b"Content-Type: multipart/mixed; boundary=a\n\n--a\nx").is_err());
    }

    #[test]
    fn broken_gzip_is_refused() {
        assert!(matches!(
            classify(&[0x1f, 0x8b, 8, 0]),
            Err(InputError::Gzip(_))
        ));
        assert!(matches!(
            classify(b"#cloud-config\na: \xff"),
            Err(InputError::NotText { line: 2 })
        ));
    }
}
