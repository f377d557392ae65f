//! From the flags of `run` and `create` to a container's record.

mod mounts;
mod text;

use super::args::{Args, ArgsError, Flag, switch, value};
use super::{Failure, names};
use crate::container::{Config, Restart};
use crate::host::{self, Host};
use crate::monitor::launch;
use crate::options::Options;
use crate::time;
use mounts::{devices, volumes};
use oci_image::manifest::ImageConfig;
use oci_image::store::Image;
use oci_runtime::plan::{Resources, Ulimit};
use text::{bytes, command_line, env_entry, env_file, merge_env, pairs, ports, ulimit};

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
        // An empty one is what a unit's variable leaves that nobody set.
        name: args
            .get("name")
            .filter(|name| !name.is_empty())
            .map_or_else(
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
        workdir: work_directory(args)?.unwrap_or_else(|| run.working_dir.clone()),
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

/// `-w`, which must be absolute.
pub(super) fn work_directory(args: &Args) -> Result<Option<String>, Failure> {
    match args.get("workdir") {
        Some(path) if path.starts_with('/') => Ok(Some(path.to_owned())),
        Some("") | None => Ok(None),
        Some(path) => Err(Failure::daemon(format!(
            "the working directory '{path}' is invalid, it needs to be an absolute path"
        ))),
    }
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
