//! Container images of one static program, as OCI layouts for skopeo.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

/// What the image is.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// Static program, put at `/NAME`.
    pub program: &'a Path,
    /// Its name in the image.
    pub name: &'a str,
    /// Entry point and arguments.
    pub command: &'a [&'a str],
    /// Ports of `EXPOSE`.
    pub ports: &'a [u16],
}

/// Writes the layout to the new directory `dir`, tagged `latest`. Same program, same bytes.
pub fn layout(spec: Spec<'_>, dir: &Path) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(&blobs)?;
    let tar = layer(spec)?;
    let diff = digest(&tar);
    let mut gz = GzEncoder::new(Vec::new(), Compression::new(6));
    gz.write_all(&tar)?;
    let layer = put(&blobs, &gz.finish()?)?;
    let exposed: serde_json::Map<String, serde_json::Value> = spec
        .ports
        .iter()
        .map(|p| (format!("{p}/tcp"), serde_json::json!({})))
        .collect();
    let config = put(
        &blobs,
        &serde_json::to_vec(&serde_json::json!({
            "created": "2020-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
            "config": {"Cmd": spec.command, "WorkingDir": "/", "Env": ["PATH=/"], "ExposedPorts": exposed},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "flotilla"}],
        }))?,
    )?;
    let manifest = put(
        &blobs,
        &serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", config.0), "size": config.1},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": format!("sha256:{}", layer.0), "size": layer.1}],
        }))?,
    )?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(
        dir.join("index.json"),
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", manifest.0), "size": manifest.1,
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }]}))?,
    )?;
    Ok(())
}

/// Pushes a layout to `127.0.0.1:port/name` over plain HTTP.
pub fn push(dir: &Path, port: u16, name: &str) -> Result<()> {
    let out = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            &format!("oci:{}:latest", dir.display()),
        ])
        .arg(format!("docker://127.0.0.1:{port}/{name}:latest"))
        .output()
        .context("cannot run skopeo (package skopeo)")?;
    if !out.status.success() {
        bail!(
            "cannot push {name}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(())
}

fn layer(spec: Spec<'_>) -> Result<Vec<u8>> {
    let program = fs::read(spec.program)
        .with_context(|| format!("cannot read {}", spec.program.display()))?;
    let mut b = tar::Builder::new(Vec::new());
    for dir in ["tmp/", "etc/", "proc/", "sys/", "dev/"] {
        let mut h = tar::Header::new_ustar();
        h.set_entry_type(tar::EntryType::Directory);
        h.set_mode(if dir == "tmp/" { 0o1777 } else { 0o755 });
        h.set_size(0);
        h.set_mtime(1);
        b.append_data(&mut h, dir, std::io::empty())?;
    }
    let mut h = tar::Header::new_ustar();
    h.set_mode(0o755);
    h.set_size(program.len() as u64);
    h.set_mtime(1);
    b.append_data(&mut h, spec.name, &program[..])?;
    Ok(b.into_inner()?)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn put(blobs: &Path, bytes: &[u8]) -> Result<(String, usize)> {
    let d = digest(bytes);
    fs::write(blobs.join(&d), bytes)?;
    Ok((d, bytes.len()))
}
