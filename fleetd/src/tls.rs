//! Mutual TLS of the API: loading the files of `fleet.conf`, and the names in a client's
//! certificate. Who may do what by that name is decided in `api::access`.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::ApiTls;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM file of the right kind.
    #[error("failed to read {what} from {path}")]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds nothing of the kind.
    #[error("{path} holds no {what}")]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: String,
    },
    /// An authority's certificate cannot be used.
    #[error("failed to take the authorities from {path}")]
    Authority {
        /// The file.
        path: String,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("failed to take the authorities from {path}")]
    Verifier {
        /// The file.
        path: String,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("failed to use certificate {path} with its key")]
    Identity {
        /// The file.
        path: String,
        /// Why.
        source: rustls::Error,
    },
}

/// Makes the server's end: only clients with a certificate from `files.ca` get through.
pub fn acceptor(files: &ApiTls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let name = |path: &Path| path.display().to_string();
    let mut roots = RootCertStore::empty();
    for authority in certificates("authorities", &files.ca)? {
        roots.add(authority).map_err(|source| TlsError::Authority {
            path: name(&files.ca),
            source,
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|source| TlsError::Verifier {
            path: name(&files.ca),
            source,
        })?;
    let chain = certificates("certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::File {
        what: "a private key",
        path: name(&files.key),
        source,
    })?;
    let identity = |source| TlsError::Identity {
        path: name(&files.certificate),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(identity)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = || path.display().to_string();
    let failed = |source| TlsError::File {
        what,
        path: name(),
        source,
    };
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if all.is_empty() {
        return Err(TlsError::Empty { what, path: name() });
    }
    Ok(all)
}

/// The names in a certificate that was verified already: its common name, then its DNS names.
/// Whatever cannot be read gives no name, so no role by it.
#[must_use]
pub fn names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let body = &certificate.tbs_certificate;
    let mut names = Vec::new();
    for attribute in body.subject.0.iter().flat_map(|set| set.0.iter()) {
        if attribute.oid == COMMON_NAME
            && let Ok(value) = attribute.value.to_der()
        {
            let text = Utf8StringRef::from_der(&value)
                .map(|s| s.as_str().to_owned())
                .or_else(|_| PrintableStringRef::from_der(&value).map(|s| s.as_str().to_owned()));
            names.extend(text);
        }
    }
    if let Ok(Some((_, alternatives))) = body.get::<SubjectAltName>() {
        for alternative in alternatives.0 {
            if let GeneralName::DnsName(name) = alternative {
                names.push(name.as_str().to_owned());
            }
        }
    }
    // A name with a line end or the like is up to something.
    names.retain(|n| !n.is_empty() && n.len() <= 256 && !n.chars().any(char::is_control));
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_common_name_comes_first_then_the_dns_names() {
        let mut params =
            rcgen::CertificateParams::new(vec!["one.test".into(), "two.test".into()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "ops");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(names(certificate.der()), ["ops", "one.test", "two.test"]);
        let cut = &certificate.der()[..certificate.der().len() - 1];
        assert_eq!(names(cut), Vec::<String>::new());
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        std::fs::write(
            path("other"),
            rcgen::KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        std::fs::write(path("empty"), "").unwrap();
        for (certificate, key, ca, expect) in [
            ("cert", "key", "cert", ""),
            ("cert", "key", "empty", "holds no authorities"),
            ("cert", "empty", "cert", "failed to read a private key"),
            ("cert", "other", "cert", "failed to use certificate"),
            ("gone", "key", "cert", "failed to read certificate"),
        ] {
            let files = ApiTls {
                certificate: path(certificate),
                key: path(key),
                ca: path(ca),
            };
            let said = acceptor(&files)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default();
            assert!(
                said.contains(expect) && said.is_empty() == expect.is_empty(),
                "{said}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = names(&bytes);
        }
    }
}
