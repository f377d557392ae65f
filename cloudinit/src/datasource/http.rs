//! GET with retries: what sources over the network share.

use std::time::{Duration, Instant};

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// One request may take this long.
const PER_REQUEST: Duration = Duration::from_secs(10);
/// First pause between attempts; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Attempts after the first one.
const RETRIES: u32 = 15;
/// Largest body.
const MAX_BODY: u64 = crate::input::MAX_INPUT as u64;
/// Where the trusted certificates of the machine are.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why a GET gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An answer of the 4xx kind: asking again is useless.
    #[error("{url}: the server answered {status}")]
    Refused {
        /// Address.
        url: String,
        /// Status.
        status: u16,
    },
    /// No good answer in all attempts.
    #[error("{url}: no answer after {attempts} attempt(s)")]
    Failed {
        /// Address.
        url: String,
        /// How often.
        attempts: u32,
        /// The last reason.
        #[source]
        source: Box<ureq::Error>,
    },
    /// Not http or https.
    #[error("{0} is not an http or https address")]
    Scheme(String),
}

impl HttpError {
    /// Whether the server said that there is no such thing.
    pub fn is_refused(&self) -> bool {
        matches!(self, HttpError::Refused { .. })
    }
}

/// A client with headers that go with every request.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    headers: Vec<(String, String)>,
    deadline: Option<Instant>,
    retries: u32,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client that trusts the machine's certificates.
    pub fn new() -> Self {
        let roots = machine_certificates();
        let roots = if roots.is_empty() {
            RootCerts::WebPki
        } else {
            RootCerts::Specific(roots.into())
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PER_REQUEST))
            .http_status_as_error(false)
            // Metadata services are never behind a proxy, and user data must not leak to one.
            .proxy(None)
            .user_agent(concat!("flotilla-cloudinit/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build()
            .into();
        Self {
            agent,
            headers: Vec::new(),
            deadline: None,
            retries: RETRIES,
        }
    }

    /// Adds a header to every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Stops trying at a moment, however many attempts are left.
    #[must_use]
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Makes a single attempt only.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.retries = 0;
        self
    }

    /// The body of a 2xx answer.
    pub fn get(&self, url: &str) -> Result<Vec<u8>, HttpError> {
        self.retry(url, || self.attempt(url))
    }

    /// The body of a 2xx answer to a PUT without a body, with headers of its own.
    pub fn put(&self, url: &str, headers: &[(&str, &str)]) -> Result<Vec<u8>, HttpError> {
        self.retry(url, || {
            let mut request = self.agent.put(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            body_of(request.send_empty()?)
        })
    }

    fn retry(
        &self,
        url: &str,
        attempt: impl Fn() -> Result<Result<Vec<u8>, u16>, ureq::Error>,
    ) -> Result<Vec<u8>, HttpError> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(HttpError::Scheme(url.to_owned()));
        }
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let error = match attempt() {
                Ok(Ok(body)) => return Ok(body),
                Ok(Err(status)) if (400..500).contains(&status) => {
                    return Err(HttpError::Refused {
                        url: url.to_owned(),
                        status,
                    });
                }
                Ok(Err(status)) => ureq::Error::StatusCode(status),
                Err(error) => error,
            };
            let late = self.deadline.is_some_and(|d| Instant::now() + pause >= d);
            if attempts > self.retries || late {
                let (url, source) = (url.to_owned(), Box::new(error));
                return Err(HttpError::Failed {
                    url,
                    attempts,
                    source,
                });
            }
            tracing::debug!(url, %error, "no answer yet");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// As [`Client::get`], where an absent thing is an answer.
    pub fn get_optional(&self, url: &str) -> Result<Option<Vec<u8>>, HttpError> {
        match self.get(url) {
            Err(error) if error.is_refused() => Ok(None),
            other => other.map(Some),
        }
    }

    fn attempt(&self, url: &str) -> Result<Result<Vec<u8>, u16>, ureq::Error> {
        let mut request = self.agent.get(url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        body_of(request.call()?)
    }
}

/// The body of a good answer, or the status of another.
fn body_of(
    mut response: ureq::http::Response<ureq::Body>,
) -> Result<Result<Vec<u8>, u16>, ureq::Error> {
    let status = response.status().as_u16();
    if !(200..300).contains(&status) {
        return Ok(Err(status));
    }
    response
        .body_mut()
        .with_config()
        .limit(MAX_BODY)
        .read_to_vec()
        .map(Ok)
}

fn machine_certificates() -> Vec<Certificate<'static>> {
    let Ok(pem) = std::fs::read(CERTIFICATES) else {
        return Vec::new();
    };
    parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(cert)) => Some(cert),
            _ => None,
        })
        .collect()
}
