//! Flags and environment of the original: `-flag value`, `--flag=value`, `FLANNELD_FLAG=value`. A flag beats its variable.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use etcd_kv::TlsFiles;

use crate::config::values::parse_bool;

/// What the daemon was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `-etcd-endpoints`
    pub endpoints: Vec<String>,
    /// `-etcd-prefix`, without a slash at its end
    pub prefix: String,
    /// `-etcd-username`
    pub username: String,
    /// `-etcd-password`
    pub password: String,
    /// `-etcd-cafile`, `-etcd-certfile`, `-etcd-keyfile`
    pub tls: TlsFiles,
    /// `-iface`: names or addresses, the first that exists counts
    pub interfaces: Vec<String>,
    /// `-public-ip`
    pub public_ip: Option<Ipv4Addr>,
    /// `-subnet-file`
    pub subnet_file: PathBuf,
    /// Where docker's options go; not a flag of the original
    pub docker_file: PathBuf,
    /// `-ip-masq`
    pub masquerade: bool,
    /// `-subnet-lease-renew-margin`, minutes before the end
    pub renew_margin: Duration,
    /// What was accepted and has no effect.
    pub ignored: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run.
    Run(Box<Options>),
    /// `-help`
    Help,
    /// `-version`
    Version,
}

/// Help text.
pub const HELP: &str = "\
flanneld: joins this machine to the cluster's overlay network

usage: flanneld [FLAGS]        each flag also as FLANNELD_… in the environment

  -etcd-endpoints URL,…        default http://127.0.0.1:4001,http://127.0.0.1:2379
  -etcd-prefix KEY             default /coreos.com/network
  -etcd-username, -etcd-password
  -etcd-cafile PATH            who may have signed the servers' certificates; default: the system's authorities
  -etcd-certfile PATH, -etcd-keyfile PATH   our certificate and its key
  -iface NAME|ADDRESS          link to the other machines (repeatable); default: that of the default route
  -public-ip ADDRESS           address the other machines use; default: the link's
  -subnet-file PATH            default /run/flannel/subnet.env
  -ip-masq                     masquerade what leaves the overlay
  -subnet-lease-renew-margin MINUTES   default 60
  -help, -version

The network is described by the key PREFIX/config:
  etcdctl set /coreos.com/network/config '{\"Network\":\"10.1.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"}}'

example:
  flanneld -iface eth0 -ip-masq
";

/// Flags that the original has and that have no meaning here.
const WITHOUT_EFFECT: [&str; 18] = [
    "healthz-ip",
    "healthz-port",
    "iface-regex",
    "listen",
    "remote",
    "remote-keyfile",
    "remote-certfile",
    "remote-cafile",
    "networks",
    "v",
    "vmodule",
    "log_backtrace_at",
    "log_dir",
    "stderrthreshold",
    "alsologtostderr",
    "logtostderr",
    "iptables-resync",
    "iptables-forward-rules",
];
const BOOLEAN: [&str; 5] = [
    "ip-masq",
    "alsologtostderr",
    "logtostderr",
    "iptables-forward-rules",
    "kube-subnet-mgr",
];

