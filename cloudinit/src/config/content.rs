//! Decoding of file contents: base64, gzip, both.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

/// Most bytes that one compressed content may grow to.
pub(crate) const MAX_INFLATED: u64 = 256 << 20;

/// Padding may be missing, as many hand-made documents have it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a content cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Not base64.
    #[error("not valid base64")]
    Base64(#[source] base64::DecodeError),
    /// Not a complete gzip stream.
    #[error("not valid gzip data")]
    Gzip(#[source] std::io::Error),
    /// More data than allowed comes out.
    #[error("inflates to more than {} MiB", MAX_INFLATED >> 20)]
    TooLarge,
    /// The name of the encoding is not known.
    #[error("unknown encoding \"{0}\"")]
    Unknown(String),
}

/// Decodes `raw` as `encoding` says (empty: as it is).
pub(crate) fn decode(raw: &[u8], encoding: &str) -> Result<Vec<u8>, ContentError> {
    match encoding {
        "" | "text/plain" => Ok(raw.to_vec()),
        "b64" | "base64" => base64_decode(raw),
        "gz" | "gzip" => gunzip(raw),
        "gz+base64" | "gzip+base64" | "gz+b64" | "gzip+b64" => gunzip(&base64_decode(raw)?),
        other => Err(ContentError::Unknown(other.to_owned())),
    }
}

/// Decodes base64 that may be broken into lines.
pub(crate) fn base64_decode(raw: &[u8]) -> Result<Vec<u8>, ContentError> {
    let packed: Vec<u8> = raw
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    BASE64.decode(packed).map_err(ContentError::Base64)
}

/// Inflates a whole gzip stream; a part of one is refused.
pub(crate) fn gunzip(raw: &[u8]) -> Result<Vec<u8>, ContentError> {
    let mut out = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(raw).take(MAX_INFLATED + 1);
    reader.read_to_end(&mut out).map_err(ContentError::Gzip)?;
    if out.len() as u64 > MAX_INFLATED {
        return Err(ContentError::TooLarge);
    }
    Ok(out)
}
