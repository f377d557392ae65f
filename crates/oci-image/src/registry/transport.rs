//! HTTP to one registry: scheme, certificates, tokens, retries.

use super::RegistryConfig;
use super::auth::{self, Challenge, Credentials};
use crate::digest::Digest;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

const ATTEMPTS: u32 = 5;
const CONNECT: Duration = Duration::from_secs(15);
const READ: Duration = Duration::from_secs(30);
const MAX_TOKEN: u64 = 1 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody there, name unknown, time-out, TLS trouble.
    #[error("{0}")]
    Connect(String),
    /// The server says that it has no such thing.
    #[error("not found")]
    NotFound,
    /// The server has no such repository.
    #[error("repository unknown")]
    NoRepository,
    /// The server wants to know who we are, or does and refuses.
    #[error("access denied")]
    Denied,
    /// Any other answer.
    #[error("the registry answered {status}{}{detail}", if .detail.is_empty() { "" } else { ": " })]
    Status {
        /// HTTP status.
        status: u16,
        /// What the body said.
        detail: String,
    },
    /// Bytes that are not what was asked for.
    #[error("wrong digest: wanted {wanted}, got {found}")]
    Digest {
        /// Asked for.
        wanted: String,
        /// Received.
        found: Digest,
    },
    /// More bytes than announced.
    #[error("the answer is larger than the {0} bytes it may have")]
    TooLarge(u64),
    /// The body stopped.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Something that is no registry.
    #[error("{0}")]
    Protocol(String),
    /// The machine's own file system.
    #[error("failed to store the data: {0}")]
    Local(io::Error),
}

impl Failure {
    /// Whether trying again may help.
    pub fn passing(&self) -> bool {
        match self {
            Failure::Status { status, .. } => *status == 429 || *status >= 500,
            Failure::Broken(_) => true,
            Failure::Connect(text) => text.contains("timeout") || text.contains("reset"),
            _ => false,
        }
    }
}

/// An answer with a good status.
pub(super) struct Answer(ureq::http::Response<ureq::Body>);

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.0
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub(super) fn bytes(self, limit: u64) -> Result<Vec<u8>, Failure> {
        read_limited(self.reader(), limit)
    }

    pub(super) fn reader(self) -> Box<dyn Read + Send> {
        Box::new(
            self.0
                .into_body()
                .into_with_config()
                .limit(u64::MAX)
                .reader(),
        )
    }
}

fn read_limited(reader: impl Read, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Broken(error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::TooLarge(limit));
    }
    Ok(bytes)
}

/// One host.
#[derive(Debug)]
pub(super) struct Transport {
    host: String,
    agent: ureq::Agent,
    /// Schemes in the order they are tried; the first that answers stays.
    schemes: Vec<&'static str>,
    credentials: Option<Credentials>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scheme: Option<&'static str>,
    /// `Authorization` by scope.
    authorization: BTreeMap<String, String>,
}

impl Transport {
    pub(super) fn registry(config: &RegistryConfig, host: &str, registry: &str) -> Self {
        let insecure = is_insecure(host, &config.insecure);
        let schemes = if insecure {
            vec!["https", "http"]
        } else {
            vec!["https"]
        };
        Self::new(
            config,
            host,
            schemes,
            insecure,
            config.credentials.get(registry).cloned(),
        )
    }

    pub(super) fn mirror(config: &RegistryConfig, url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
        let host = rest.trim_end_matches('/');
        let insecure = is_insecure(host, &config.insecure);
        let schemes = if scheme == "http" {
            vec!["http"]
        } else {
            vec!["https"]
        };
        Self::new(
            config,
            host,
            schemes,
            insecure,
            config.credentials.get(host).cloned(),
        )
    }

