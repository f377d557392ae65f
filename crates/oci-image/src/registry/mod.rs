//! Talks to registries: which hosts to ask, authentication, manifests, blobs, uploads.
//!
//! Every request has time-outs (connect 15 s, each read 30 s), a limit on what is read, and is tried again
//! up to five times when the failure may pass (5xx, 429, time-out, reset). Plain HTTP and unverified TLS are
//! for loopback and the hosts on the insecure list only. Mirrors are asked for names of docker.io only.

mod auth;
mod transport;

pub use auth::{Credentials, read_credentials};
pub use transport::Failure;

use crate::digest::Digest;
use crate::manifest::{MAX_MANIFEST, media};
use crate::name::{DEFAULT_REGISTRY, Reference};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use transport::Transport;

/// What the machine's configuration says about registries.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// URLs asked first for names of docker.io.
    pub mirrors: Vec<String>,
    /// `host`, `host:port` or CIDR that may be spoken to without verified TLS.
    pub insecure: Vec<String>,
    /// Registries never asked.
    pub blocked: Vec<String>,
    /// Who we are, by registry.
    pub credentials: BTreeMap<String, Credentials>,
    /// `<host:port>/ca.crt`, `client.cert`, `client.key`.
    pub certs: PathBuf,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            blocked: Vec::new(),
            credentials: BTreeMap::new(),
            certs: PathBuf::from("/etc/docker/certs.d"),
        }
    }
}

/// One failed host.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {failure}")]
pub struct HostFailure {
    /// Which.
    pub url: String,
    /// Why.
    pub failure: Failure,
}

/// Why nothing could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Refused by configuration.
    #[error("registry {0} is blocked by this machine's configuration")]
    Blocked(String),
    /// No such repository, or not for us.
    #[error("pull access denied for {0}, repository does not exist or may require 'docker login'")]
    Denied(String),
    /// The repository lacks the tag.
    #[error("manifest for {0} not found: manifest unknown")]
    NoManifest(String),
    /// Each host with its reason.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Hosts(Vec<HostFailure>),
}

/// A manifest as it came, with the digest of its bytes.
#[derive(Debug)]
pub struct RawManifest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The answer's type.
    pub content_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
}

/// A registry (or mirror) that serves one repository.
#[derive(Debug)]
pub struct Remote {
    transport: Transport,
    repository: String,
}

/// The hosts to ask for a name, in order.
pub fn remotes(config: &RegistryConfig, name: &Reference) -> Result<Vec<Remote>, RegistryError> {
    if config.blocked.contains(&name.registry) {
        return Err(RegistryError::Blocked(name.registry.clone()));
    }
    let remote = |transport| Remote {
        transport,
        repository: name.repository.clone(),
    };
    let mut remotes = Vec::new();
    if name.registry == DEFAULT_REGISTRY {
        for mirror in &config.mirrors {
            remotes.push(remote(Transport::mirror(config, mirror)));
        }
    }
    remotes.push(remote(Transport::registry(
        config,
        name.host(),
        &name.registry,
    )));
    Ok(remotes)
}

/// The manifest from the first host that has it, and that host.
pub fn find_manifest(
    config: &RegistryConfig,
    name: &Reference,
) -> Result<(Remote, RawManifest), RegistryError> {
    let mut failures = Vec::new();
    let all = remotes(config, name)?;
    let count = all.len();
    for remote in all {
        match remote.manifest(name.manifest_id()) {
            Ok(manifest) => return Ok((remote, manifest)),
            Err(failure) => failures.push(HostFailure {
                url: remote.url(),
                failure,
            }),
        }
    }
    // With one host the words that scripts look for; with several, what each of them said.
    match failures.last().map(|last| &last.failure) {
        Some(Failure::NotFound) if count == 1 => Err(RegistryError::NoManifest(name.to_string())),
        Some(Failure::Denied | Failure::NoRepository) if count == 1 => {
            Err(RegistryError::Denied(name.familiar_repository()))
        }
        _ => Err(RegistryError::Hosts(failures)),
    }
}

impl Remote {
    /// For messages.
    pub fn url(&self) -> String {
        self.transport.url()
    }

    /// One manifest by tag or digest; the bytes are checked when a digest was asked for or named.
    pub fn manifest(&self, id: &str) -> Result<RawManifest, Failure> {
        let path = format!("/v2/{}/manifests/{id}", self.repository);
        let accept = media::ACCEPT.join(", ");
        let headers = [("accept", accept.as_str())];
        let answer = self.transport.get(&path, &headers, &self.pull_scope())?;
        let content_type = answer.header("content-type").to_owned();
        let named = answer.header("docker-content-digest").to_owned();
        let bytes = answer.bytes(MAX_MANIFEST)?;
        let digest = Digest::of(&bytes);
        let wanted = if id.contains(':') { id } else { named.as_str() };
        if wanted.starts_with("sha256:") && wanted != digest.as_str() {
            return Err(Failure::Digest {
                wanted: wanted.to_owned(),
                found: digest,
            });
        }
        Ok(RawManifest {
            bytes,
            content_type,
            digest,
        })
    }

    /// A blob's bytes from `offset` on, and the offset the server really starts at (0 without Range support).
    pub fn blob(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<(Box<dyn Read + Send>, u64), Failure> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let range = format!("bytes={offset}-");
        let headers: &[(&str, &str)] = if offset > 0 {
            &[("range", range.as_str())]
        } else {
            &[]
        };
        let answer = self.transport.get(&path, headers, &self.pull_scope())?;
        let start = if answer.status() == 206 { offset } else { 0 };
        Ok((answer.reader(), start))
    }

    fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    fn push_scope(&self) -> String {
        format!("repository:{}:pull,push", self.repository)
    }

    /// Whether the registry has a blob.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, Failure> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        match self
            .transport
            .send("HEAD", &path, &[], &[], &self.push_scope())
        {
            Ok(_) => Ok(true),
            Err(Failure::NotFound | Failure::NoRepository) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Uploads a blob.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Failure> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let answer = self
            .transport
            .send("POST", &path, &[], &[], &self.push_scope())?;
        let location = answer.header("location").to_owned();
        if location.is_empty() {
            return Err(Failure::Protocol(
                "the registry gave no upload location".into(),
            ));
        }
        let joint = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{joint}digest={digest}");
        let headers = [("content-type", "application/octet-stream")];
        self.transport
            .send("PUT", &target, &headers, bytes, &self.push_scope())
            .map(|_| ())
    }

    /// Uploads a manifest under a tag.
    pub fn put_manifest(&self, tag: &str, content_type: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let headers = [("content-type", content_type)];
        self.transport
            .send("PUT", &path, &headers, bytes, &self.push_scope())
            .map(|_| ())
    }
}
