//! From the flags of `run` and `create` to a container's record.

use super::args::{Args, ArgsError, Flag, switch, value};
use super::{Failure, names};
use crate::container::{Bind, Config, Port, Restart};
use crate::host::{self, Host};
use crate::monitor::launch;
use crate::options::Options;
use crate::time;
use oci_image::manifest::ImageConfig;
use oci_image::store::Image;
use oci_runtime::plan::{Resources, Ulimit};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Flags of `run` and `create`.
pub const FLAGS: &[Flag] = &[
    value("add-host", '\0', "Add a line to /etc/hosts (name:address)"),
    value("attach", 'a', "Attach to STDIN, STDOUT or STDERR"),
    value("cap-add", '\0', "Add a Linux capability"),
    value("cap-drop", '\0', "Drop a Linux capability"),
    value("cidfile", '\0', "Write the container id to a file"),
    value("cpu-shares", 'c', "CPU weight (1024 is normal)"),
    value("cpus", '\0', "Number of CPUs"),
    value("cpuset-cpus", '\0', "CPUs to run on (0-2,4)"),
    switch("detach", 'd', "Run in the background and print the id"),
    value("detach-keys", '\0', "Keys that detach (ctrl-p,ctrl-q)"),
    value("device", '\0', "Give a host device to the container"),
    value("dns", '\0', "Name server"),
    value("dns-search", '\0', "Search domain"),
    value("entrypoint", '\0', "Program instead of the image's"),
    value(
        "env",
        'e',
        "Set an environment variable (KEY=value, or KEY of the caller)",
    ),
    value("env-file", '\0', "Read environment variables from a file"),
    value("expose", '\0', "Ports for -P"),
    value("group-add", '\0', "Further group"),
    value("hostname", 'h', "Host name of the container"),
    switch("interactive", 'i', "Keep standard input open"),
    value("ipc", '\0', "IPC namespace: host, container:NAME"),
    value("label", 'l', "Set a label"),
    value("log-driver", '\0', "journald, json-file or none"),
    value("log-opt", '\0', "Option of the log driver"),
    value("memory", 'm', "Memory limit (512m)"),
    value("memory-swap", '\0', "Limit of memory and swap; -1 = none"),
    value("name", '\0', "Name of the container"),
    value("net", '\0', "Network: bridge, host, none, container:NAME"),
    value(
        "network",
        '\0',
        "Network: bridge, host, none, container:NAME",
    ),
    value("oom-score-adj", '\0', "Adjustment of the OOM score"),
    value("pid", '\0', "PID namespace: host, container:NAME"),
    value("pids-limit", '\0', "Number of processes"),
    switch("privileged", '\0', "Nearly all rights of the host"),
    value(
        "publish",
        'p',
        "Publish a port ([ip:][host:]container[/udp])",
    ),
    switch("publish-all", 'P', "Publish all exposed ports"),
    value("pull", '\0', "always, missing or never"),
    switch("quiet", 'q', "No progress while pulling"),
    switch("read-only", '\0', "Read-only root file system"),
    value(
        "restart",
        '\0',
        "no, always, unless-stopped, on-failure[:n]",
    ),
    switch("rm", '\0', "Remove the container when it ends"),
    value(
        "security-opt",
        '\0',
        "no-new-privileges, seccomp=FILE|unconfined",
    ),
    value("shm-size", '\0', "Size of /dev/shm"),
    switch("sig-proxy", '\0', "Pass signals on (default true)"),
    value("stop-signal", '\0', "Signal that stops the container"),
    value("stop-timeout", '\0', "Seconds until a stop becomes a kill"),
    value("sysctl", '\0', "Kernel setting of the container"),
    value("tmpfs", '\0', "Mount a tmpfs (path[:options])"),
    switch("tty", 't', "Give it a terminal"),
    value("ulimit", '\0', "Resource limit (nofile=1024:2048)"),
    value("user", 'u', "User (name or uid[:gid])"),
    value("uts", '\0', "UTS namespace: host"),
    value(
        "volume",
        'v',
        "Mount a directory or volume (source:target[:options])",
    ),
    value(
        "volumes-from",
        '\0',
        "Mount the volumes of another container",
    ),
    value("workdir", 'w', "Working directory"),
];

