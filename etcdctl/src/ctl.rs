//! etcdctl: verbs in, output and exit status out. Exit: 0 done; 1 bad arguments or `get` of a directory; 2 no connection;
//! 3 unknown verb; 4 the server's answer; 5 the cluster is not healthy.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use etcd_kv::{EtcdConfig, EtcdKv, KeyValue, Kv, KvError, Lease, Tls};

use crate::args::{self, Job, Line, VERBS};
use crate::print::{self, Format};
use crate::v2::{self, Failure, Previous, Remove, Reply, Write, WriteDir};
use crate::watch::{self, Watching};
use crate::{cluster, tree};

/// Debian's etcdctl, which speaks v3.
const V3: &str = "/usr/lib/flotilla/etcdctl3";

/// Text for standard error and the exit status.
struct Failed(u8, String);

impl From<KvError> for Failed {
    fn from(err: KvError) -> Self {
        let code = match err {
            KvError::BadEndpoint { .. } => 1,
            _ if err.is_unavailable() => 2,
            _ => 4,
        };
        let text = match code {
            2 => format!(
                "Error:  client: etcd cluster is unavailable or misconfigured; error #0: {err}"
            ),
            _ => format!("Error:  {err}"),
        };
        Self(code, text)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(err) => err.into(),
            Failure::IsDirectory(_) => Self(1, failure.to_string()),
            Failure::Server { .. } | Failure::Busy(_) => Self(4, format!("Error:  {failure}")),
        }
    }
}

fn bad(text: &str) -> Failed {
    Failed(1, format!("Error:  {text}"))
}

/// The program.
pub fn main() -> ExitCode {
    telemetry::quiet_broken_pipe();
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let line = match args::parse(&args, std::env::var("ETCDCTL_API").ok().as_deref()) {
        Job::V2(line) => line,
        Job::V3(args) => return exec_v3(&args),
        Job::Help => {
            print!("{}", help());
            return ExitCode::SUCCESS;
        }
        Job::Version => {
            println!(
                "etcdctl version: {} (Flotilla)\nAPI version: 2",
                env!("CARGO_PKG_VERSION")
            );
            return ExitCode::SUCCESS;
        }
        Job::Completion(shell) => return completion(&shell),
        Job::UnknownVerb(verb) => return fail(Failed(3, format!("No help topic for '{verb}'"))),
        Job::BadOption(option) => {
            return fail(Failed(
                1,
                format!(
                    "Incorrect Usage: {option} is not an option, or lacks its value\nhint: etcdctl --help"
                ),
            ));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => return telemetry::report("etcdctl", &err, None),
    };
    match runtime.block_on(run(&line)) {
        Ok((text, code)) => {
            // Not `print!`: a value is bytes to its reader, and a reader that left is no error of ours.
            match io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::from(code),
                Err(err) => telemetry::report("etcdctl", &err, None),
            }
        }
        Err(failed) => fail(failed),
    }
}

fn fail(failed: Failed) -> ExitCode {
    eprintln!("{}", failed.1);
    if failed.1.contains("etcd cluster is unavailable") {
        eprintln!(
            "hint: is etcd running here (systemctl status etcd2), with enough members (etcdctl cluster-health)? --endpoints names other servers"
        );
    }
    ExitCode::from(failed.0)
}

/// Becomes Debian's etcdctl.
fn exec_v3(args: &[String]) -> ExitCode {
    let mut command = Command::new(V3);
    // It knows the files by other names.
    for (ours, theirs) in args::FILE_VARIABLES {
        if let Some(file) = std::env::var_os(ours).filter(|f| !f.is_empty()) {
            command.env_remove(ours);
            if std::env::var_os(theirs).is_none() {
                command.env(theirs, file);
            }
        }
    }
    let err = command.args(args).env("ETCDCTL_API", "3").exec();
    eprintln!("etcdctl: failed to run {V3}, which speaks v3: {err}");
    ExitCode::FAILURE
}