    fn new(
        config: &RegistryConfig,
        host: &str,
        schemes: Vec<&'static str>,
        insecure: bool,
        credentials: Option<Credentials>,
    ) -> Self {
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(READ))
            .timeout_per_write(Some(READ))
            .timeout_recv_response(Some(READ))
            .user_agent(concat!("flotilla/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(4)
            .tls_config(tls(&config.certs.join(host), insecure))
            .build();
        Transport {
            host: host.to_owned(),
            agent: settings.into(),
            schemes,
            credentials,
            state: Mutex::default(),
        }
    }

    pub(super) fn url(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "{}://{}",
            state.scheme.unwrap_or(self.schemes[0]),
            self.host
        )
    }

    pub(super) fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        scope: &str,
    ) -> Result<Answer, Failure> {
        self.send("GET", path, headers, &[], scope)
    }

    /// Sends with retries. `path` may be a whole URL (upload locations).
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        scope: &str,
    ) -> Result<Answer, Failure> {
        let mut wait = Duration::from_millis(300);
        let mut attempt = 1;
        loop {
            match self.authorized(method, path, headers, body, scope) {
                Err((failure, after)) if failure.passing() && attempt < ATTEMPTS => {
                    tracing::debug!(host = %self.host, %failure, attempt, "request failed, trying again");
                    std::thread::sleep(after.unwrap_or(wait).min(READ));
                    wait *= 2;
                    attempt += 1;
                }
                Err((failure, _)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    fn authorized(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        scope: &str,
    ) -> Result<Answer, (Failure, Option<Duration>)> {
        let known = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.authorization.get(scope).cloned()
        };
        let answer = self
            .once(method, path, headers, body, known.as_deref())
            .map_err(|failure| (failure, None))?;
        if answer.status() != 401 {
            return judge(answer);
        }
        // No token yet, or it ran out in the middle of a pull.
        let fresh = self
            .authorize(answer.header("www-authenticate"), scope)
            .map_err(|failure| (failure, None))?;
        let answer = self
            .once(method, path, headers, body, Some(&fresh))
            .map_err(|failure| (failure, None))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.authorization.insert(scope.to_owned(), fresh);
        drop(state);
        judge(answer)
    }

    fn authorize(&self, header: &str, scope: &str) -> Result<String, Failure> {
        match auth::challenge(header) {
            Some(Challenge::Basic) => self
                .credentials
                .as_ref()
                .map(Credentials::basic)
                .ok_or(Failure::Denied),
            Some(Challenge::Bearer {
                realm,
                service,
                scope: asked,
            }) => {
                let url = auth::token_url(
                    &realm,
                    service.as_deref(),
                    asked.as_deref().unwrap_or(scope),
                );
                // A password never goes over plain HTTP unless the registry itself may.
                if realm.starts_with("http://") && !self.schemes.contains(&"http") {
                    return Err(Failure::Protocol(format!(
                        "the registry wants a token from {realm}, without TLS"
                    )));
                }
                self.token(&url)
            }
            None => Err(Failure::Denied),
        }
    }

    fn token(&self, url: &str) -> Result<String, Failure> {
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut request = self.agent.get(url);
        if let Some(credentials) = &self.credentials {
            request = request.header("authorization", credentials.basic());
        }
        let answer = request
            .call()
            .map_err(|error| Failure::Connect(error.to_string()))?;
        if matches!(answer.status().as_u16(), 401 | 403) {
            return Err(Failure::Denied);
        }
        let (answer, _) = judge(Answer(answer))
            .map(|answer| (answer, ()))
            .map_err(|(failure, _)| failure)?;
        let bytes = answer.bytes(MAX_TOKEN)?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Protocol(format!("bad token answer: {error}")))?;
        let token = token
            .token
            .or(token.access_token)
            .ok_or_else(|| Failure::Protocol("token answer without a token".into()))?;
        Ok(format!("Bearer {token}"))
    }

    fn once(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        authorization: Option<&str>,
    ) -> Result<Answer, Failure> {
        let known = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .scheme;
        let candidates: Vec<&'static str> =
            known.map_or_else(|| self.schemes.clone(), |scheme| vec![scheme]);
        let mut last = Failure::Protocol("no scheme to try".into());
        for scheme in candidates {
            let url = if path.starts_with('/') {
                format!("{scheme}://{}{path}", self.host)
            } else {
                path.to_owned()
            };
            let mut request = ureq::http::Request::builder().method(method).uri(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let sent = if method == "GET" || method == "HEAD" {
                request
                    .body(())
                    .map_err(|error| error.to_string())
                    .map(|request| self.agent.run(request))
            } else {
                request
                    .body(body)
                    .map_err(|error| error.to_string())
                    .map(|request| self.agent.run(request))
            };
            match sent.map_err(Failure::Protocol)? {
                Ok(answer) => {
                    self.state
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .scheme = Some(scheme);
                    return Ok(Answer(answer));
                }
                Err(error) => last = Failure::Connect(error.to_string()),
            }
        }
        Err(last)
    }
}

fn judge(answer: Answer) -> Result<Answer, (Failure, Option<Duration>)> {
    let status = answer.status();
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let after = answer
        .header("retry-after")
        .parse()
        .ok()
        .map(Duration::from_secs);
    let body = answer.bytes(65536).unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    let failure = match status {
        401 | 403 => Failure::Denied,
        404 if body.contains("NAME_UNKNOWN") => Failure::NoRepository,
        404 => Failure::NotFound,
        _ => Failure::Status {
            status,
            detail: body.chars().filter(|c| !c.is_control()).take(200).collect(),
        },
    };
    Err((failure, after))
}

/// Loopback is always allowed; else the host, the host with its port, or a network that holds its address.
fn is_insecure(host: &str, list: &[String]) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(bare, _)| bare),
    };
    let address: Option<IpAddr> = bare.parse().ok();
    if bare == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    list.iter().any(|entry| {
        let entry = entry
            .trim_start_matches("http://")
            .trim_start_matches("https://")
            .trim_end_matches('/');
        entry == host || entry == bare || address.is_some_and(|address| in_network(address, entry))
    })
}

