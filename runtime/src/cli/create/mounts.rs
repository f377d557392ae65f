//! `-v`, `--volumes-from`, volumes of the image, `--device`: what of the host a container sees.

use super::super::Failure;
use super::super::args::Args;
use super::bad;
use crate::container::{Bind, Config};
use crate::host::{self, Host};
use crate::monitor::launch;
use crate::time;
use std::path::{Path, PathBuf};

pub(super) fn volumes<'a>(
    host: &Host,
    args: &Args,
    config: &mut Config,
    of_image: impl Iterator<Item = &'a String>,
) -> Result<(), Failure> {
    for entry in args.all("volumes-from") {
        let (name, mode) = entry.split_once(':').unwrap_or((entry, "rw"));
        for mut bind in host.find(name)?.config.binds {
            if mode == "ro" {
                bind.options.retain(|option| option != "rw");
                bind.options.push("ro".into());
            }
            bind.anonymous = false;
            config.binds.push(bind);
        }
    }
    for text in args.all("volume") {
        let bind = bind(host, text)?;
        config.binds.retain(|known| known.target != bind.target);
        config.binds.push(bind);
    }
    for target in of_image {
        if !config.binds.iter().any(|known| known.target == *target)
            && !config.tmpfs.contains_key(target)
        {
            config.binds.push(volume(host, None, target, Vec::new())?);
        }
    }
    Ok(())
}

fn bind(host: &Host, text: &str) -> Result<Bind, Failure> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => {
            return Err(Failure::daemon(format!(
                "invalid volume specification: '{text}'"
            )));
        }
    };
    if !target.starts_with('/') || target == "/" {
        return Err(Failure::daemon(format!(
            "invalid volume specification: '{text}': invalid mount config: mount path must be absolute and not '/'"
        )));
    }
    let mut words = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                words.push(option.to_owned());
            }
            // Labels of SELinux and docker's copy switches have no meaning here.
            "z" | "Z" | "nocopy" | "copy" | "cached" | "delegated" | "consistent" => {}
            _ => return Err(Failure::daemon(format!("invalid mode: {option}"))),
        }
    }
    match source {
        Some(path) if path.starts_with('/') => {
            let path = PathBuf::from(path);
            if !path.exists() {
                std::fs::create_dir_all(&path).map_err(|error| {
                    Failure::io(&format!("make the directory {}", path.display()), error)
                })?;
            }
            Ok(Bind {
                source: path,
                target: target.to_owned(),
                options: words,
                volume: None,
                anonymous: false,
            })
        }
        Some(path) if path.starts_with('.') || path.contains('/') => Err(Failure::daemon(format!(
            "create {path}: \"{path}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))),
        named => volume(host, named, target, words),
    }
}

fn volume(
    host: &Host,
    name: Option<&str>,
    target: &str,
    options: Vec<String>,
) -> Result<Bind, Failure> {
    let anonymous = name.is_none();
    let name = match name {
        Some(name) => {
            crate::container::check_name(name).map_err(|_| {
                Failure::daemon(format!(
                    "create {name}: volume name is too short or has invalid characters"
                ))
            })?;
            name.to_owned()
        }
        None => host::random_id().map_err(|error| Failure::io("name a volume", error))?,
    };
    let directory = host.data.join("volumes").join(&name);
    let data = directory.join("_data");
    if !data.exists() {
        std::fs::create_dir_all(&data).map_err(|error| Failure::io("make a volume", error))?;
        oci_image::store::write_json(
            &directory.join("volume.json"),
            &serde_json::json!({"name": name, "created": time::now()}),
        )?;
    }
    Ok(Bind {
        source: data,
        target: target.to_owned(),
        options,
        volume: Some(name),
        anonymous,
    })
}

pub(super) fn devices(args: &Args) -> Result<Vec<oci_runtime::devices::Device>, Failure> {
    let mut devices = Vec::new();
    for text in args.all("device") {
        let parts: Vec<&str> = text.split(':').collect();
        let is_access = |word: &str| !word.is_empty() && word.chars().all(|c| "rwm".contains(c));
        let (source, target, access) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, access] if is_access(access) => (source, source, access),
            [source, target] => (source, target, "rwm"),
            [source, target, access] if is_access(access) => (source, target, access),
            _ => return Err(bad("device", text, "should be host[:container][:rwm]")),
        };
        if !source.starts_with('/') || !target.starts_with('/') {
            return Err(bad("device", text, "paths must be absolute"));
        }
        let device = launch::device(Path::new(source), target, access);
        devices.push(device.map_err(|error| Failure::daemon(format!("error gathering device information while adding custom device \"{source}\": {error}")))?);
    }
    Ok(devices)
}