async fn run(line: &Line) -> Result<(String, u8), Failed> {
    let format = Format::parse(line.value(&["output", "o"]))
        .ok_or_else(|| bad("output is one of simple, extended, json"))?;
    if line.verb == "cluster-health" {
        let config = config(line)?;
        let failed = |err| {
            println!("cluster may be unhealthy: failed to list members");
            Failed(4, Failed::from(err).1)
        };
        let (text, well) = cluster::health(config).await.map_err(failed)?;
        return Ok((text, if well { 0 } else { 5 }));
    }
    if line.verb == "member" {
        return Ok((cluster::list(&connect(line)?).await?, 0));
    }
    if line.verb == "watch" || line.verb == "exec-watch" {
        return watching(line, format).await;
    }
    // Arguments are checked before the server is asked.
    let request = Request::read(line)?;
    let client = connect(line)?;
    let kv: &dyn Kv = &client;
    let deadline = timeout(line, "total-timeout", 5)?;
    let done = tokio::time::timeout(deadline, request.perform(kv));
    let reply = done.await.map_err(|_| {
        let text = "Error:  client: etcd cluster is unavailable or misconfigured; error #0: no answer in time";
        Failed(2, text.to_owned())
    })??;
    let left = leases(kv, &reply, format).await;
    let ttl = |kv: &KeyValue| kv.lease.and_then(|lease| left.get(&lease).copied());
    Ok((request.print(line, &reply, format, &ttl), 0))
}

/// What the leases of the printed keys have left; only the long formats show it.
async fn leases(kv: &dyn Kv, reply: &Reply, format: Format) -> BTreeMap<Lease, i64> {
    let mut left = BTreeMap::new();
    if format == Format::Simple {
        return left;
    }
    let mut wanted: Vec<Lease> = reply.node.kv.iter().filter_map(|kv| kv.lease).collect();
    reply.node.walk(false, &mut |node| {
        wanted.extend(node.kv.as_ref().and_then(|kv| kv.lease));
    });
    for lease in wanted {
        if let Ok(info) = kv.lease_info(lease, false).await {
            left.insert(lease, info.ttl.max(0));
        }
    }
    left
}

/// A verb with checked arguments.
enum Request {
    Write {
        key: String,
        value: String,
        ttl: Option<u64>,
        how: Write,
    },
    InOrder {
        dir: String,
        value: String,
        ttl: Option<u64>,
    },
    WriteDir {
        key: String,
        ttl: Option<u64>,
        how: WriteDir,
    },
    Get {
        key: String,
    },
    List {
        key: String,
    },
    Remove {
        key: String,
        how: Remove,
        previous: Previous,
    },
}

impl Request {
    fn read(line: &Line) -> Result<Self, Failed> {
        let key = || {
            line.args
                .first()
                .cloned()
                .ok_or_else(|| bad("key required"))
        };
        let ttl = match line.value(&["ttl"]) {
            Some(text) => Some(
                text.parse()
                    .map_err(|_| bad("ttl is a number of seconds"))?,
            ),
            None => None,
        };
        let value = || match line.args.get(1) {
            Some(value) => Ok(value.clone()),
            None => standard_input().ok_or_else(|| bad("value required")),
        };
        Ok(match line.verb.as_str() {
            "set" => {
                let how = Write::Set(previous(line, "swap-with-value", "swap-with-index")?);
                Self::Write {
                    key: key()?,
                    value: value()?,
                    ttl,
                    how,
                }
            }
            "mk" if line.has(&["in-order"]) => Self::InOrder {
                dir: key()?,
                value: value()?,
                ttl,
            },
            "mk" => Self::Write {
                key: key()?,
                value: value()?,
                ttl,
                how: Write::Create,
            },
            "update" => Self::Write {
                key: key()?,
                value: value()?,
                ttl,
                how: Write::Update,
            },
            "mkdir" => Self::WriteDir {
                key: key()?,
                ttl,
                how: WriteDir::Create,
            },
            "setdir" => Self::WriteDir {
                key: key()?,
                ttl,
                how: WriteDir::Set,
            },
            "updatedir" => Self::WriteDir {
                key: key()?,
                ttl,
                how: WriteDir::Update,
            },
            "get" => Self::Get { key: key()? },
            "ls" => Self::List {
                key: line.args.first().cloned().unwrap_or_default(),
            },
            // Nothing else gets here: the verbs are those of `args::VERBS`.
            _ => {
                let how = match (
                    line.verb == "rmdir",
                    line.has(&["recursive", "r"]),
                    line.has(&["dir"]),
                ) {
                    (false, true, _) => Remove::Recursive,
                    (true, ..) | (false, false, true) => Remove::EmptyDirectory,
                    (false, false, false) => Remove::File,
                };
                Self::Remove {
                    key: key()?,
                    how,
                    previous: previous(line, "with-value", "with-index")?,
                }
            }
        })
    }

