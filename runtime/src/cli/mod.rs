//! The `docker` command.
//!
//! [`main`] finds the command (both spellings: `docker ps`, `docker container ls`), reads its flags and runs it.
//! Errors go to stderr in docker's words; exit codes: 125 our own failure of `run` and `create`, 126 and 127 a
//! command that cannot be run, else what the container's process gave; 1 for other commands.

pub mod args;
mod attach;
mod create;
mod exec;
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

pub use lifecycle::restore;
pub use system::{API, info_value, version_value};

use crate::container::ContainerError;
use crate::host::Host;
use crate::options::Options;
use args::{Args, ArgsError, Flag};
use oci_image::store::StoreError;

/// How a failure is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `Error response from daemon: …`.
    Daemon,
    /// A wrong command line.
    Usage,
    /// Said already, or as it is.
    Plain,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    code: i32,
    text: String,
    kind: Kind,
}

impl Failure {
    fn daemon(text: String) -> Self {
        Failure {
            code: 1,
            text,
            kind: Kind::Daemon,
        }
    }

    fn usage(text: impl Into<String>) -> Self {
        Failure {
            code: 1,
            text: text.into(),
            kind: Kind::Usage,
        }
    }

    fn plain(code: i32, text: impl Into<String>) -> Self {
        Failure {
            code,
            text: text.into(),
            kind: Kind::Plain,
        }
    }

    fn io(what: &str, error: impl std::fmt::Display) -> Self {
        Failure::daemon(format!("failed to {what}: {error}"))
    }

    fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Failure::daemon(telemetry::chain(error))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ContainerError> for Failure {
    fn from(error: ContainerError) -> Self {
        Failure::of(&error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::of(&error)
    }
}

impl From<ArgsError> for Failure {
    fn from(error: ArgsError) -> Self {
        Failure::usage(error.to_string())
    }
}

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
    flags: &'static [Flag],
    /// Flags may follow words.
    interspersed: bool,
    /// How many words at least and at most.
    words: (usize, usize),
    run: Run,
}

const MANY: usize = usize::MAX;

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    Command { name: "run", other: "container run", usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]", about: "Create and run a new container from an image", flags: create::FLAGS, interspersed: false, words: (1, MANY), run: run::run },
    Command { name: "exec", other: "container exec", usage: "[OPTIONS] CONTAINER COMMAND [ARG...]", about: "Execute a command in a running container", flags: exec::FLAGS, interspersed: false, words: (2, MANY), run: exec::exec },
    Command { name: "ps", other: "container ls,container list,container ps", usage: "[OPTIONS]", about: "List containers", flags: list::PS, interspersed: true, words: (0, 0), run: list::ps },
    Command { name: "pull", other: "image pull", usage: "[OPTIONS] NAME[:TAG|@DIGEST]", about: "Download an image from a registry", flags: pull::FLAGS, interspersed: true, words: (1, 1), run: pull::pull },
    Command { name: "images", other: "image ls,image list", usage: "[OPTIONS] [REPOSITORY[:TAG]]", about: "List images", flags: images::LIST, interspersed: true, words: (0, 1), run: images::list },
    Command { name: "create", other: "container create", usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]", about: "Create a new container", flags: create::FLAGS, interspersed: false, words: (1, MANY), run: run::create },
    Command { name: "start", other: "container start", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Start one or more stopped containers", flags: lifecycle::START, interspersed: true, words: (1, MANY), run: lifecycle::start },
    Command { name: "stop", other: "container stop", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Stop one or more running containers", flags: lifecycle::STOP, interspersed: true, words: (1, MANY), run: lifecycle::stop },
    Command { name: "restart", other: "container restart", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Restart one or more containers", flags: lifecycle::STOP, interspersed: true, words: (1, MANY), run: lifecycle::restart },
    Command { name: "kill", other: "container kill", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Kill one or more running containers", flags: lifecycle::KILL, interspersed: true, words: (1, MANY), run: lifecycle::kill },
    Command { name: "rm", other: "container rm,container remove", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Remove one or more containers", flags: lifecycle::RM, interspersed: true, words: (1, MANY), run: lifecycle::rm },
    Command { name: "wait", other: "container wait", usage: "CONTAINER [CONTAINER...]", about: "Block until one or more containers stop, then print their exit codes", flags: &[], interspersed: true, words: (1, MANY), run: lifecycle::wait },
    Command { name: "logs", other: "container logs", usage: "[OPTIONS] CONTAINER", about: "Fetch the logs of a container", flags: logs::FLAGS, interspersed: true, words: (1, 1), run: logs::logs },
    Command { name: "attach", other: "container attach", usage: "[OPTIONS] CONTAINER", about: "Attach to a running container", flags: lifecycle::ATTACH, interspersed: true, words: (1, 1), run: lifecycle::attach },
    Command { name: "port", other: "container port", usage: "CONTAINER [PRIVATE_PORT[/PROTO]]", about: "List port mappings of a container", flags: &[], interspersed: true, words: (1, 2), run: list::port },
    Command { name: "rmi", other: "image rm,image remove", usage: "[OPTIONS] IMAGE [IMAGE...]", about: "Remove one or more images", flags: images::REMOVE, interspersed: true, words: (1, MANY), run: images::remove },
    Command { name: "tag", other: "image tag", usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", about: "Give an image another name", flags: &[], interspersed: true, words: (2, 2), run: images::tag },
    Command { name: "inspect", other: "", usage: "[OPTIONS] NAME|ID [NAME|ID...]", about: "Return low-level information on containers and images", flags: inspect::FLAGS, interspersed: true, words: (1, MANY), run: inspect::inspect },
    Command { name: "container inspect", other: "", usage: "[OPTIONS] CONTAINER [CONTAINER...]", about: "Return low-level information on containers", flags: inspect::FLAGS, interspersed: true, words: (1, MANY), run: inspect::containers },
    Command { name: "image inspect", other: "", usage: "[OPTIONS] IMAGE [IMAGE...]", about: "Return low-level information on images", flags: inspect::FLAGS, interspersed: true, words: (1, MANY), run: inspect::images },
    Command { name: "info", other: "system info", usage: "[OPTIONS]", about: "Display system-wide information", flags: system::FORMAT, interspersed: true, words: (0, 0), run: system::info },
    Command { name: "version", other: "", usage: "[OPTIONS]", about: "Show the version information", flags: system::FORMAT, interspersed: true, words: (0, 0), run: system::version },
    Command { name: "completion", other: "", usage: "bash|zsh|fish", about: "Print a completion script", flags: &[], interspersed: true, words: (1, 1), run: system::completion },
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
        Err(error) => return complain(command, Failure::from(error).with_code(trouble)),
    };
    if args.help {
        print!("{}", help(command));
        return 0;
    }
    for warning in &args.warnings {
        eprintln!("{warning}");
    }
    if args.words.len() < command.words.0 || args.words.len() > command.words.1 {
        return complain(
            command,
            Failure::from(count_error(command)).with_code(trouble),
        );
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
        Err(failure) => complain(command, failure),
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

fn unknown(words: &[String]) -> i32 {
    match words.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => {
            print!("{}", overview());
            0
        }
        Some("-v" | "--version") => {
            println!("{}", system::version_line());
            0
        }
        Some(word) => {
            eprintln!("docker: '{word}' is not a docker command.\nSee 'docker --help'");
            1
        }
    }
}

fn overview() -> String {
    let mut text =
        "Usage:  docker COMMAND\n\nContainers without a daemon\n\nCommands:\n".to_owned();
    for command in COMMANDS
        .iter()
        .filter(|command| !command.name.contains(' '))
    {
        text.push_str(&format!("  {:<12}{}\n", command.name, command.about));
    }
    text.push_str("\nExample:\n  docker run -d -p 80:8080 --name web 10.0.2.2:5000/web\n\nRun 'docker COMMAND --help' for more information on a command.\n");
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
            "  {short}--{:<24}{}\n",
            format!("{}{value}", flag.long),
            flag.help
        ));
    }
    text
}

fn complain(command: &Command, failure: Failure) -> i32 {
    let run = matches!(command.name, "run" | "create");
    let text = failure.text.trim_end_matches('.');
    match failure.kind {
        Kind::Plain if failure.text.is_empty() => {}
        Kind::Plain => eprintln!("{}", failure.text),
        Kind::Daemon if run => eprintln!(
            "docker: Error response from daemon: {text}.\nSee 'docker {} --help'.",
            command.name
        ),
        Kind::Daemon => eprintln!("Error response from daemon: {}", failure.text),
        Kind::Usage if run => eprintln!("docker: {text}.\nSee 'docker {} --help'.", command.name),
        Kind::Usage => eprintln!(
            "{}\nSee 'docker {} --help'.\n\nUsage:  docker {} {}",
            failure.text, command.name, command.name, command.usage
        ),
    }
    if run && failure.kind != Kind::Plain && failure.code == 1 {
        125
    } else {
        failure.code
    }
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
                eprintln!("Error response from daemon: {}", failure.text);
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
        assert_eq!(skip_global(&words("-H unix:///x -D ps")), ["ps"]);
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
