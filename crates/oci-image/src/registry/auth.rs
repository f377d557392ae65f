//! Credentials and the two ways registries ask for them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::path::Path;

/// A user name and what proves it. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

impl Credentials {
    /// From its parts.
    pub fn new(user: impl Into<String>, secret: impl Into<String>) -> Self {
        Credentials {
            user: user.into(),
            secret: secret.into(),
        }
    }

    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", self.user, self.secret))
        )
    }
}

/// `auths` of a docker `config.json`. A missing file is empty; a damaged one is empty with a warning.
pub fn read_credentials(path: &Path) -> BTreeMap<String, Credentials> {
    let Ok(bytes) = std::fs::read(path) else {
        return BTreeMap::new();
    };
    match parse_config(&bytes) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "credentials file ignored");
            BTreeMap::new()
        }
    }
}

fn parse_config(bytes: &[u8]) -> Result<BTreeMap<String, Credentials>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, Auth>,
    }
    #[derive(serde::Deserialize)]
    struct Auth {
        #[serde(default)]
        auth: String,
    }
    let config: Config = serde_json::from_slice(bytes)?;
    let mut found = BTreeMap::new();
    for (server, auth) in config.auths {
        let Some((user, secret)) = STANDARD
            .decode(auth.auth)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| {
                text.split_once(':')
                    .map(|(user, secret)| (user.to_owned(), secret.to_owned()))
            })
        else {
            continue;
        };
        // Docker stores its own registry under a URL.
        let host = server
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        let host = if host == "index.docker.io" {
            "docker.io"
        } else {
            host
        };
        found.insert(host.to_owned(), Credentials { user, secret });
    }
    Ok(found)
}

/// What a 401 answer demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from this URL.
    Bearer {
        /// Where.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// Reads `WWW-Authenticate`.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut fields = parameters(rest);
    Some(Challenge::Bearer {
        realm: fields.remove("realm")?,
        service: fields.remove("service"),
        scope: fields.remove("scope"),
    })
}

/// `key="value with, commas",key=value`.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(key, value.to_owned());
        rest = next;
    }
    found
}

/// The token request of a bearer challenge.
pub(super) fn token_url(realm: &str, service: Option<&str>, scope: &str) -> String {
    let mut url = realm.to_owned();
    let mut joint = if realm.contains('?') { '&' } else { '?' };
    for (key, value) in [("service", service.unwrap_or_default()), ("scope", scope)] {
        if !value.is_empty() {
            url.push(joint);
            url.push_str(key);
            url.push('=');
            url.push_str(&percent(value));
            joint = '&';
        }
    }
    url
}

fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer {
            realm,
            service,
            scope,
        }) = challenge(header)
        else {
            panic!("no challenge")
        };
        assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(
            token_url(&realm, service.as_deref(), "repository:a b:pull"),
            "https://auth.example/token?service=registry.example&scope=repository:a%20b:pull"
        );
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(challenge("Negotiate"), None);
        assert_eq!(challenge("Bearer service=\"x\""), None);
    }

    #[test]
    fn docker_config_is_read_and_secrets_are_not_shown() {
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},"h:5000":{{}}}}}}"#,
            STANDARD.encode("u:p:q")
        );
        let found = parse_config(text.as_bytes()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["docker.io"]);
        assert_eq!(format!("{:?}", found["docker.io"]), "Credentials(u)");
        assert_eq!(found["docker.io"].secret, "p:q");
    }

    proptest! {
        #[test]
        fn any_header_is_survived(text in "\\PC{0,80}") {
            let _ = challenge(&text);
        }
    }
}
