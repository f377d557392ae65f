//! Certificates for `https://`.
//!
//! The server's certificate is verified always: against `--ca-file`, or else against the system's
//! authorities. Ours is shown when `--cert-file` and `--key-file` name one.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::error::Failure;

/// Where systems keep the authorities they trust; the first that exists is used.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that the command line names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub(crate) ca: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) key: Option<String>,
}

/// Reads the files.
pub(crate) fn config(files: &Files) -> Result<Arc<ClientConfig>, Failure> {
    let bad = |file: &str, reason: String| Failure::Tls {
        file: file.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(file) => {
            for certificate in certificates(file)? {
                let added = roots.add(certificate);
                added.map_err(|e| bad(file, e.to_string()))?;
            }
        }
        None => {
            let file = std::env::var("SSL_CERT_FILE").ok();
            let found = SYSTEM.into_iter().find(|path| Path::new(path).is_file());
            if let Some(file) = file.as_deref().or(found) {
                // A bundle may hold authorities of kinds that are no longer accepted.
                roots.add_parsable_certificates(certificates(file)?);
            }
        }
    }
    if roots.is_empty() {
        let reason = "no authority to verify the server with; name one with --ca-file".to_owned();
        return Err(bad(files.ca.as_deref().unwrap_or("TLS"), reason));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", e.to_string()))?
        .with_root_certificates(roots);
    let config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, e.to_string()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, secret)
                .map_err(|e| bad(cert, e.to_string()))?
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(file), None) | (None, Some(file)) => {
            return Err(bad(file, "--cert-file and --key-file go together".into()));
        }
    };
    Ok(Arc::new(config))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bad = |reason: String| Failure::Tls {
        file: file.to_owned(),
        reason,
    };
    let read = CertificateDer::pem_file_iter(file).map_err(|e| bad(e.to_string()))?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|e| bad(e.to_string()))?;
    if all.is_empty() {
        return Err(bad("no certificate in it".into()));
    }
    Ok(all)
}

/// The name that the server's certificate must carry.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, Failure> {
    ServerName::try_from(host.to_owned()).map_err(|_| Failure::Endpoint {
        endpoint: format!("https://{host}"),
        reason: "the host is neither a name nor an address",
    })
}