/// Reads environment and command line.
pub fn parse(
    arguments: &[String],
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Command, String> {
    let mut options = Options {
        endpoints: vec![
            "http://127.0.0.1:4001".into(),
            "http://127.0.0.1:2379".into(),
        ],
        prefix: "/coreos.com/network".into(),
        username: String::new(),
        password: String::new(),
        tls: TlsFiles::default(),
        interfaces: Vec::new(),
        public_ip: None,
        subnet_file: "/run/flannel/subnet.env".into(),
        docker_file: "/run/flannel_docker_opts.env".into(),
        masquerade: false,
        renew_margin: Duration::from_secs(3600),
        ignored: Vec::new(),
    };
    let mut flags = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let flag = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'));
        let Some(flag) = flag.filter(|f| !f.is_empty()) else {
            return Err(format!("{argument:?} is not a flag"));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let value = match (name, value) {
            ("help" | "h", _) => return Ok(Command::Help),
            ("version", _) => return Ok(Command::Version),
            (_, Some(value)) => value,
            (name, None) if BOOLEAN.contains(&name) => "true".to_owned(),
            (name, None) => rest
                .next()
                .cloned()
                .ok_or_else(|| format!("-{name} needs a value"))?,
        };
        flags.push((name.to_owned(), value));
    }
    let mut variables: Vec<(String, String)> = environment
        .filter_map(|(name, value)| {
            let flag = name
                .strip_prefix("FLANNELD_")?
                .to_ascii_lowercase()
                .replace('_', "-");
            Some((flag, value))
        })
        .filter(|(name, value)| !value.is_empty() && !flags.iter().any(|(flag, _)| flag == name))
        .collect();
    variables.sort();
    for (name, value) in &variables {
        let variable = || format!("FLANNELD_{}", name.to_ascii_uppercase().replace('-', "_"));
        match apply(&mut options, name, value) {
            // A variable of somebody else is no reason not to start.
            Err(Fault::Unknown) => options.ignored.push(variable()),
            other => other.map_err(|fault| fault.text(&variable(), value))?,
        }
    }
    for (name, value) in &flags {
        apply(&mut options, name, value).map_err(|fault| fault.text(&format!("-{name}"), value))?;
    }
    Ok(Command::Run(Box::new(options)))
}

enum Fault {
    Unknown,
    Bad(&'static str),
}

impl Fault {
    fn text(self, name: &str, value: &str) -> String {
        match self {
            Self::Unknown => format!("{name} is not a flag"),
            Self::Bad(want) => format!("{name} {value:?}: expected {want}"),
        }
    }
}

fn apply(options: &mut Options, name: &str, value: &str) -> Result<(), Fault> {
    let list = || {
        value
            .split(',')
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let file = |value: &str| (!value.is_empty()).then(|| PathBuf::from(value));
    match name {
        // The singular is from before 2015.
        "etcd-endpoints" | "etcd-endpoint" => options.endpoints = list(),
        "etcd-prefix" => options.prefix = format!("/{}", value.trim_matches('/')),
        "etcd-username" => value.clone_into(&mut options.username),
        "etcd-password" => value.clone_into(&mut options.password),
        "etcd-cafile" => options.tls.ca = file(value),
        "etcd-certfile" => options.tls.cert = file(value),
        "etcd-keyfile" => options.tls.key = file(value),
        "iface" => options.interfaces.extend(list()),
        "interface" => options.interfaces.extend(list()),
        "public-ip" => {
            options.public_ip = Some(value.parse().map_err(|_| Fault::Bad("an IPv4 address"))?);
        }
        "subnet-file" => options.subnet_file = value.into(),
        "docker-file" => options.docker_file = value.into(),
        "ip-masq" => options.masquerade = parse_bool(value).ok_or(Fault::Bad("true or false"))?,
        "subnet-lease-renew-margin" => {
            let minutes = value.parse::<u64>().ok().filter(|m| (1..1440).contains(m));
            let minutes = minutes.ok_or(Fault::Bad("minutes from 1 to 1439"))?;
            options.renew_margin = Duration::from_secs(minutes * 60);
        }
        "kube-subnet-mgr" if parse_bool(value) == Some(false) => {}
        "kube-subnet-mgr" => return Err(Fault::Bad("false, because leases are in etcd")),
        name if WITHOUT_EFFECT.contains(&name) => options.ignored.push(format!("-{name}")),
        _ => return Err(Fault::Unknown),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, environment: &[(&str, &str)]) -> Result<Command, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(
            &words,
            environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        )
    }

    fn options(line: &str, environment: &[(&str, &str)]) -> Options {
        match parsed(line, environment) {
            Ok(Command::Run(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_with_one_or_two_dashes_and_variables() {
        let o = options("-iface=10.0.2.11 --ip-masq -etcd-prefix /net/", &[]);
        assert_eq!(
            (o.interfaces, o.masquerade, o.prefix.as_str()),
            (vec!["10.0.2.11".to_owned()], true, "/net")
        );
        let o = options(
            "--ip-masq=false",
            &[
                ("FLANNELD_IFACE", "10.0.2.12"),
                ("FLANNELD_IP_MASQ", "true"),
                ("FLANNELD_ETCD_ENDPOINTS", "http://a:2379,http://b:2379"),
                ("FLANNELD_SOMETHING", "x"),
                ("HOME", "/root"),
            ],
        );
        assert_eq!(
            (o.interfaces, o.masquerade),
            (vec!["10.0.2.12".to_owned()], false)
        );
        assert_eq!(o.endpoints, ["http://a:2379", "http://b:2379"]);
        assert_eq!(o.ignored, ["FLANNELD_SOMETHING"]);
        let o = options("-v 3 --logtostderr -iface eth0 -iface eth1", &[]);
        assert_eq!((o.ignored.len(), o.interfaces.len()), (2, 2));
        assert_eq!(parsed("--help", &[]), Ok(Command::Help));
        assert_eq!(parsed("-version", &[]), Ok(Command::Version));
    }

    #[test]
    fn files_for_tls_come_from_flags_or_variables() {
        let variables = [
            ("FLANNELD_ETCD_CAFILE", "/e/ca"),
            ("FLANNELD_ETCD_CERTFILE", "/e/cert"),
            ("FLANNELD_ETCD_KEYFILE", "/e/key"),
        ];
        let path = |text: &str| Some(PathBuf::from(text));
        let expect = TlsFiles {
            ca: path("/o/ca"),
            cert: path("/e/cert"),
            key: path("/e/key"),
        };
        assert_eq!(options("-etcd-cafile /o/ca", &variables).tls, expect);
        assert!(!options("-etcd-cafile=", &[]).tls.is_set());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, want) in [
            ("start", "\"start\" is not a flag"),
            ("-colour red", "-colour is not a flag"),
            ("-iface", "-iface needs a value"),
            (
                "-public-ip here",
                "-public-ip \"here\": expected an IPv4 address",
            ),
            (
                "-ip-masq=perhaps",
                "-ip-masq \"perhaps\": expected true or false",
            ),
        ] {
            assert_eq!(parsed(line, &[]), Err(want.to_owned()));
        }
    }
}
