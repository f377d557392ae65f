//! The `docker` command.
//!
//! [`main`] finds the command (both spellings: `docker ps`, `docker container ls`), reads its flags and runs it.
//! Errors go to stderr in docker's words; exit codes: 125 our own failure of `run` and `create`, 126 and 127 a
//! command that cannot be run, else what the container's process gave; 1 for other commands. A user who is not root
//! gets the command run by dockerd: [`crate::relay`].

pub mod args;
mod attach;
mod create;
mod exec;
mod failure;
mod images;
mod inspect;
mod lifecycle;
mod list;
mod logs;
mod names;
mod pull;
mod run;
pub mod signals;
mod system;
mod table;

pub use failure::Failure;
pub use lifecycle::restore;
pub use system::{API, info_value, version_value};

use crate::host::Host;
use crate::options::Options;
use crate::relay;
use args::{Args, ArgsError, Flag};
use std::path::Path;

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    /// Where things are.
    pub host: Host,
    /// Options of the service.
    pub options: Options,
}

type Run = fn(&Context, &Args) -> Result<i32, Failure>;

/// One command.
struct Command {
    /// `ps`.
    name: &'static str,
    /// `container ls`, without `docker`; several separated by commas.
    other: &'static str,
    usage: &'static str,
    about: &'static str,
    /// A whole line for `--help`.
    example: &'static str,
    flags: &'static [Flag],
    /// Flags may follow words.
    interspersed: bool,
    /// How many words at least and at most.
    words: (usize, usize),
    /// Changes something: done as root, for the group docker by [`relay`]. The rest only looks, which the group may too.
    root: bool,
    run: Run,
}

