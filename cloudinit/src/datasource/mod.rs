//! Where user data comes from.
//!
//! Each module knows one kind of source and gives [`Fetched`]. Which source a boot uses is decided in
//! [`choose`]; the plain command line names its sources itself ([`Source`]). Nothing here interprets
//! user data.

pub mod choose;
pub mod cloud;
pub mod cmdline;
pub mod configdrive;
pub mod drive;
pub mod http;
pub mod nocloud;

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use http::{Client, HttpError};

use crate::metadata::MetaData;

/// What one source gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// User data, raw.
    pub user_data: Vec<u8>,
    /// The vendor's data, raw.
    pub vendor_data: Vec<u8>,
    /// Meta-data.
    pub meta: MetaData,
}

/// Why a source gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Meta-data that cannot be understood.
    #[error("{path}: {why}")]
    BadMetaData {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// Over the network.
    #[error("failed to fetch")]
    Http(#[source] HttpError),
    /// A drive.
    #[error("failed to open the drive")]
    Drive(#[source] drive::DriveError),
    /// The command line names no address.
    #[error("the kernel command line has no cloud-config-url=")]
    NoUrl,
}

/// A source named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file with user data.
    File(PathBuf),
    /// A directory in the layout of a config drive.
    ConfigDrive(PathBuf),
    /// A directory with NoCloud's files.
    NoCloud(PathBuf),
    /// An address.
    Url(String),
    /// A metadata service at an address that ends in a slash.
    Cloud(cloud::Kind, String),
    /// An address named on the kernel command line.
    ProcCmdline,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::ConfigDrive(path) => write!(f, "config drive {}", path.display()),
            Source::NoCloud(path) => write!(f, "NoCloud directory {}", path.display()),
            Source::Url(url) => write!(f, "address {url}"),
            Source::Cloud(kind, base) => write!(f, "{kind:?} metadata at {base}"),
            Source::ProcCmdline => write!(f, "kernel command line"),
        }
    }
}

impl Source {
    /// Why the source cannot be asked now; none if it can.
    pub fn unavailable(&self) -> Option<String> {
        match self {
            Source::File(path) => path.metadata().err().map(|e| e.to_string()),
            Source::ConfigDrive(path) | Source::NoCloud(path) => match path.metadata() {
                Ok(meta) if meta.is_dir() => None,
                Ok(_) => Some("not a directory".to_owned()),
                Err(error) => Some(error.to_string()),
            },
            Source::Url(url) => {
                let answer = Client::new().once().get(url);
                answer.err().map(|e| telemetry::chain(&e))
            }
            Source::Cloud(kind, base) => {
                (!cloud::is_available(*kind, base)).then(|| "no answer".to_owned())
            }
            Source::ProcCmdline => cmdline::config_url(&kernel_words())
                .is_none()
                .then(|| "it has no cloud-config-url=".to_owned()),
        }
    }

    /// Whether waiting can make an absent source appear.
    fn may_change(&self) -> bool {
        !matches!(self, Source::ProcCmdline)
    }

    /// Everything the source gives. An error about user data comes beside the meta-data, so that the
    /// run can go on with what there is.
    pub fn fetch(&self) -> Result<Fetched, SourceError> {
        let plain = |user_data| Fetched {
            user_data,
            ..Fetched::default()
        };
        match self {
            Source::File(path) => read(path).map(plain),
            Source::ConfigDrive(path) => configdrive::fetch(path),
            Source::NoCloud(path) => nocloud::fetch_dir(path),
            Source::Url(url) => Client::new().get(url).map(plain).map_err(SourceError::Http),
            Source::Cloud(kind, base) => cloud::fetch(*kind, base, &Client::new()),
            Source::ProcCmdline => {
                let url = cmdline::config_url(&kernel_words()).ok_or(SourceError::NoUrl)?;
                Client::new()
                    .get(&url)
                    .map(plain)
                    .map_err(SourceError::Http)
            }
        }
    }
}

/// Asks all sources until one answers: at once, after 100 ms, then at doubling pauses up to 30 s. When none did, why
/// each of them did not.
pub fn first_available(sources: &[Source], limit: Duration) -> Result<&Source, String> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(100);
    loop {
        let mut reasons = Vec::new();
        for source in sources {
            match source.unavailable() {
                None => return Ok(source),
                Some(why) => reasons.push(format!("{source}: {why}")),
            }
        }
        let now = Instant::now();
        if now >= deadline || !sources.iter().any(Source::may_change) {
            return Err(reasons.join("; "));
        }
        // The first round is over at once; from the second on somebody may wonder.
        if pause == Duration::from_millis(200) {
            let seconds = limit.as_secs();
            tracing::info!(
                "waiting up to {seconds} s for a source: {}",
                reasons.join("; ")
            );
        }
        std::thread::sleep(pause.min(deadline - now));
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// The words of the running kernel's command line.
pub fn kernel_words() -> Vec<String> {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    cmdline::words(&line)
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    std::fs::read(path).map_err(|source| SourceError::Read {
        path: path.display().to_string(),
        source,
    })
}

/// The bytes of a file that may be absent.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    match read(path) {
        Err(SourceError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// A path from a drive's own files, kept inside the drive.
pub(crate) fn safe_join(base: &Path, path: &str) -> PathBuf {
    let mut out = base.to_owned();
    for part in Path::new(path).components() {
        if let Component::Normal(name) = part {
            out.push(name);
        }
    }
    out
}