    async fn perform(&self, kv: &dyn Kv) -> Result<Reply, Failure> {
        match self {
            Self::Write {
                key,
                value,
                ttl,
                how,
            } => v2::write(kv, key, value, *ttl, how).await,
            Self::InOrder { dir, value, ttl } => v2::create_in_order(kv, dir, value, *ttl).await,
            Self::WriteDir { key, ttl, how } => v2::write_dir(kv, key, *ttl, *how).await,
            Self::Get { key } => v2::get(kv, key).await,
            Self::List { key } => v2::list(kv, key).await,
            Self::Remove { key, how, previous } => v2::remove(kv, key, *how, previous).await,
        }
    }

    fn print(
        &self,
        line: &Line,
        reply: &Reply,
        format: Format,
        ttl: &dyn Fn(&KeyValue) -> Option<i64>,
    ) -> String {
        match self {
            Self::List { .. } if format == Format::Simple => {
                print::list(reply, line.has(&["recursive", "r"]), line.has(&["p"]))
            }
            Self::WriteDir { .. } if format == Format::Simple => String::new(),
            _ => print::key(reply, format, ttl),
        }
    }
}

fn previous(line: &Line, value: &str, index: &str) -> Result<Previous, Failed> {
    let index = match line.value(&[index]) {
        None | Some("0") => None,
        Some(text) => Some(text.parse().map_err(|_| bad("an index is a number"))?),
    };
    let value = line
        .value(&[value])
        .filter(|v| !v.is_empty())
        .map(str::to_owned);
    Ok(Previous { value, index })
}