fn bad(flag: &str, value: &str, why: impl Into<String>) -> Failure {
    ArgsError::Value {
        flag: flag.to_owned(),
        value: value.to_owned(),
        why: why.into(),
    }
    .into()
}

/// A number of bytes: `512m`, `1g`, `64kb`, `-1`.
pub fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift);
    }
    let number: f64 = number.parse().ok()?;
    let value = number * f64::from(2u32).powi(shift);
    (value.is_finite() && (0.0..9e18).contains(&value)).then_some(value as i64)
}

/// `[ip:][host[-range]:]container[-range][/protocol]`.
pub fn ports(text: &str) -> Option<Vec<Port>> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if protocol != "tcp" && protocol != "udp" {
        return None;
    }
    let parts: Vec<&str> = rest.split(':').collect();
    let (ip, host, container) = match parts[..] {
        [container] => ("", "", container),
        [host, container] => ("", host, container),
        [ip, host, container] => (ip, host, container),
        _ => return None,
    };
    let host_ip = if ip.is_empty() {
        None
    } else {
        Some(ip.parse::<Ipv4Addr>().ok()?)
    };
    let (first, last) = range(container)?;
    let host_range = if host.is_empty() {
        None
    } else {
        Some(range(host)?)
    };
    if host_range.is_some_and(|(low, high)| high - low != last - first) {
        return None;
    }
    Some(
        (first..=last)
            .map(|port| Port {
                host_ip,
                host_port: host_range.map(|(low, _)| low + (port - first)),
                container_port: port,
                protocol: protocol.clone(),
            })
            .collect(),
    )
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
    (low > 0 && low <= high).then_some((low, high))
}

/// Lines `KEY=value` or `KEY`, `#` comments.
fn env_file(text: &str, caller: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| env_entry(line, caller))
        .collect()
}

fn env_entry(entry: &str, caller: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if entry.contains('=') {
        return Some(entry.to_owned());
    }
    caller(entry).map(|value| format!("{entry}={value}"))
}

fn merge_env(env: &mut Vec<String>, entry: String) {
    let key = entry.split('=').next().unwrap_or_default();
    env.retain(|known| known.split('=').next() != Some(key));
    env.push(entry);
}

