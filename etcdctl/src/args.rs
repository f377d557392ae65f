//! The command line of v2's etcdctl. No I/O.
//!
//! Options may stand before or behind the verb and its arguments, with one dash or two, the value attached by `=` or not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use etcd_kv::{Credentials, TlsFiles};

/// Options with a value.
const VALUES: &[&str] = &[
    "endpoints",
    "endpoint",
    "peers",
    "C",
    "output",
    "o",
    "timeout",
    "total-timeout",
    "ttl",
    "swap-with-value",
    "swap-with-index",
    "with-value",
    "with-index",
    "after-index",
    "username",
    "u",
    "cert-file",
    "key-file",
    "ca-file",
    "discovery-srv",
    "D",
];
/// The names of the option that names the servers, and of that which says who asks.
const ENDPOINTS: &[&str] = &["endpoints", "endpoint", "peers", "C"];
const USER: &[&str] = &["username", "u"];
/// The variables that name the files for TLS, authority, certificate and key, and what v3's own client
/// calls them.
pub const FILE_VARIABLES: [(&str, &str); 3] = [
    ("ETCDCTL_CA_FILE", "ETCDCTL_CACERT"),
    ("ETCDCTL_CERT_FILE", "ETCDCTL_CERT"),
    ("ETCDCTL_KEY_FILE", "ETCDCTL_KEY"),
];
/// Switches.
const SWITCHES: &[&str] = &[
    "recursive",
    "r",
    "sort",
    "p",
    "quorum",
    "q",
    "dir",
    "forever",
    "f",
    "no-sync",
    "debug",
    "in-order",
    "insecure-discovery",
    "help",
    "h",
    "version",
    "v",
];
/// Verbs that only v3 has.
const V3_ONLY: &[&str] = &[
    "put",
    "del",
    "txn",
    "lease",
    "endpoint",
    "snapshot",
    "alarm",
    "defrag",
    "compaction",
    "lock",
    "elect",
    "check",
    "auth",
    "user",
    "role",
    "make-mirror",
    "move-leader",
    "migrate",
    "hashkv",
];
/// Verbs of v2 that are done here.
pub const VERBS: &[(&str, &str)] = &[
    ("cluster-health", "say how each member is"),
    ("mk", "make a key that must not be there yet"),
    ("mkdir", "make a directory"),
    ("rm", "remove a key, with -r a directory and all in it"),
    ("rmdir", "remove an empty directory, or a key"),
    ("get", "print a value"),
    ("ls", "list a directory"),
    ("set", "write a value, whatever was there"),
    ("setdir", "make a directory, or a directory of a key"),
    ("update", "write a key that must be there"),
    ("updatedir", "give a directory another TTL"),
    ("watch", "wait for a change and print it"),
    ("exec-watch", "run a program at each change"),
    (
        "member",
        "list the members (add, remove and update are etcd v3's)",
    ),
];

/// Who has to do what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A verb of v2.
    V2(Line),
    /// Debian's etcdctl, with these arguments.
    V3(Vec<String>),
    /// `--help`, or no verb.
    Help,
    /// `--version`.
    Version,
    /// `completion SHELL`.
    Completion(String),
    /// No such verb.
    UnknownVerb(String),
    /// An option that the program does not know or that lacks its value.
    BadOption(String),
}

/// A verb of v2 with its options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The verb.
    pub verb: String,
    /// What stands behind it.
    pub args: Vec<String>,
    options: BTreeMap<&'static str, String>,
}

impl Line {
    /// The value of an option, by any of its names.
    pub fn value(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|n| self.options.get::<str>(n))
            .map(String::as_str)
    }

    /// Whether a switch is on.
    pub fn has(&self, names: &[&str]) -> bool {
        self.value(names).is_some_and(|v| v != "false")
    }
}

