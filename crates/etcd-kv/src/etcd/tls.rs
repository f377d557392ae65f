//! TLS towards etcd: whom to trust, who we are, and what is wrong with the files that say so.
//!
//! The server is always verified: against the authorities given, or against the system's where none
//! are given. There is no way to turn that off. Files are read once, when [`Tls::load`] is called.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::Endpoint;

/// Where Debian keeps the authorities that the machine trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The files that TLS needs, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Authorities that the server's certificate is checked against; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate, followed by those between it and its authority.
    pub cert: Option<PathBuf>,
    /// The key of our certificate, not encrypted.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether any file is given.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.key.is_some()
    }
}

/// Why TLS cannot be used; names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate needs its key and a key its certificate.
    #[error("{given} is of no use without a {missing} file")]
    Half {
        /// The file given.
        given: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// Certificate and key are not a pair.
    #[error("the key in {key} does not belong to the certificate in {cert}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// TLS settings, ready for use. Cloning is cheap.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    trusted: Arc<Path>,
    identified: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("trusted", &self.trusted)
            .field("identified", &self.identified)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// What these endpoints need: nothing, if none is spoken to over TLS and no file is given. Files
    /// that are given are read in any case, so that a bad one is found at once.
    pub fn for_endpoints(
        endpoints: &[Endpoint],
        files: &TlsFiles,
    ) -> Result<Option<Self>, TlsError> {
        let wanted = files.is_set() || endpoints.iter().any(Endpoint::is_tls);
        wanted.then(|| Self::load(files)).transpose()
    }

    /// Reads and checks the files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let trusted = files.ca.clone();
        let trusted = trusted.unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES));
        let mut roots = RootCertStore::empty();
        for authority in certificates(&trusted)? {
            roots.add(authority).map_err(|e| TlsError::Content {
                path: trusted.clone(),
                problem: format!("not usable as an authority: {e}"),
            })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports the protocol versions that it was made for")
            .with_root_certificates(roots);
        let mut config = match (&files.cert, &files.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(given), None) => {
                return Err(TlsError::Half {
                    given: given.clone(),
                    missing: "key",
                });
            }
            (None, Some(given)) => {
                return Err(TlsError::Half {
                    given: given.clone(),
                    missing: "certificate",
                });
            }
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                let pair = builder.with_client_auth_cert(chain, private_key(key)?);
                pair.map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                        cert: cert.clone(),
                        key: key.clone(),
                    },
                    error => TlsError::Content {
                        path: cert.clone(),
                        problem: format!("not usable with {}: {error}", key.display()),
                    },
                })?
            }
        };
        // etcd tells gRPC from its other protocols by this.
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            trusted: trusted.into(),
            identified: files.cert.is_some(),
        })
    }

    /// Speaks TLS on a connected socket.
    pub(super) async fn connect(
        &self,
        host: &str,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("\"{host}\" cannot be a name in a certificate"))?;
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector
            .connect(name, tcp)
            .await
            .map_err(|e| self.explain(&e))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("the server does not speak HTTP/2 over TLS".into());
        }
        Ok(stream)
    }

    /// What failed, with what the reader needs to mend it.
    fn explain(&self, error: &std::io::Error) -> String {
        let inner = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(why)) => format!(
                "the server's certificate is refused: {why:?} (authorities: {})",
                self.trusted.display()
            ),
            Some(rustls::Error::InvalidMessage(_)) => "the server does not speak TLS".into(),
            // Closing with our greeting unread is a reset to us.
            None if matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
            ) =>
            {
                "the server hung up in the TLS handshake, as one that does not speak TLS".into()
            }
            _ => error.to_string(),
        }
    }

    /// The server judges our certificate after the handshake, and may then just hang up.
    pub(super) fn explain_hang_up(&self, reason: &str) -> String {
        let guess = if self.identified {
            "refuse our certificate"
        } else {
            "want a client certificate, none is set"
        };
        format!("{reason}; after the TLS handshake, so the server may {guess}")
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let content = |problem: String| TlsError::Content {
        path: path.to_owned(),
        problem,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| content(format!("not PEM: {e}")))?;
    if found.is_empty() {
        return Err(content("holds no certificate (PEM is expected)".into()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let encrypted = String::from_utf8_lossy(&text).contains("ENCRYPTED");
        let problem = match error {
            PemError::NoItemsFound if encrypted => {
                "the key is encrypted; a key without a pass phrase is needed".into()
            }
            PemError::NoItemsFound => "holds no private key (PEM is expected)".into(),
            error => format!("not PEM: {error}"),
        };
        TlsError::Content {
            path: path.to_owned(),
            problem,
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}
