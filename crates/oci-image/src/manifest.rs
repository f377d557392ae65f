//! Manifests, indexes and image configurations: docker schema 2 and OCI, read strictly, written plainly.

use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest manifest or index we read.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image configuration we read.
pub const MAX_CONFIG: u64 = 4 << 20;
/// Most layers an image may have; overlayfs itself allows 500.
pub const MAX_LAYERS: usize = 127;

/// Media types we name.
pub mod media {
    #![allow(missing_docs)]
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// What a manifest request accepts.
    pub const ACCEPT: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
}

/// Why a manifest or configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("the {what} is not valid")]
    Json {
        /// manifest, index, configuration.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The format before 2016.
    #[error(
        "the registry has this image only as a schema 1 manifest, which is no longer supported; push it again with a newer client"
    )]
    Schema1,
    /// Something else than an image.
    #[error("unsupported media type {0:?}")]
    MediaType(String),
    /// Layers that are fetched from elsewhere.
    #[error("layer {0} is a foreign layer (its bytes are not in the registry), which is refused")]
    Foreign(Digest),
    /// Nothing for this machine in an index.
    #[error("no image for platform {wanted}; the index has {found}")]
    NoPlatform {
        /// Ours.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// An image for another system.
    #[error("the image is for {found}, this machine runs {wanted}")]
    OtherPlatform {
        /// Ours.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {manifest} layers, the configuration {config} diff ids")]
    LayerCount {
        /// In the manifest.
        manifest: usize,
        /// In the configuration.
        config: usize,
    },
    /// More layers than can be stacked.
    #[error("the image has {0} layers, at most {MAX_LAYERS} are supported")]
    TooManyLayers(usize),
}

/// A reference to bytes.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(default)]
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// Their exact number.
    pub size: u64,
    /// Elsewhere (foreign layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// In an index: for which machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// Operating system and processor.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Platform {
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8".to_owned())),
            other => (other, None),
        };
        Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant,
        }
    }

    /// Whether an image for `self` runs on `host`.
    pub fn runs_on(&self, host: &Platform) -> bool {
        self.os == host.os
            && self.architecture == host.architecture
            && match (&self.variant, &host.variant) {
                (Some(image), Some(machine)) => image <= machine,
                _ => true,
            }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// An image manifest.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// Kind of manifest.
    #[serde(default)]
    pub media_type: String,
    /// The configuration's bytes.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// A list of manifests for several platforms.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

/// What a manifest request answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A list to choose from.
    Index(Index),
}

/// Reads a manifest or an index; the header's type decides unless the document names its own.
pub fn parse(bytes: &[u8], content_type: &str) -> Result<Document, ManifestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        media_type: String,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let json = |what| move |source| ManifestError::Json { what, source };
    let head: Head = serde_json::from_slice(bytes).map_err(json("manifest"))?;
    if head.schema_version == 1 {
        return Err(ManifestError::Schema1);
    }
    let header = content_type.split(';').next().unwrap_or_default().trim();
    let kind = match head.media_type.as_str() {
        "" if media::ACCEPT.contains(&header) => header,
        "" if head.manifests.is_some() => media::OCI_INDEX,
        "" if head.layers.is_some() => media::OCI_MANIFEST,
        "" => header,
        named => named,
    };
    match kind {
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(json("manifest"))?;
            for layer in &manifest.layers {
                if !layer.urls.is_empty() || layer.media_type.contains("foreign") {
                    return Err(ManifestError::Foreign(layer.digest.clone()));
                }
                compression(&layer.media_type)?;
            }
            if manifest.layers.len() > MAX_LAYERS {
                return Err(ManifestError::TooManyLayers(manifest.layers.len()));
            }
            Ok(Document::Manifest(manifest))
        }
        media::OCI_INDEX | media::DOCKER_LIST => serde_json::from_slice(bytes)
            .map(Document::Index)
            .map_err(json("index")),
        other => Err(ManifestError::MediaType(other.to_owned())),
    }
}

/// How a layer's bytes are packed. The bytes themselves decide in the end; this refuses what is no layer.
fn compression(media_type: &str) -> Result<(), ManifestError> {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(()),
        other => Err(ManifestError::MediaType(other.to_owned())),
    }
}