/// Reads the arguments; `api` is `ETCDCTL_API`.
pub fn parse(args: &[String], api: Option<&str>) -> Job {
    if api == Some("3") {
        return Job::V3(args.to_vec());
    }
    let mut line = Line::default();
    let mut rest = args.iter();
    let mut literal = false;
    while let Some(arg) = rest.next() {
        let number = arg.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        // What exec-watch runs has options of its own.
        let command = line.verb == "exec-watch" && !line.args.is_empty();
        if literal || command || !arg.starts_with('-') || arg == "-" || number {
            if line.verb.is_empty() {
                if V3_ONLY.contains(&arg.as_str()) {
                    return Job::V3(args.to_vec());
                }
                line.verb.clone_from(arg);
            } else {
                line.args.push(arg.clone());
            }
            continue;
        }
        if arg == "--" {
            literal = true;
            continue;
        }
        let name = arg.trim_start_matches('-');
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let known = |list: &[&'static str]| list.iter().find(|n| **n == name).copied();
        if let Some(name) = known(SWITCHES) {
            line.options
                .insert(name, attached.unwrap_or_else(|| "true".to_owned()));
        } else if let Some(name) = known(VALUES) {
            match attached.or_else(|| rest.next().cloned()) {
                Some(value) => line.options.insert(name, value),
                None => return Job::BadOption(arg.clone()),
            };
        } else {
            return Job::BadOption(arg.clone());
        }
    }
    if line.has(&["version", "v"]) {
        return Job::Version;
    }
    if line.has(&["help", "h"]) || line.verb.is_empty() || line.verb == "help" {
        return Job::Help;
    }
    match line.verb.as_str() {
        "completion" => Job::Completion(
            line.args
                .first()
                .cloned()
                .unwrap_or_else(|| "bash".to_owned()),
        ),
        "member" if line.args.first().is_some_and(|a| a != "list") => Job::V3(member_for_v3(&line)),
        verb if VERBS.iter().any(|(name, _)| *name == verb) => Job::V2(line),
        verb => Job::UnknownVerb(verb.to_owned()),
    }
}

/// v2's `member add NAME URL` is v3's `member add NAME --peer-urls=URL`; so is update.
fn member_for_v3(line: &Line) -> Vec<String> {
    let mut args = Vec::new();
    for (names, flag) in [
        (ENDPOINTS, "endpoints"),
        (&["ca-file"][..], "cacert"),
        (&["cert-file"], "cert"),
        (&["key-file"], "key"),
        (USER, "user"),
    ] {
        if let Some(value) = line.value(names) {
            args.push(format!("--{flag}={value}"));
        }
    }
    args.push("member".to_owned());
    match &line.args[..] {
        [verb, name, urls] if verb == "add" || verb == "update" => {
            args.extend([verb.clone(), name.clone(), format!("--peer-urls={urls}")]);
        }
        other => args.extend_from_slice(other),
    }
    args
}

/// The servers: from options, else from the environment, else the two ports on this machine.
pub fn endpoints(line: &Line, env: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let given = line
        .value(ENDPOINTS)
        .map(str::to_owned)
        .or_else(|| {
            ["ETCDCTL_ENDPOINTS", "ETCDCTL_ENDPOINT", "ETCDCTL_PEERS"]
                .iter()
                .find_map(|n| env(n))
        })
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| "http://127.0.0.1:2379,http://127.0.0.1:4001".to_owned());
    given
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match part.contains("://") {
            true => part.trim_end_matches('/').to_owned(),
            false => format!("http://{part}"),
        })
        .collect()
}

/// User and password, from the option, else from the environment.
pub fn credentials(
    line: &Line,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<Credentials>, String> {
    let given = line.value(USER).map(str::to_owned);
    let given = given.or_else(|| env("ETCDCTL_USERNAME").filter(|text| !text.is_empty()));
    let Some(given) = given else { return Ok(None) };
    let (user, password) = given
        .split_once(':')
        .ok_or("username is given as USER:PASSWORD")?;
    Ok(Some(Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    }))
}

/// The files for TLS, each from its option, else from the environment.
pub fn files(line: &Line, env: impl Fn(&str) -> Option<String>) -> TlsFiles {
    let file = |option: &str, (variable, _): (&str, &str)| {
        let given = line.value(&[option]).map(str::to_owned);
        let given = given.or_else(|| env(variable)).filter(|f| !f.is_empty());
        given.map(PathBuf::from)
    };
    let [ca, cert, key] = FILE_VARIABLES;
    TlsFiles {
        ca: file("ca-file", ca),
        cert: file("cert-file", cert),
        key: file("key-file", key),
    }
}

