//! `inspect`, in docker's field names.

use super::args::{Args, Flag, switch, value};
use super::{Context, Failure};
use crate::container::{Container, Status};
use crate::template::Template;
use crate::time::ZERO;
use serde_json::{Map, Value, json};

/// Its flags.
pub const FLAGS: &[Flag] = &[
    value("format", 'f', "Go template"),
    switch("size", 's', "Sizes"),
    value("type", '\0', "container or image"),
];

/// `docker inspect`.
pub fn inspect(context: &Context, args: &Args) -> Result<i32, Failure> {
    let kind = args.get("type").unwrap_or_default().to_owned();
    if !matches!(kind.as_str(), "" | "container" | "image") {
        return Err(Failure::plain(
            1,
            format!("{kind:?} is not a valid value for --type (container or image)"),
        ));
    }
    show(args, |name| {
        if kind != "image" {
            match context.host.find(name) {
                Ok(container) => return Ok(container_value(context, &container)),
                Err(crate::container::ContainerError::NoSuch(_)) if kind != "container" => {}
                Err(error) => return Err(error.into()),
            }
        }
        match image_value(context, name) {
            Err(failure) if kind.is_empty() && failure.text.starts_with("No such image") => {
                Err(Failure::plain(1, format!("Error: No such object: {name}")))
            }
            other => other,
        }
    })
}

/// `docker container inspect`.
pub fn containers(context: &Context, args: &Args) -> Result<i32, Failure> {
    show(args, |name| {
        Ok(container_value(context, &context.host.find(name)?))
    })
}

/// `docker image inspect`.
pub fn images(context: &Context, args: &Args) -> Result<i32, Failure> {
    show(args, |name| image_value(context, name))
}

fn show(args: &Args, find: impl Fn(&str) -> Result<Value, Failure>) -> Result<i32, Failure> {
    let format = args
        .get("format")
        .map(|text| if text == "json" { "{{json .}}" } else { text });
    let template = format
        .map(Template::parse)
        .transpose()
        .map_err(|error| Failure::plain(64, error.to_string()))?;
    let (mut found, mut code) = (Vec::new(), 0);
    for name in &args.words {
        match find(name) {
            Ok(value) => match &template {
                Some(template) => println!(
                    "{}",
                    template
                        .render(&value)
                        .map_err(|error| Failure::plain(1, error.to_string()))?
                ),
                None => found.push(value),
            },
            Err(failure) => {
                failure.report();
                code = 1;
            }
        }
    }
    if template.is_none() {
        println!(
            "{}",
            serde_json::to_string_pretty(&found).unwrap_or_else(|_| "[]".into())
        );
    }
    Ok(code)
}

fn or_zero(time: &str) -> &str {
    if time.is_empty() { ZERO } else { time }
}