/// The manifest of an index for this machine; an exact variant wins over a lesser one.
pub fn choose<'a>(index: &'a Index, host: &Platform) -> Result<&'a Descriptor, ManifestError> {
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_some_and(|platform| platform.runs_on(host))
    };
    index
        .manifests
        .iter()
        .filter(fits)
        .max_by_key(|descriptor| {
            descriptor
                .platform
                .as_ref()
                .and_then(|platform| platform.variant.clone())
        })
        .ok_or_else(|| ManifestError::NoPlatform {
            wanted: host.to_string(),
            found: index
                .manifests
                .iter()
                .filter_map(|descriptor| descriptor.platform.as_ref().map(ToString::to_string))
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// An image's configuration. What we do not use stays in the blob, whose digest is the image id.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ImageConfig {
    /// Processor.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// The layers' uncompressed digests.
    pub rootfs: RootFs,
    /// How it was built.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub history: Vec<serde_json::Value>,
}

/// Uncompressed digests, lowest first.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One for each layer.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// Defaults for a container, docker's field names.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub user: String,
    /// `80/tcp`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// `KEY=value`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub env: Vec<String>,
    /// Program.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub entrypoint: Vec<String>,
    /// Arguments, or program and arguments.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub cmd: Vec<String>,
    /// Mount points of anonymous volumes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Where the program starts.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub working_dir: String,
    /// Free text pairs.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// What stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// Docker writes `null` for empty lists and maps.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Reads a configuration and checks it against the manifest and the machine.
    pub fn parse(
        bytes: &[u8],
        manifest: &Manifest,
        host: &Platform,
    ) -> Result<Self, ManifestError> {
        let config = Self::read(bytes)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ManifestError::LayerCount {
                manifest: manifest.layers.len(),
                config: config.rootfs.diff_ids.len(),
            });
        }
        let other_os = !config.os.is_empty() && config.os != host.os;
        let other_arch =
            !config.architecture.is_empty() && config.architecture != host.architecture;
        if other_os || other_arch {
            return Err(ManifestError::OtherPlatform {
                wanted: host.to_string(),
                found: format!("{}/{}", config.os, config.architecture),
            });
        }
        Ok(config)
    }

    /// Reads a configuration that was checked before.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
            what: "image configuration",
            source,
        })
    }

    /// The identity of each layer with all below it, lowest first.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff in &self.rootfs.diff_ids {
            let next = match chain.last() {
                None => diff.clone(),
                Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, extra: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","size":3,"digest":"{}"{extra}}}"#,
            Digest::of(b"abc")
        )
    }

    fn manifest(layer: &str) -> String {
        let config = descriptor(media::DOCKER_CONFIG, "");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layer}]}}"#,
            media::DOCKER_MANIFEST
        )
    }

    #[test]
    fn docker_and_oci_manifests_parse_and_the_rest_is_refused_by_name() {
        let good = manifest(&descriptor(media::DOCKER_LAYER, ""));
        assert!(matches!(
            parse(good.as_bytes(), ""),
            Ok(Document::Manifest(_))
        ));
        let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(
            parse(schema1.as_bytes(), ""),
            Err(ManifestError::Schema1)
        ));
        let foreign = manifest(&descriptor(media::DOCKER_LAYER, r#","urls":["http://x/"]"#));
        assert!(matches!(
            parse(foreign.as_bytes(), ""),
            Err(ManifestError::Foreign(_))
        ));
        let helm = manifest(&descriptor(
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "",
        ));
        assert!(matches!(
            parse(helm.as_bytes(), ""),
            Err(ManifestError::MediaType(_))
        ));
        assert!(parse(b"[]", "").is_err());
        assert!(parse(b"\xff", "").is_err());
    }

    #[test]
    fn the_platform_of_the_machine_is_chosen() {
        let entry = |arch: &str| {
            descriptor(
                media::OCI_MANIFEST,
                &format!(r#","platform":{{"os":"linux","architecture":"{arch}"}}"#),
            )
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
            entry("s390x"),
            entry("amd64")
        );
        let Ok(Document::Index(index)) = parse(text.as_bytes(), media::OCI_INDEX) else {
            panic!("not an index")
        };
        let amd64 = Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: None,
        };
        assert_eq!(
            choose(&index, &amd64)
                .unwrap()
                .platform
                .as_ref()
                .unwrap()
                .architecture,
            "amd64"
        );
        let other = Platform {
            architecture: "riscv64".into(),
            ..amd64
        };
        assert!(matches!(
            choose(&index, &other),
            Err(ManifestError::NoPlatform { .. })
        ));
    }

    #[test]
    fn nulls_of_docker_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":null,"Volumes":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::read(text.as_bytes()).unwrap();
        assert!(config.config.cmd.is_empty() && config.chain_ids().is_empty());
    }
}
