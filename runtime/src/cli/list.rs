//! `ps` and `port`.

use super::args::{Args, Flag, switch, value};
use super::{Context, Failure, table};
use crate::container::{Container, Port, Status};
use crate::template::Template;
use crate::time;
use serde_json::{Value, json};
use std::time::SystemTime;

/// Flags of `ps`.
pub const PS: &[Flag] = &[
    switch("all", 'a', "Also those that do not run"),
    value(
        "filter",
        'f',
        "status=, name=, id=, exited=, ancestor=, label=",
    ),
    value("format", '\0', "Go template"),
    value("last", 'n', "The last so many, whatever their state"),
    switch("latest", 'l', "The last one, whatever its state"),
    switch("no-trunc", '\0', "Whole ids and commands"),
    switch("quiet", 'q', "Ids only"),
    switch("size", 's', "Sizes"),
];

/// `*` and `?` as in file names.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some('?') => (p, t) = (p + 1, t + 1),
            Some(c) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// `docker ps`.
pub fn ps(context: &Context, args: &Args) -> Result<i32, Failure> {
    let mut containers = context.host.containers_now()?;
    let last: Option<i64> = if args.on("latest") {
        Some(1)
    } else {
        args.read("last")?
    };
    let by_status = args
        .all("filter")
        .iter()
        .any(|filter| filter.starts_with("status=") || filter.starts_with("exited="));
    if !args.on("all") && last.is_none() && !by_status {
        containers.retain(Container::running);
    }
    for filter in args.all("filter") {
        keep(&mut containers, filter)?;
    }
    if let Some(count) = last.and_then(|count| usize::try_from(count).ok()) {
        containers.truncate(count);
    }
    let now = SystemTime::now();
    let whole = args.on("no-trunc");
    if args.on("quiet") {
        for container in &containers {
            println!(
                "{}",
                if whole {
                    &container.config.id
                } else {
                    container.config.short()
                }
            );
        }
        return Ok(0);
    }
    if let Some(format) = args.get("format") {
        let format = format.strip_prefix("table ").unwrap_or(format);
        let template =
            Template::parse(format).map_err(|error| Failure::plain(1, error.to_string()))?;
        for container in &containers {
            let value = row_value(container, now, whole);
            let line = if format == "json" {
                value.to_string()
            } else {
                template
                    .render(&value)
                    .map_err(|error| Failure::plain(1, error.to_string()))?
            };
            println!("{line}");
        }
        return Ok(0);
    }
    let mut heads = vec![
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    if args.on("size") {
        heads.push("SIZE");
    }
    let rows: Vec<Vec<String>> = containers
        .iter()
        .map(|container| {
            let value = row_value(container, now, whole);
            let cell = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let mut cells = vec![
                cell("ID"),
                cell("Image"),
                cell("Command"),
                cell("RunningFor"),
                cell("Status"),
                cell("Ports"),
                cell("Names"),
            ];
            if args.on("size") {
                cells.push(table::size(tree_size(
                    &context.host.container(&container.config.id).join("upper"),
                )));
            }
            cells
        })
        .collect();
    print!("{}", table::render(&heads, &rows));
    Ok(0)
}

fn tree_size(directory: &std::path::Path) -> u64 {
    let mut total = 0;
    let mut stack = vec![directory.to_owned()];
    while let Some(directory) = stack.pop() {
        for item in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match item.metadata() {
                Ok(metadata) if metadata.is_dir() => stack.push(item.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

fn keep(containers: &mut Vec<Container>, filter: &str) -> Result<(), Failure> {
    let (key, wanted) = filter.split_once('=').ok_or_else(|| Failure::plain(1, format!("invalid argument {filter:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)")))?;
    match key {
        "status" => containers.retain(|container| container.state.status.word() == wanted),
        // Docker takes a regular expression; a part of the name is what people use, `^x$` the exact form.
        "name" => containers.retain(|container| {
            let exact = wanted
                .strip_prefix('^')
                .map(|rest| rest.trim_start_matches('/'));
            match exact {
                Some(exact) => exact.strip_suffix('$').map_or_else(
                    || container.config.name.starts_with(exact),
                    |exact| container.config.name == exact,
                ),
                None => container.config.name.contains(wanted),
            }
        }),
        "id" => containers.retain(|container| container.config.id.starts_with(wanted)),
        "exited" => {
            let code: i32 = wanted
                .parse()
                .map_err(|_| Failure::daemon(format!("invalid filter 'exited={wanted}'")))?;
            containers.retain(|container| {
                container.state.status == Status::Exited && container.state.exit_code == code
            });
        }
        "ancestor" => containers.retain(|container| {
            container.config.image == wanted
                || container.config.image_id.contains(wanted)
                || container.config.image == format!("{wanted}:latest")
        }),
        "label" => {
            let (label, value) = wanted
                .split_once('=')
                .map_or((wanted, None), |(label, value)| (label, Some(value)));
            containers.retain(|container| {
                container
                    .config
                    .labels
                    .get(label)
                    .is_some_and(|found| value.is_none_or(|value| value == found))
            });
        }
        _ => return Err(Failure::daemon(format!("invalid filter '{key}'"))),
    }
    Ok(())
}

fn row_value(container: &Container, now: SystemTime, whole: bool) -> Value {
    let config = &container.config;
    let command = config.args().join(" ");
    let command = if whole || command.chars().count() <= 20 {
        command
    } else {
        command.chars().take(19).collect::<String>() + "…"
    };
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "ID": if whole { &config.id } else { config.short() },
        "Image": config.image,
        "Command": format!("\"{command}\""),
        "CreatedAt": config.created,
        "RunningFor": time::ago(&config.created, now) + " ago",
        "Status": status(container, now),
        "State": container.state.status.word(),
        "Ports": ports(container),
        "Names": config.name,
        "Labels": labels.join(","),
        "Networks": config.network,
    })
}

/// `Up 3 minutes`, `Exited (137) 2 hours ago`.
pub fn status(container: &Container, now: SystemTime) -> String {
    let state = &container.state;
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => format!("Up {}", time::ago(&state.started_at, now)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            time::ago(&state.finished_at, now)
        ),
        Status::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            time::ago(&state.finished_at, now)
        ),
    }
}

fn host_side(port: &Port) -> String {
    let address = port
        .host_ip
        .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
    format!("{address}:{}", port.host_port.unwrap_or_default())
}

fn ports(container: &Container) -> String {
    let published = container
        .state
        .network
        .as_ref()
        .map(|network| network.ports.clone())
        .unwrap_or_default();
    let mut texts: Vec<String> = published
        .iter()
        .map(|port| {
            format!(
                "{}->{}/{}",
                host_side(port),
                port.container_port,
                port.protocol
            )
        })
        .collect();
    if container.running() {
        for exposed in &container.config.exposed {
            if !published
                .iter()
                .any(|port| format!("{}/{}", port.container_port, port.protocol) == *exposed)
            {
                texts.push(exposed.clone());
            }
        }
    }
    texts.sort();
    texts.join(", ")
}

/// `docker port`.
pub fn port(context: &Context, args: &Args) -> Result<i32, Failure> {
    let container = context.host.find(&args.words[0])?;
    let published = container
        .state
        .network
        .map(|network| network.ports)
        .unwrap_or_default();
    let Some(wanted) = args.words.get(1) else {
        for port in &published {
            println!(
                "{}/{} -> {}",
                port.container_port,
                port.protocol,
                host_side(port)
            );
        }
        return Ok(0);
    };
    let wanted = if wanted.contains('/') {
        wanted.clone()
    } else {
        format!("{wanted}/tcp")
    };
    let found: Vec<&Port> = published
        .iter()
        .filter(|port| format!("{}/{}", port.container_port, port.protocol) == wanted)
        .collect();
    if found.is_empty() {
        return Err(Failure::plain(
            1,
            format!(
                "Error: No public port '{wanted}' published for {}",
                args.words[0]
            ),
        ));
    }
    for port in found {
        println!("{}", host_side(port));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_file_names() {
        for (pattern, text, expected) in [
            ("web*", "web-1", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a*c*", "abcd", true),
            ("a", "ab", false),
            ("*b", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn status_words_are_dockers() {
        let config = crate::container::tests::config(&"0".repeat(64), "web");
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let mut container = Container {
            config,
            state: crate::container::State::default(),
            monitored: false,
        };
        assert_eq!(status(&container, now), "Created");
        container.state.status = Status::Exited;
        container.state.exit_code = 137;
        container.state.finished_at = "2025-12-31T23:00:00Z".into();
        assert_eq!(status(&container, now), "Exited (137) 2 hours ago");
        container.state.status = Status::Running;
        container.state.started_at = "2026-01-01T00:57:00Z".into();
        assert_eq!(status(&container, now), "Up 3 minutes");
    }
}