fn ulimit(text: &str) -> Option<Ulimit> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        other => other.parse().ok(),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    (soft <= hard).then(|| Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

fn pairs(entries: &[String]) -> BTreeMap<String, String> {
    entries
        .iter()
        .map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// Makes the record; volumes that are named and missing are made too.
pub fn config(
    host: &Host,
    options: &Options,
    args: &Args,
    image: &Image,
    image_config: &ImageConfig,
) -> Result<Config, Failure> {
    let run = &image_config.config;
    let (typed, command) = args
        .words
        .split_first()
        .ok_or_else(|| Failure::usage("no image"))?;
    let id = host::random_id().map_err(|error| Failure::io("make an id", error))?;
    let mut env = run.env.clone();
    for entry in environment(args)? {
        merge_env(&mut env, entry);
    }
    let (entrypoint, cmd) = command_line(args.get("entrypoint"), command, run);
    let mut labels = run.labels.clone();
    labels.extend(pairs(args.all("label")));
    let network = args
        .get("network")
        .or_else(|| args.get("net"))
        .unwrap_or("bridge")
        .to_owned();
    if !matches!(network.as_str(), "bridge" | "default" | "host" | "none")
        && !network.starts_with("container:")
    {
        return Err(Failure::daemon(format!("network {network} not found")));
    }
    let hostname = match args.get("hostname") {
        Some(name) => name.to_owned(),
        None if network == "host" => launch::host_name(),
        None => id[..12].to_owned(),
    };
    let security = security(args)?;
    let mut config = Config {
        name: args.get("name").map_or_else(
            || names::random(&id),
            |name| name.trim_start_matches('/').to_owned(),
        ),
        created: time::now(),
        image: typed.clone(),
        image_id: image.id.to_string(),
        chain: image.chain.clone(),
        entrypoint,
        cmd,
        env,
        labels,
        user: args
            .get("user")
            .map_or_else(|| run.user.clone(), str::to_owned),
        workdir: args
            .get("workdir")
            .map_or_else(|| run.working_dir.clone(), str::to_owned),
        hostname,
        tty: args.on("tty"),
        stdin: args.on("interactive")
            || args
                .all("attach")
                .iter()
                .any(|name| name.eq_ignore_ascii_case("stdin")),
        network,
        ports: Vec::new(),
        publish_all: args.on("publish-all"),
        exposed: exposed(args, run),
        binds: Vec::new(),
        tmpfs: args
            .all("tmpfs")
            .iter()
            .map(|entry| {
                entry
                    .split_once(':')
                    .map_or((entry.clone(), String::new()), |(path, options)| {
                        (path.to_owned(), options.to_owned())
                    })
            })
            .collect(),
        cap_add: args.all("cap-add").to_vec(),
        cap_drop: args.all("cap-drop").to_vec(),
        privileged: args.on("privileged"),
        devices: devices(args)?,
        dns: args.all("dns").to_vec(),
        dns_search: args.all("dns-search").to_vec(),
        add_host: args.all("add-host").to_vec(),
        groups: args.all("group-add").to_vec(),
        restart: restart(args)?,
        remove: args.on("rm"),
        read_only: args.on("read-only"),
        ulimits: ulimits(args, options)?,
        resources: resources(args)?,
        log_driver: log_driver(args, options)?,
        no_new_privileges: security.0,
        seccomp: security.1,
        stop_signal: stop_signal(args, run.stop_signal.as_deref())?,
        stop_timeout: args.read("stop-timeout")?.unwrap_or(10),
        shm_size: size(args, "shm-size")?.map_or(0, i64::cast_unsigned),
        sysctls: pairs(args.all("sysctl")),
        pid_mode: args.get("pid").unwrap_or_default().to_owned(),
        ipc_mode: args.get("ipc").unwrap_or_default().to_owned(),
        uts_mode: args.get("uts").unwrap_or_default().to_owned(),
        oom_score_adj: args.read("oom-score-adj")?,
        id,
    };
    oci_runtime::caps::effective(config.privileged, &config.cap_add, &config.cap_drop)
        .map_err(|error| Failure::daemon(error.to_string()))?;
    if config.args().is_empty() {
        return Err(Failure::daemon("No command specified".into()));
    }
    publish(args, &mut config)?;
    volumes(host, args, &mut config, run.volumes.keys())?;
    Ok(config)
}

/// Variables of `--env-file` and `-e`.
pub(super) fn environment(args: &Args) -> Result<Vec<String>, Failure> {
    let caller = |key: &str| std::env::var(key).ok();
    let mut env = Vec::new();
    for path in args.all("env-file") {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("open {path}: {error}")))?;
        env.extend(env_file(&text, &caller));
    }
    env.extend(
        args.all("env")
            .iter()
            .filter_map(|entry| env_entry(entry, &caller)),
    );
    Ok(env)
}

fn command_line(
    entrypoint: Option<&str>,
    command: &[String],
    run: &oci_image::manifest::RunConfig,
) -> (Vec<String>, Vec<String>) {
    match entrypoint {
        Some("") => (
            Vec::new(),
            if command.is_empty() {
                run.cmd.clone()
            } else {
                command.to_vec()
            },
        ),
        // Another program: the image's arguments were for its own.
        Some(program) => (vec![program.to_owned()], command.to_vec()),
        None if command.is_empty() => (run.entrypoint.clone(), run.cmd.clone()),
        None => (run.entrypoint.clone(), command.to_vec()),
    }
}