fn port_map(container: &Container, of_config: bool) -> Value {
    let mut map = Map::new();
    if !of_config && container.running() {
        for port in &container.config.exposed {
            map.insert(port.clone(), Value::Null);
        }
    }
    let published = match (&container.state.network, of_config) {
        (Some(network), false) => network.ports.clone(),
        (None, false) => Vec::new(),
        (_, true) => container.config.ports.clone(),
    };
    for port in published {
        let ip = port.host_ip.map_or_else(
            || {
                if of_config {
                    String::new()
                } else {
                    "0.0.0.0".into()
                }
            },
            |ip| ip.to_string(),
        );
        let binding = json!({"HostIp": ip, "HostPort": port.host_port.map_or_else(String::new, |port| port.to_string())});
        let entry = map
            .entry(format!("{}/{}", port.container_port, port.protocol))
            .or_insert(Value::Null);
        match entry {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    Value::Object(map)
}

fn network_value(container: &Container) -> Value {
    let attached = container.state.network.clone().unwrap_or_default();
    let name = match container.config.network.as_str() {
        "default" => "bridge",
        other => other,
    };
    let mut networks = Map::new();
    networks.insert(
        name.to_owned(),
        json!({"IPAddress": attached.address, "IPPrefixLen": attached.prefix, "Gateway": attached.gateway, "MacAddress": attached.mac, "Aliases": Value::Null, "NetworkID": ""}),
    );
    json!({
        "Bridge": "", "SandboxKey": attached.namespace, "Ports": port_map(container, false),
        "IPAddress": attached.address, "IPPrefixLen": attached.prefix, "Gateway": attached.gateway, "MacAddress": attached.mac,
        "Networks": networks,
    })
}

fn state_value(container: &Container) -> Value {
    let state = &container.state;
    json!({
        "Status": state.status.word(), "Running": container.running(), "Paused": false, "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed, "Dead": false, "Pid": state.pid, "ExitCode": state.exit_code, "Error": state.error,
        "StartedAt": or_zero(&state.started_at), "FinishedAt": or_zero(&state.finished_at),
    })
}

fn container_value(context: &Context, container: &Container) -> Value {
    let config = &container.config;
    let args = config.args();
    let directory = context.host.container(&config.id);
    let mounts: Vec<Value> = config
        .binds
        .iter()
        .map(|bind| {
            let kind = if bind.volume.is_some() { "volume" } else { "bind" };
            let writable = !bind.options.iter().any(|option| option == "ro");
            let mut value = json!({"Type": kind, "Source": bind.source, "Destination": bind.target, "Mode": bind.options.join(","), "RW": writable, "Propagation": "rprivate"});
            if let Some(name) = &bind.volume {
                value["Name"] = json!(name);
                value["Driver"] = json!("local");
            }
            value
        })
        .collect();
    let exposed: Map<String, Value> = config
        .exposed
        .iter()
        .map(|port| (port.clone(), json!({})))
        .collect();
    let limit = |value: Option<i64>| value.unwrap_or(0);
    json!({
        "Id": config.id, "Created": config.created, "Path": args.first(), "Args": args.get(1..).unwrap_or_default(),
        "State": state_value(container),
        "Image": config.image_id, "Name": format!("/{}", config.name), "RestartCount": container.state.restart_count, "Driver": "overlay2", "Platform": "linux",
        "ResolvConfPath": directory.join("resolv.conf"), "HostnamePath": directory.join("hostname"), "HostsPath": directory.join("hosts"), "LogPath": directory.join("log.json"),
        "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": directory.join("upper"), "WorkDir": directory.join("work"), "MergedDir": directory.join("merged")}},
        "Mounts": mounts,
        "Config": {
            "Hostname": config.hostname, "Domainname": "", "User": config.user, "Tty": config.tty, "OpenStdin": config.stdin, "Env": config.env, "Cmd": config.cmd,
            "Entrypoint": config.entrypoint, "Image": config.image, "Labels": config.labels, "WorkingDir": config.workdir, "ExposedPorts": exposed,
            "StopSignal": config.stop_signal, "StopTimeout": config.stop_timeout,
        },
        "HostConfig": {
            "Binds": config.binds.iter().map(|bind| format!("{}:{}", bind.volume.clone().unwrap_or_else(|| bind.source.to_string_lossy().into_owned()), bind.target)).collect::<Vec<_>>(),
            "NetworkMode": config.network, "PortBindings": port_map(container, true), "PublishAllPorts": config.publish_all, "AutoRemove": config.remove,
            "Privileged": config.privileged, "ReadonlyRootfs": config.read_only, "CapAdd": config.cap_add, "CapDrop": config.cap_drop,
            "Dns": config.dns, "DnsSearch": config.dns_search, "ExtraHosts": config.add_host, "Memory": limit(config.resources.memory), "MemorySwap": limit(config.resources.memory_swap),
            "CpuShares": config.resources.cpu_shares.unwrap_or(0), "CpuQuota": limit(config.resources.cpu_quota), "CpusetCpus": config.resources.cpuset.clone().unwrap_or_default(),
            "PidsLimit": config.resources.pids, "ShmSize": config.shm_size, "PidMode": config.pid_mode, "IpcMode": config.ipc_mode, "UTSMode": config.uts_mode, "Tmpfs": config.tmpfs,
            "RestartPolicy": {"Name": config.restart.name(), "MaximumRetryCount": if let crate::container::Restart::OnFailure(limit) = config.restart { limit } else { 0 }},
            "LogConfig": {"Type": config.log_driver, "Config": {}}, "CgroupParent": container.state.cgroup.rsplit_once('/').map_or("", |(base, _)| base),
        },
        "NetworkSettings": network_value(container),
    })
}

fn image_value(context: &Context, name: &str) -> Result<Value, Failure> {
    let store = context.host.look()?;
    let image = store.find(name)?;
    let config = store.config(&image.id)?;
    let mut tags = Vec::new();
    let mut digests = Vec::new();
    for (known, target) in store
        .references()?
        .into_iter()
        .filter(|(_, target)| target.image == image.id)
    {
        if known.tag.is_some() {
            tags.push(known.to_string());
        }
        digests.push(format!(
            "{}@{}",
            known.familiar_repository(),
            target.manifest
        ));
    }
    digests.dedup();
    let lowers = store.lowers(&image.chain);
    Ok(json!({
        "Id": image.id, "RepoTags": tags, "RepoDigests": digests, "Parent": "", "Comment": "", "Created": config.created.clone().unwrap_or_default(), "Author": config.author.clone().unwrap_or_default(),
        "Config": full_config(&config), "Architecture": config.architecture, "Os": config.os, "Size": image.size, "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": lowers.first(), "LowerDir": lowers.get(1..).unwrap_or_default()}},
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids},
    }))
}

/// All fields, also empty ones: templates name them.
fn full_config(config: &oci_image::manifest::ImageConfig) -> Value {
    let run = &config.config;
    let or_null = |list: &Vec<String>| {
        if list.is_empty() {
            Value::Null
        } else {
            json!(list)
        }
    };
    json!({
        "User": run.user, "ExposedPorts": run.exposed_ports, "Env": run.env, "Cmd": or_null(&run.cmd), "Entrypoint": or_null(&run.entrypoint), "Volumes": run.volumes,
        "WorkingDir": run.working_dir, "Labels": run.labels, "StopSignal": run.stop_signal.clone().unwrap_or_default(),
    })
}