const MANY: usize = usize::MAX;

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    Command { name: "run", other: "container run", usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]", about: "Create and run a new container from an image", example: "docker run -d --restart always --name web -p 80:8080 -e MODE=live -v /srv/web:/data:ro registry.example/team/web:1", flags: create::FLAGS, interspersed: false, words: (1, MANY), root: true, run: run::run },
    Command { name: "exec", other: "container exec", usage: "[OPTIONS] CONTAINER COMMAND [ARG...]", about: "Execute a command in a running container", example: "docker exec -it web sh", flags: exec::FLAGS, interspersed: false, words: (2, MANY), root: true, run: exec::exec },
    Command { name: "ps", other: "container ls,container list,container ps", usage: "[OPTIONS]", about: "List containers", example: "docker ps -a --filter status=exited", flags: list::PS, interspersed: true, words: (0, 0), root: false, run: list::ps },
    Command { name: "pull", other: "image pull", usage: "[OPTIONS] NAME[:TAG|@DIGEST]", about: "Download an image from a registry", example: "docker pull registry.example/team/web:1", flags: pull::FLAGS, interspersed: true, words: (1, 1), root: true, run: pull::pull },
    Command { name: "images", other: "image ls,image list", usage: "[OPTIONS] [REPOSITORY[:TAG]]", about: "List images", example: "docker images --filter dangling=true", flags: images::LIST, interspersed: true, words: (0, 1), root: false, run: images::list },
    Command { name: "create", other: "container create", usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]", about: "Create a new container", example: "docker create --name web -p 80:8080 registry.example/team/web:1", flags: create::FLAGS, interspersed: false, words: (1, MANY), root: true, run: run::create },
    Command { name: "start", other: "container start", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Start one or more stopped containers", example: "docker start web", flags: lifecycle::START, interspersed: true, words: (1, MANY), root: true, run: lifecycle::start },
    Command { name: "stop", other: "container stop", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Stop one or more running containers", example: "docker stop -t 30 web", flags: lifecycle::STOP, interspersed: true, words: (1, MANY), root: true, run: lifecycle::stop },
    Command { name: "restart", other: "container restart", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Restart one or more containers", example: "docker restart web", flags: lifecycle::STOP, interspersed: true, words: (1, MANY), root: true, run: lifecycle::restart },
    Command { name: "kill", other: "container kill", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Kill one or more running containers", example: "docker kill -s HUP web", flags: lifecycle::KILL, interspersed: true, words: (1, MANY), root: true, run: lifecycle::kill },
    Command { name: "rm", other: "container rm,container remove", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Remove one or more containers", example: "docker rm -f web", flags: lifecycle::RM, interspersed: true, words: (1, MANY), root: true, run: lifecycle::rm },
    Command { name: "wait", other: "container wait", usage: "CONTAINER [CONTAINER...]", about: "Block until one or more containers stop, then print their exit codes", example: "docker wait web", flags: &[], interspersed: true, words: (1, MANY), root: true, run: lifecycle::wait },
    Command { name: "logs", other: "container logs", usage: "[OPTIONS] CONTAINER", about: "Fetch the logs of a container", example: "docker logs -f --tail 20 web", flags: logs::FLAGS, interspersed: true, words: (1, 1), root: false, run: logs::logs },
    Command { name: "attach", other: "container attach", usage: "[OPTIONS] CONTAINER", about: "Attach to a running container", example: "docker attach --no-stdin web", flags: lifecycle::ATTACH, interspersed: true, words: (1, 1), root: true, run: lifecycle::attach },
    Command { name: "port", other: "container port", usage: "CONTAINER [PRIVATE_PORT[/PROTO]]", about: "List port mappings of a container", example: "docker port web 8080", flags: &[], interspersed: true, words: (1, 2), root: false, run: list::port },
    Command { name: "rmi", other: "image rm,image remove", usage: "[OPTIONS] IMAGE [IMAGE...]", about: "Remove one or more images", example: "docker rmi registry.example/team/web:1", flags: images::REMOVE, interspersed: true, words: (1, MANY), root: true, run: images::remove },
    Command { name: "tag", other: "image tag", usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", about: "Give an image another name", example: "docker tag web:1 registry.example/team/web:2", flags: &[], interspersed: true, words: (2, 2), root: true, run: images::tag },
    Command { name: "inspect", other: "", usage: "[OPTIONS] NAME|ID [NAME|ID...]", about: "Return low-level information on containers and images", example: "docker inspect -f '{{.NetworkSettings.IPAddress}}' web", flags: inspect::FLAGS, interspersed: true, words: (1, MANY), root: false, run: inspect::inspect },
    Command { name: "container inspect", other: "", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Return low-level information on containers", example: "docker container inspect -f '{{.State.ExitCode}}' web", flags: inspect::FLAGS, interspersed: true, words: (1, MANY), root: false, run: inspect::containers },
    Command { name: "image inspect", other: "", usage: "[OPTIONS] IMAGE [IMAGE...]", about: "Return low-level information on images", example: "docker image inspect -f '{{.Config.Env}}' web:1", flags: inspect::FLAGS, interspersed: true, words: (1, MANY), root: false, run: inspect::images },
    Command { name: "info", other: "system info", usage: "[OPTIONS]", about: "Display system-wide information", example: "docker info -f '{{.DockerRootDir}}'", flags: system::FORMAT, interspersed: true, words: (0, 0), root: false, run: system::info },
    Command { name: "version", other: "", usage: "[OPTIONS]", about: "Show the version information", example: "docker version -f '{{.Server.Version}}'", flags: system::FORMAT, interspersed: true, words: (0, 0), root: false, run: system::version },
    Command { name: "completion", other: "", usage: "bash|zsh|fish", about: "Print a completion script", example: "source <(docker completion bash)", flags: &[], interspersed: true, words: (1, 1), root: false, run: system::completion },
];

/// Runs the command; its exit status.
pub fn main(words: &[String]) -> i32 {
    let words: Vec<String> = skip_global(words);
    let Some((command, rest)) = find(&words) else {
        return unknown(&words);
    };
    let trouble = if matches!(command.name, "run" | "create") {
        125
    } else {
        1
    };
    let args = match Args::parse(command.flags, rest, command.interspersed) {
        Ok(args) => args,
        Err(error) => {
            return Failure::from(error)
                .with_code(trouble)
                .conclude(command.name, command.usage);
        }
    };
    if args.help {
        print!("{}", help(command));
        return 0;
    }
    for warning in &args.warnings {
        eprintln!("{warning}");
    }
    if args.words.len() < command.words.0 || args.words.len() > command.words.1 {
        return Failure::from(count_error(command))
            .with_code(trouble)
            .conclude(command.name, command.usage);
    }
    if command.root && !rustix::process::geteuid().is_root() {
        return relay::call(Path::new(relay::SOCKET), &words, trouble);
    }
    let (options, warnings) = Options::current();
    for warning in warnings {
        eprintln!("{warning}");
    }
    let context = Context {
        host: Host::new(&options.data_root),
        options,
    };
    match (command.run)(&context, &args) {
        Ok(code) => code,
        Err(failure) => failure.conclude(command.name, command.usage),
    }
}

fn count_error(command: &Command) -> ArgsError {
    let wanted = match command.words {
        (0, 0) => "no arguments",
        (1, 1) => "exactly 1 argument",
        (2, 2) => "exactly 2 arguments",
        (0, 1) => "at most 1 argument",
        (2, _) => "at least 2 arguments",
        _ => "at least 1 argument",
    };
    ArgsError::Count {
        command: command.name.to_owned(),
        wanted,
    }
}

/// `docker -D -H unix://… --log-level x COMMAND`: switches of the client that mean nothing here.
fn skip_global(words: &[String]) -> Vec<String> {
    let mut rest = words;
    while let [first, tail @ ..] = rest {
        match first.as_str() {
            "-H" | "--host" | "-l" | "--log-level" | "--config" | "-c" | "--context" => {
                rest = tail.get(1..).unwrap_or_default();
            }
            "-D" | "--debug" | "--tls" | "--tlsverify" => rest = tail,
            other
                if [
                    "--host=",
                    "--log-level=",
                    "--config=",
                    "--context=",
                    "-H=",
                    "--tls",
                ]
                .iter()
                .any(|prefix| other.starts_with(prefix)) =>
            {
                rest = tail;
            }
            _ => break,
        }
    }
    rest.to_vec()
}

fn find(words: &[String]) -> Option<(&'static Command, &[String])> {
    if let Some((pair, rest)) = words.split_at_checked(2) {
        let pair = pair.join(" ");
        let named = |command: &&Command| {
            command.name == pair || command.other.split(',').any(|other| other == pair)
        };
        if let Some(command) = COMMANDS.iter().find(named) {
            return Some((command, rest));
        }
    }
    let first = words.first()?;
    COMMANDS
        .iter()
        .find(|command| command.name == first)
        .map(|command| (command, &words[1..]))
}

/// Commands of docker that are not here yet.
const LATER: &[&str] = &[
    "build", "builder", "buildx", "commit", "compose", "config", "context", "cp", "diff", "events",
    "export", "history", "import", "load", "login", "logout", "manifest", "network", "node",
    "pause", "plugin", "push", "rename", "save", "search", "secret", "service", "stack", "stats",
    "swarm", "top", "trust", "unpause", "update", "volume",
];

fn unknown(words: &[String]) -> i32 {
    let first = words.first().map(String::as_str);
    match first {
        Some("help") if words.len() > 1 => match find(&words[1..]) {
            Some((command, _)) => print!("{}", help(command)),
            None => return unknown(&words[1..]),
        },
        None | Some("help" | "--help" | "-h") => print!("{}", overview()),
        Some("-v" | "--version") => println!("{}", system::version_line()),
        Some(group @ ("container" | "image" | "system")) => {
            let asked = words.get(1).map(String::as_str);
            let list = commands_of(group);
            if matches!(asked, None | Some("--help" | "-h")) {
                print!("Usage:  docker {group} COMMAND\n\nCommands:\n{list}");
                return 0;
            }
            let asked = asked.unwrap_or_default();
            eprint!(
                "docker: '{group} {asked}' is not a docker command here.\n\nCommands of docker {group}:\n{list}"
            );
            return 1;
        }
        Some(word) if LATER.contains(&word) => {
            eprintln!(
                "docker: '{word}' is a command of docker that Flotilla does not have yet.\nSee 'docker --help' for those it has."
            );
            return 1;
        }
        Some(word) => {
            eprintln!("docker: '{word}' is not a docker command.\nSee 'docker --help'");
            return 1;
        }
    }
    0
}

/// `  ls          List containers`: the commands with two words that begin with `group`.
fn commands_of(group: &str) -> String {
    let mut text = String::new();
    for command in COMMANDS {
        let names = command.other.split(',').chain([command.name]);
        for name in names.filter_map(|name| name.strip_prefix(group)?.strip_prefix(' ')) {
            text.push_str(&format!("  {name:<12}{}\n", command.about));
        }
    }
    text
}

fn overview() -> String {
    let mut text = "Usage:  docker COMMAND\n\nContainers without a daemon: each command does its work itself, as root. For members of the group docker,\ndocker.service runs it as root; the ones marked * need neither.\n\nCommands:\n".to_owned();
    for command in COMMANDS
        .iter()
        .filter(|command| !command.name.contains(' '))
    {
        let mark = if command.root { ' ' } else { '*' };
        text.push_str(&format!(" {mark}{:<12}{}\n", command.name, command.about));
    }
    text.push_str("\nExample:\n  docker run -d -p 80:8080 --name web registry.example/team/web:1\n  docker ps\n\nRun 'docker COMMAND --help' for more information on a command.\n");
    text
}

fn help(command: &Command) -> String {
    let mut text = format!(
        "\nUsage:  docker {} {}\n\n{}\n",
        command.name, command.usage, command.about
    );
    if !command.other.is_empty() {
        let names: Vec<String> = command
            .other
            .split(',')
            .map(|other| format!("docker {other}"))
            .collect();
        text.push_str(&format!(
            "\nAliases:\n  {}, docker {}\n",
            names.join(", "),
            command.name
        ));
    }
    if !command.flags.is_empty() {
        text.push_str("\nOptions:\n");
    }
    for flag in command.flags {
        let short = if flag.short == '\0' {
            "    ".to_owned()
        } else {
            format!("-{}, ", flag.short)
        };
        let value = if flag.value { " value" } else { "" };
        text.push_str(&format!(
            "  {short}--{:<22}{}\n",
            format!("{}{value}", flag.long),
            flag.help
        ));
    }
    if !command.example.is_empty() {
        text.push_str(&format!("\nExample:\n  {}\n", command.example));
    }
    text
}

/// Runs a step for each word; prints the word where it worked, the error where not.
fn each(
    words: &[String],
    mut step: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<i32, Failure> {
    let mut code = 0;
    for word in words {
        match step(word) {
            Ok(()) => println!("{word}"),
            Err(failure) => {
                failure.report();
                code = 1;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_find_the_same_command() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (text, name, rest) in [
            ("ps -a", "ps", 1),
            ("container ls -a", "ps", 1),
            ("image rm x", "rmi", 1),
            ("container inspect x", "container inspect", 1),
            ("inspect x", "inspect", 1),
            ("system info", "info", 0),
            ("images", "images", 0),
        ] {
            let words = words(text);
            let (command, left) = find(&words).unwrap();
            assert_eq!((command.name, left.len()), (name, rest), "{text}");
        }
        assert!(find(&words("container frob")).is_none());
        assert!(commands_of("image").contains("  rm          Remove one or more images\n"));
        assert_eq!(skip_global(&words("-H unix:///x -D ps")), ["ps"]);
    }

    #[test]
    fn what_only_looks_needs_no_root() {
        let looks: Vec<&str> = COMMANDS
            .iter()
            .filter(|command| !command.root)
            .map(|command| command.name)
            .collect();
        assert_eq!(
            looks,
            [
                "ps",
                "images",
                "logs",
                "port",
                "inspect",
                "container inspect",
                "image inspect",
                "info",
                "version",
                "completion"
            ]
        );
        assert!(
            LATER
                .iter()
                .all(|name| find(&[(*name).to_owned()]).is_none())
        );
    }

    #[test]
    fn no_two_flags_of_a_command_share_a_letter() {
        for command in COMMANDS {
            for (index, flag) in command.flags.iter().enumerate() {
                assert!(
                    !command.flags[..index]
                        .iter()
                        .any(|other| other.long == flag.long
                            || (flag.short != '\0' && other.short == flag.short)),
                    "{} --{}",
                    command.name,
                    flag.long
                );
            }
        }
    }
}