fn exposed(args: &Args, run: &oci_image::manifest::RunConfig) -> Vec<String> {
    let with_protocol = |port: &str| {
        if port.contains('/') {
            port.to_owned()
        } else {
            format!("{port}/tcp")
        }
    };
    let mut all: Vec<String> = run
        .exposed_ports
        .keys()
        .map(|port| with_protocol(port))
        .collect();
    all.extend(args.all("expose").iter().map(|port| with_protocol(port)));
    all.sort();
    all.dedup();
    all
}

fn publish(args: &Args, config: &mut Config) -> Result<(), Failure> {
    for text in args.all("publish") {
        config.ports.extend(ports(text).ok_or_else(|| {
            Failure::usage(format!(
                "invalid publish opts format (should be [ip:][host:]container[/protocol]): {text}"
            ))
        })?);
    }
    if config.publish_all {
        for text in config.exposed.clone() {
            for port in ports(&text).unwrap_or_default() {
                if !config.ports.iter().any(|known| {
                    (known.container_port, &known.protocol) == (port.container_port, &port.protocol)
                }) {
                    config.ports.push(port);
                }
            }
        }
    }
    if !config.ports.is_empty() && config.network == "host" {
        eprintln!("WARNING: Published ports are discarded when using host network mode");
        config.ports.clear();
    }
    for port in config.ports.iter().filter(|port| port.host_port.is_some()) {
        let key = format!("{}/{}", port.container_port, port.protocol);
        if !config.exposed.contains(&key) {
            config.exposed.push(key);
        }
    }
    Ok(())
}

fn volumes<'a>(
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