/// A duration as Go writes it: `2s`, `1m30s`, `500ms`.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (total > 0.0 && total < 1e9).then(|| std::time::Duration::from_secs_f64(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(text: &str) -> Job {
        parse(
            &text
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
            None,
        )
    }

    #[track_caller]
    fn check(text: &str, verb: &str, args: &[&str], options: &[(&str, &str)]) {
        let Job::V2(line) = job(text) else {
            panic!("{text}: {:?}", job(text))
        };
        assert_eq!(
            (
                line.verb.as_str(),
                line.args.iter().map(String::as_str).collect::<Vec<_>>()
            ),
            (verb, args.to_vec())
        );
        for (name, value) in options {
            assert_eq!(line.value(&[name]), Some(*value), "{text}");
        }
    }

    #[test]
    fn options_stand_anywhere() {
        check("set /k v --ttl 60", "set", &["/k", "v"], &[("ttl", "60")]);
        check("set --ttl=60 /k v", "set", &["/k", "v"], &[("ttl", "60")]);
        check(
            "-C http://a:1 ls -r -p /",
            "ls",
            &["/"],
            &[("C", "http://a:1"), ("r", "true")],
        );
        check("set x -5", "set", &["x", "-5"], &[]);
        check("set -- x --y", "set", &["x", "--y"], &[]);
        check(
            "exec-watch -r /k -- sh -c env",
            "exec-watch",
            &["/k", "--", "sh", "-c", "env"],
            &[("r", "true")],
        );
    }

    #[test]
    fn other_work_goes_elsewhere() {
        let all = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(job("put a b"), Job::V3(all("put a b")));
        assert_eq!(parse(&all("get a"), Some("3")), Job::V3(all("get a")));
        assert_eq!(job("member remove 1"), Job::V3(all("member remove 1")));
        assert_eq!(
            job("--endpoints http://a:1 member add n http://n:2380"),
            Job::V3(all(
                "--endpoints=http://a:1 member add n --peer-urls=http://n:2380"
            ))
        );
        assert_eq!(
            job("--ca-file /ca -u root:x member add n https://n:2380"),
            Job::V3(all(
                "--cacert=/ca --user=root:x member add n --peer-urls=https://n:2380"
            ))
        );
        assert_eq!(job("nosuch x"), Job::UnknownVerb("nosuch".into()));
        assert_eq!(job("get --nosuch"), Job::BadOption("--nosuch".into()));
        assert_eq!(job("get --ttl"), Job::BadOption("--ttl".into()));
        assert_eq!(job(""), Job::Help);
        assert_eq!(job("-v"), Job::Version);
    }

    #[test]
    fn servers_come_from_options_then_environment() {
        let line = |text: &str| match job(text) {
            Job::V2(line) => line,
            other => panic!("{other:?}"),
        };
        let env = |name: &str| (name == "ETCDCTL_PEERS").then(|| "http://e:1/".to_owned());
        assert_eq!(
            endpoints(&line("--endpoint a:1,http://b:2 ls"), env),
            ["http://a:1", "http://b:2"]
        );
        assert_eq!(endpoints(&line("ls"), env), ["http://e:1"]);
        assert_eq!(endpoints(&line("ls"), |_| None).len(), 2);
    }

    #[test]
    fn who_asks_and_whom_to_trust_come_from_options_then_environment() {
        let line = |text: &str| match job(text) {
            Job::V2(line) => line,
            other => panic!("{other:?}"),
        };
        let env = |name: &str| {
            let value = match name {
                "ETCDCTL_CA_FILE" => "/e/ca",
                "ETCDCTL_CERT_FILE" => "/e/cert",
                "ETCDCTL_KEY_FILE" => "",
                "ETCDCTL_USERNAME" => "e:pw",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let path = |text: &str| Some(PathBuf::from(text));
        let found = files(&line("--cert-file /o/cert ls"), env);
        let expect = TlsFiles {
            ca: path("/e/ca"),
            cert: path("/o/cert"),
            key: None,
        };
        assert_eq!(found, expect);
        assert!(!files(&line("ls"), |_| None).is_set());
        let user = |text, env: &dyn Fn(&str) -> Option<String>| {
            credentials(&line(text), env).map(|c| c.map(|c| (c.user, c.password)))
        };
        let pair = |user: &str, word: &str| Ok(Some((user.to_owned(), word.to_owned())));
        assert_eq!(user("-u root:a:b ls", &env), pair("root", "a:b"));
        assert_eq!(user("ls", &env), pair("e", "pw"));
        assert_eq!(user("ls", &|_| None), Ok(None));
        assert!(user("--username root ls", &env).is_err());
    }

    #[test]
    fn durations_are_those_of_go() {
        let seconds = |text| duration(text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("1m30s"), Some(90.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        for bad in ["", "5", "s", "5x", "0s"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_arguments_make_it_panic(args in proptest::collection::vec("\\PC{0,10}", 0..5)) {
            let _ = parse(&args, None);
            for arg in &args {
                let _ = duration(arg);
            }
        }
    }
}