fn in_network(address: IpAddr, cidr: &str) -> bool {
    let Some((network, length)) = cidr.split_once('/') else {
        return false;
    };
    match (address, network.parse::<IpAddr>(), length.parse::<u32>()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(network)), Ok(length)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(network)), Ok(length)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(address) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}

fn tls(certs: &Path, insecure: bool) -> TlsConfig {
    let mut builder = TlsConfig::builder().disable_verification(insecure);
    let mut roots = Vec::new();
    let bundle = std::env::var_os("SSL_CERT_FILE")
        .unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into());
    for path in [Path::new(&bundle), &certs.join("ca.crt")] {
        roots.extend(certificates(path));
    }
    if !roots.is_empty() {
        builder = builder.root_certs(RootCerts::new_with_certs(&roots));
    }
    let chain = certificates(&certs.join("client.cert"));
    let key = std::fs::read(certs.join("client.key"))
        .ok()
        .and_then(|pem| PrivateKey::from_pem(&pem).ok());
    if let (false, Some(key)) = (chain.is_empty(), key) {
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    builder.build()
}

fn certificates(path: &Path) -> Vec<Certificate<'static>> {
    let Ok(pem) = std::fs::read(path) else {
        return Vec::new();
    };
    ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_listed_hosts_are_insecure() {
        let list = vec![
            "10.0.2.2:5000".to_owned(),
            "r.example".to_owned(),
            "192.168.0.0/16".to_owned(),
        ];
        for (host, expected) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:1", true),
            ("10.0.2.2:5000", true),
            ("10.0.2.2:5001", false),
            ("r.example:443", true),
            ("192.168.3.4:5000", true),
            ("192.169.3.4:5000", false),
            ("registry-1.docker.io", false),
            ("127.evil.example", false),
        ] {
            assert_eq!(is_insecure(host, &list), expected, "{host}");
        }
    }
}