/// The value from standard input, as v2 took it when it was not given; nothing from a terminal.
fn standard_input() -> Option<String> {
    use std::io::IsTerminal as _;
    if io::stdin().is_terminal() {
        return None;
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    (!text.is_empty()).then_some(text)
}

async fn watching(line: &Line, format: Format) -> Result<(String, u8), Failed> {
    let client = connect(line)?;
    let after = match line.value(&["after-index"]) {
        Some(text) => text.parse().map_err(|_| bad("an index is a number"))?,
        None => 0,
    };
    let Some((key, command)) = line.args.split_first() else {
        return Err(bad("key required"));
    };
    let what = Watching {
        key,
        recursive: line.has(&["recursive", "r"]),
        forever: line.has(&["forever", "f"]),
        after,
    };
    if line.verb == "watch" {
        watch::print(&client, &what, format).await?;
        return Ok((String::new(), 0));
    }
    let command = command.strip_prefix(&["--".to_owned()]).unwrap_or(command);
    if command.is_empty() {
        return Err(bad("command required"));
    }
    watch::exec(&client, &what, command).await?;
    Ok((String::new(), 0))
}

fn connect(line: &Line) -> Result<EtcdKv, Failed> {
    Ok(EtcdKv::new(config(line)?))
}

/// How the cluster is reached, from options and environment.
fn config(line: &Line) -> Result<EtcdConfig, Failed> {
    let env = |name: &str| std::env::var(name).ok();
    let endpoints = args::endpoints(line, env);
    let mut config = EtcdConfig::new(&endpoints)?;
    config.request_timeout = timeout(line, "timeout", 2)?.max(Duration::from_secs(1));
    config.credentials = args::credentials(line, env).map_err(|text| bad(&text))?;
    config.tls = Tls::for_endpoints(&config.endpoints, &args::files(line, env))
        .map_err(|err| bad(&telemetry::chain(&err)))?;
    Ok(config)
}

fn timeout(line: &Line, name: &str, seconds: u64) -> Result<Duration, Failed> {
    match line.value(&[name]) {
        Some(text) => {
            args::duration(text).ok_or_else(|| bad(&format!("{name} is a duration, as 5s")))
        }
        None => Ok(Duration::from_secs(seconds)),
    }
}

const OPTIONS: &[(&str, &str)] = &[
    (
        "--endpoints URL,…",
        "servers to ask (also -C, --endpoint, --peers; ETCDCTL_ENDPOINTS); else 127.0.0.1, ports 2379 and 4001",
    ),
    (
        "--ttl SECONDS",
        "set, mk, mkdir, …: the key goes by itself after this time",
    ),
    ("--swap-with-value V", "set: only if V is the value now"),
    (
        "--swap-with-index N",
        "set: only if N is the modified index now",
    ),
    ("--with-value V", "rm: only if V is the value now"),
    ("--with-index N", "rm: only if N is the modified index now"),
    ("-r, --recursive", "ls, rm, watch: everything below, too"),
    ("--dir", "rm: an empty directory"),
    (
        "-p, --sort",
        "ls: a slash behind directories; sorted (it always is)",
    ),
    (
        "--in-order",
        "mk: a key with a rising number in the directory",
    ),
    ("-f, --forever", "watch: go on after the first change"),
    ("--after-index N", "watch: from this index on"),
    ("-o simple|extended|json", "how answers are printed"),
    (
        "-u, --username USER:PASSWORD",
        "who asks (ETCDCTL_USERNAME)",
    ),
    (
        "--ca-file PATH",
        "who may have signed the servers' certificates (ETCDCTL_CA_FILE); else the system's authorities",
    ),
    (
        "--cert-file PATH, --key-file PATH",
        "our certificate and its key (ETCDCTL_CERT_FILE, ETCDCTL_KEY_FILE)",
    ),
    (
        "--timeout 2s",
        "for each server; --total-timeout 5s for all",
    ),
];

fn help() -> String {
    let mut text = "Usage: etcdctl [OPTIONS] VERB [ARGUMENTS …]\n\nThe verbs of etcd's v2 API on the v3 keyspace. A key is a path; a directory is everything below it.\n\nVerbs:\n".to_owned();
    for (verb, what) in VERBS {
        text += &format!("  {verb:<16} {what}\n");
    }
    text += "\nOptions (also behind the arguments):\n";
    for (option, what) in OPTIONS {
        text += &format!("  {option:<24} {what}\n");
    }
    text += "\nVerbs that only v3 has (put del txn lease endpoint snapshot …), and everything with ETCDCTL_API=3, are done by\n\
             etcd's own client.\n\nExamples:\n  etcdctl set /services/web/1 '{\"port\":80}' --ttl 60\n  etcdctl ls --recursive /services\n  \
             etcdctl cluster-health\n\nExit status: 0 done, 1 bad arguments, 2 no connection, 3 unknown verb, 4 the server says no, 5 not healthy.\n\
             Completion: etcdctl completion bash|zsh|fish\n";
    text
}

fn completion(shell: &str) -> ExitCode {
    let verbs: Vec<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
    let words = verbs.join(" ");
    match shell {
        "bash" => println!(
            "_etcdctl() {{ local cur=${{COMP_WORDS[COMP_CWORD]}}; if [[ $cur == /* ]]; then COMPREPLY=($(etcdctl ls -p \
             \"${{cur%/*}}/\" 2>/dev/null | grep -F -- \"$cur\")); else COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\")); fi; }}\n\
             complete -o nospace -F _etcdctl etcdctl"
        ),
        "zsh" => println!("#compdef etcdctl\n_arguments '1: :({words})'"),
        "fish" => {
            for (verb, what) in VERBS {
                println!("complete -c etcdctl -n __fish_use_subcommand -a {verb} -d '{what}'");
            }
        }
        other => {
            return fail(Failed(
                1,
                format!("Error:  no completion for {}", tree::clean(other)),
            ));
        }
    }
    ExitCode::SUCCESS
}