fn devices(args: &Args) -> Result<Vec<oci_runtime::devices::Device>, Failure> {
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

fn restart(args: &Args) -> Result<Restart, Failure> {
    let Some(text) = args.get("restart") else {
        return Ok(Restart::No);
    };
    let policy = Restart::parse(text)
        .ok_or_else(|| Failure::daemon(format!("invalid restart policy '{text}'")))?;
    if policy != Restart::No && args.on("rm") {
        return Err(Failure::usage(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    Ok(policy)
}

fn ulimits(args: &Args, options: &Options) -> Result<Vec<Ulimit>, Failure> {
    let mut limits: Vec<Ulimit> = Vec::new();
    for text in options.default_ulimits.iter().chain(args.all("ulimit")) {
        let limit =
            ulimit(text).ok_or_else(|| bad("ulimit", text, "should be name=soft[:hard]"))?;
        limits.retain(|known| known.name != limit.name);
        limits.push(limit);
    }
    Ok(limits)
}

fn size(args: &Args, flag: &str) -> Result<Option<i64>, Failure> {
    args.get(flag)
        .map(|text| bytes(text).ok_or_else(|| bad(flag, text, "invalid size")))
        .transpose()
}

fn resources(args: &Args) -> Result<Resources, Failure> {
    let memory = size(args, "memory")?.filter(|bytes| *bytes != 0);
    if memory.is_some_and(|bytes| bytes < 6 << 20) {
        return Err(Failure::daemon(
            "Minimum memory limit allowed is 6MB".into(),
        ));
    }
    let cpus: Option<f64> = args.read("cpus")?;
    if cpus.is_some_and(|cpus| !(0.001..=8192.0).contains(&cpus)) {
        return Err(bad(
            "cpus",
            args.get("cpus").unwrap_or_default(),
            "out of range",
        ));
    }
    Ok(Resources {
        memory,
        memory_swap: size(args, "memory-swap")?.filter(|bytes| *bytes != 0),
        cpu_shares: args.read("cpu-shares")?.filter(|shares| *shares != 0),
        cpu_quota: cpus.map(|cpus| (cpus * 100_000.0) as i64),
        cpuset: args
            .get("cpuset-cpus")
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        pids: args.read("pids-limit")?.filter(|limit| *limit != 0),
    })
}

fn log_driver(args: &Args, options: &Options) -> Result<String, Failure> {
    let name = args.get("log-driver").unwrap_or(&options.log_driver);
    match name {
        "journald" | "json-file" | "local" | "none" => Ok(name.to_owned()),
        other => Err(Failure::daemon(format!(
            "logger: no log driver named '{other}' is registered"
        ))),
    }
}

fn security(args: &Args) -> Result<(bool, String), Failure> {
    let (mut no_new, mut seccomp) = (false, "default".to_owned());
    for option in args.all("security-opt") {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
        match key {
            "no-new-privileges" => no_new = value != "false",
            "seccomp" if value == "unconfined" => seccomp = value.to_owned(),
            "seccomp" => {
                seccomp = std::fs::read_to_string(value).map_err(|error| {
                    Failure::usage(format!("opening seccomp profile ({value}) failed: {error}"))
                })?;
            }
            "apparmor" | "label" => eprintln!(
                "WARNING: --security-opt {key}: this machine has no such protection, ignored"
            ),
            _ => {
                return Err(Failure::daemon(format!(
                    "invalid --security-opt 2: {option:?}"
                )));
            }
        }
    }
    Ok((no_new, seccomp))
}

fn stop_signal(args: &Args, of_image: Option<&str>) -> Result<String, Failure> {
    let name = args.get("stop-signal").or(of_image).unwrap_or("SIGTERM");
    match super::signals::number(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(Failure::daemon(format!("Invalid signal: {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Shown = (Option<String>, Option<u16>, u16, String);

    fn shown(text: &str) -> Option<Vec<Shown>> {
        Some(
            ports(text)?
                .into_iter()
                .map(|port| {
                    (
                        port.host_ip.map(|ip| ip.to_string()),
                        port.host_port,
                        port.container_port,
                        port.protocol,
                    )
                })
                .collect(),
        )
    }

    #[test]
    fn published_ports_are_read() {
        assert_eq!(
            shown("9200:9200"),
            Some(vec![(None, Some(9200), 9200, "tcp".into())])
        );
        assert_eq!(
            shown("127.0.0.1::80/udp"),
            Some(vec![(Some("127.0.0.1".into()), None, 80, "udp".into())])
        );
        assert_eq!(shown("80"), Some(vec![(None, None, 80, "tcp".into())]));
        assert_eq!(shown("8000-8001:80-81").map(|all| all.len()), Some(2));
        for text in [
            "",
            "0:80",
            "x",
            "80:",
            "1:2:3:4",
            "8000-8001:80",
            "80/sctp",
            "70000:80",
            "9-8",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_limits_are_read() {
        for (text, expected) in [
            ("512m", Some(512 << 20)),
            ("1G", Some(1 << 30)),
            ("64kb", Some(64 << 10)),
            ("1.5g", Some(3 << 29)),
            ("-1", Some(-1)),
            ("x", None),
            ("1q", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!(
            ulimit("nofile=1024:2048"),
            Some(Ulimit {
                name: "nofile".into(),
                soft: 1024,
                hard: 2048
            })
        );
        assert_eq!(ulimit("nofile=2:1"), None);
    }

    #[test]
    fn environment_comes_from_flags_files_and_the_caller() {
        let caller = |key: &str| (key == "HOME").then(|| "/h".to_owned());
        assert_eq!(
            env_file("# c\nA=b\n\nHOME\nNOPE\n", &caller),
            ["A=b", "HOME=/h"]
        );
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        merge_env(&mut env, "A=3".into());
        assert_eq!(env, ["B=2", "A=3"]);
    }

    #[test]
    fn the_command_replaces_what_docker_replaces() {
        let run = oci_image::manifest::RunConfig {
            entrypoint: vec!["e".into()],
            cmd: vec!["c".into()],
            ..Default::default()
        };
        let own = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(command_line(None, &[], &run), (own(&["e"]), own(&["c"])));
        assert_eq!(
            command_line(None, &own(&["x"]), &run),
            (own(&["e"]), own(&["x"]))
        );
        assert_eq!(command_line(Some("p"), &[], &run), (own(&["p"]), own(&[])));
        assert_eq!(command_line(Some(""), &[], &run), (own(&[]), own(&["c"])));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[-0-9a-z:/.=]{0,24}") {
            let _ = (ports(&text), bytes(&text), ulimit(&text));
        }
    }
}
