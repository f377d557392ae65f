//! `info`, `version`, `completion`.

use super::args::{Args, Flag, value};
use super::{COMMANDS, Context, Failure};
use crate::container::Status;
use crate::template::Template;
use serde_json::{Value, json};

/// Flags of both.
pub const FORMAT: &[Flag] = &[value("format", 'f', "Go template")];

/// The engine API's version that is spoken, and the oldest.
pub const API: (&str, &str) = ("1.44", "1.24");

fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release")
        .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let found = text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix('=')
            .map(|value| value.trim_matches('"').to_owned())
    });
    found.unwrap_or_default()
}

/// `docker --version`.
pub fn version_line() -> String {
    let image = os_release("IMAGE_VERSION");
    let image = if image.is_empty() {
        "no image".to_owned()
    } else {
        image
    };
    format!(
        "Docker version {} (Flotilla, {image})",
        env!("CARGO_PKG_VERSION")
    )
}

/// What the API says under `/version`.
pub fn version_value() -> Value {
    json!({
        "Platform": {"Name": "Flotilla"}, "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": API.0, "MinAPIVersion": API.1, "GitCommit": "", "GoVersion": "none",
        "Os": "linux", "Arch": arch(), "KernelVersion": kernel(), "BuildTime": "",
        "Components": [{"Name": "Engine", "Version": env!("CARGO_PKG_VERSION"), "Details": {"ApiVersion": API.0, "MinAPIVersion": API.1, "Os": "linux", "Arch": arch(), "KernelVersion": kernel()}}],
    })
}

/// What the API says under `/info`.
pub fn info_value(context: &Context) -> Result<Value, Failure> {
    let containers = context.host.containers_now()?;
    let running = containers
        .iter()
        .filter(|container| container.running())
        .count();
    let stopped = containers
        .iter()
        .filter(|container| matches!(container.state.status, Status::Exited | Status::Created))
        .count();
    let store = context.host.look()?;
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory: u64 = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let options = &context.options;
    Ok(json!({
        "ID": "", "Containers": containers.len(), "ContainersRunning": running, "ContainersPaused": 0, "ContainersStopped": stopped, "Images": store.images()?.len(),
        "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "overlayfs"]], "LoggingDriver": options.log_driver, "CgroupDriver": "none", "CgroupVersion": "2",
        "KernelVersion": kernel(), "OperatingSystem": os_release("PRETTY_NAME"), "OSType": "linux", "Architecture": std::env::consts::ARCH,
        "NCPU": std::thread::available_parallelism().map_or(1, std::num::NonZero::get), "MemTotal": memory * 1024, "DockerRootDir": context.host.data, "Name": crate::monitor::launch::host_name(),
        "ServerVersion": env!("CARGO_PKG_VERSION"), "DefaultRuntime": "libcontainer", "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"], "LiveRestoreEnabled": true,
        "RegistryConfig": {"Mirrors": options.registry_mirrors, "InsecureRegistryCIDRs": options.insecure_registries, "IndexConfigs": {}}, "Warnings": [],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "null"], "Log": ["journald", "json-file", "none"]}, "Swarm": {"LocalNodeState": "inactive"},
    }))
}

fn formatted(args: &Args, value: &Value) -> Result<bool, Failure> {
    let Some(format) = args.get("format") else {
        return Ok(false);
    };
    let format = if format == "json" {
        "{{json .}}"
    } else {
        format
    };
    let text = Template::parse(format)
        .and_then(|template| template.render(value))
        .map_err(|error| Failure::plain(1, error.to_string()))?;
    println!("{text}");
    Ok(true)
}

/// `docker version`.
pub fn version(_: &Context, args: &Args) -> Result<i32, Failure> {
    let value = version_value();
    let both = json!({"Client": value, "Server": value});
    if formatted(args, &both)? {
        return Ok(0);
    }
    for side in ["Client", "Server: Flotilla"] {
        println!(
            "{side}:\n Version:           {}\n API version:       {} (minimum version {})\n OS/Arch:           linux/{}\n Kernel:            {}\n",
            env!("CARGO_PKG_VERSION"),
            API.0,
            API.1,
            arch(),
            kernel()
        );
    }
    Ok(0)
}

/// `docker info`.
pub fn info(context: &Context, args: &Args) -> Result<i32, Failure> {
    let value = info_value(context)?;
    if formatted(args, &value)? {
        return Ok(0);
    }
    let rows = [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Server Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Version", "CgroupVersion"),
        ("Default Runtime", "DefaultRuntime"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
        ("Name", "Name"),
        ("Docker Root Dir", "DockerRootDir"),
    ];
    for (head, key) in rows {
        let text = value[key]
            .as_str()
            .map_or_else(|| value[key].to_string(), str::to_owned);
        println!("{head}: {text}");
    }
    for (head, list) in [
        ("Registry Mirrors", &context.options.registry_mirrors),
        ("Insecure Registries", &context.options.insecure_registries),
    ] {
        if !list.is_empty() {
            println!("{head}:");
            for entry in list {
                println!("  {entry}");
            }
        }
    }
    Ok(0)
}

/// `docker completion`: the command words.
pub fn completion(_: &Context, args: &Args) -> Result<i32, Failure> {
    let words: Vec<&str> = COMMANDS
        .iter()
        .map(|command| command.name)
        .filter(|name| !name.contains(' '))
        .collect();
    let words = words.join(" ");
    match args.words[0].as_str() {
        "bash" => println!("complete -W '{words}' -o default docker"),
        "zsh" => println!("#compdef docker\n_arguments '1:command:({words})' '*:file:_files'"),
        "fish" => println!("complete -c docker -n __fish_use_subcommand -f -a '{words}'"),
        other => {
            return Err(Failure::usage(format!(
                "no completion for the shell {other:?}"
            )));
        }
    }
    Ok(0)
}
