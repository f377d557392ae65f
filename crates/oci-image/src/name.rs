//! Image names: what the user types, what is asked of a registry, what is shown.
//!
//! `ubuntu` is `docker.io/library/ubuntu:latest`; a first part with a dot, a colon or `localhost` is a
//! registry. This is the only place that normalises names; the familiar form is for showing.

use crate::digest::Digest;
use std::fmt;
use std::str::FromStr;

/// The registry meant when a name has none.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// A normalised image name. `Display` prints the familiar form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port of the registry.
    pub registry: String,
    /// Path inside the registry, `library/ubuntu`.
    pub repository: String,
    /// The tag; `latest` is filled in when there is neither tag nor digest.
    pub tag: Option<String>,
    /// The digest, which beats the tag.
    pub digest: Option<Digest>,
}

/// Why a name is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Characters or form outside the grammar.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// Upper-case letters, the commonest mistake.
    #[error("invalid reference format: repository name {0:?} must be lowercase")]
    UpperCase(String),
    /// Bad digest after `@`.
    #[error("invalid reference format: {0:?}")]
    Digest(String, #[source] crate::digest::DigestError),
    /// Longer than registries accept.
    #[error("invalid reference format: the name is longer than 255 bytes")]
    Long,
}

impl Reference {
    /// The host that serves this registry: docker.io answers under another name.
    pub fn host(&self) -> &str {
        match self.registry.as_str() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            other => other,
        }
    }

    /// What a manifest request names: the digest or the tag.
    pub fn manifest_id(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// Repository as users know it: without `docker.io` and `library/`.
    pub fn familiar_repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        // `library/a/b` keeps its whole name: `a/b` is another repository.
        match self.repository.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The same repository with another tag.
    pub fn with_tag(&self, tag: &str) -> Reference {
        Reference {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar_repository())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Format(text.to_owned());
        if text.len() > 400 {
            return Err(NameError::Long);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|error| NameError::Digest(text.to_owned(), error))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // The tag's colon comes after the last slash; an earlier one is a port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match rest[slash..].find(':') {
            Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad());
        }
        let (registry, repository) = split_registry(path);
        if !is_registry(&registry) {
            return Err(bad());
        }
        if !repository.split('/').all(is_path_part) {
            let lower = repository.to_lowercase();
            if lower != repository && lower.split('/').all(is_path_part) {
                return Err(NameError::UpperCase(repository));
            }
            return Err(bad());
        }
        if repository.len() > 255 {
            return Err(NameError::Long);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

fn split_registry(path: &str) -> (String, String) {
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_REGISTRY, path),
    };
    let registry = match registry {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return (registry.to_owned(), format!("library/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => {
                if !host
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b':')
                {
                    return false;
                }
                (host, port.strip_prefix(':'))
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => {
                if !is_host(host) {
                    return false;
                }
                (host, Some(port))
            }
            None => {
                if !is_host(text) {
                    return false;
                }
                (text, None)
            }
        },
    };
    !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// Lower-case letters and digits, in runs joined by one dot, one or two underscores, or any dashes.
fn is_path_part(part: &str) -> bool {
    let alnum = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes
        .split(alnum)
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, registry: &str, repository: &str, id: &str, shown: &str) {
        let name: Reference = text.parse().unwrap();
        assert_eq!(
            (
                name.registry.as_str(),
                name.repository.as_str(),
                name.manifest_id()
            ),
            (registry, repository, id)
        );
        assert_eq!(name.to_string(), shown);
    }

    #[test]
    fn only_a_single_word_is_shown_without_library() {
        for (text, shown) in [
            ("library/web", "web:latest"),
            ("docker.io/library/web:1", "web:1"),
            ("library/a/b", "library/a/b:latest"),
            ("h.example/library/web", "h.example/library/web:latest"),
        ] {
            let name: Reference = text.parse().unwrap();
            assert_eq!(name.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Reference>().unwrap(), name, "{text}");
        }
    }

    #[test]
    fn names_are_normalised_at_one_place() {
        check(
            "ubuntu",
            "docker.io",
            "library/ubuntu",
            "latest",
            "ubuntu:latest",
        );
        check("a/b", "docker.io", "a/b", "latest", "a/b:latest");
        check("a/b:1", "docker.io", "a/b", "1", "a/b:1");
        check(
            "localhost/a",
            "localhost",
            "a",
            "latest",
            "localhost/a:latest",
        );
        check(
            "10.0.2.2:5000/web",
            "10.0.2.2:5000",
            "web",
            "latest",
            "10.0.2.2:5000/web:latest",
        );
        check(
            "h.example/a/b/c:v_1",
            "h.example",
            "a/b/c",
            "v_1",
            "h.example/a/b/c:v_1",
        );
        check(
            "docker.io/ubuntu",
            "docker.io",
            "library/ubuntu",
            "latest",
            "ubuntu:latest",
        );
        check(
            "index.docker.io/a/b",
            "docker.io",
            "a/b",
            "latest",
            "a/b:latest",
        );
        check(
            "dockerfile/elasticsearch",
            "docker.io",
            "dockerfile/elasticsearch",
            "latest",
            "dockerfile/elasticsearch:latest",
        );
        let digest = Digest::of(b"");
        check(
            &format!("a@{digest}"),
            "docker.io",
            "library/a",
            digest.as_str(),
            &format!("a@{digest}"),
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            "A",
            "a b",
            "a:",
            "a:-",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a/..",
            "a.example/../../x",
            "a@sha256:12",
            "a@md5:00",
            "-a",
            "a-",
            "a:b:c",
            "h.example:99999/a",
            "h.example:x/a",
            "a..b",
            "a___b",
            "ä",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "Web".parse::<Reference>(),
            Err(NameError::UpperCase("library/Web".into()))
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_print_parse_is_stable(text in "[a-zA-Z0-9./:@_-]{0,60}") {
            if let Ok(name) = text.parse::<Reference>() {
                prop_assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
            }
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }
    }
}
