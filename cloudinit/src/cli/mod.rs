//! The two programs: `flotilla-cloudinit` (also called `coreos-cloudinit`) and `update-ssh-keys`.
//!
//! Reads arguments, calls the library, prints, and turns outcomes into exit codes. Decides nothing else.

mod flags;
mod ssh_keys;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use flags::Given;

use crate::apply::{Root, SystemBus};
use crate::datasource::cloud::{Kind, LINK_LOCAL};
use crate::datasource::http::Client;
use crate::datasource::{Fetched, Source, first_available, kernel_words};
use crate::metadata::Addresses;
use crate::plan::{Change, text};
use crate::run::{ApplyOptions, Companion, Session, apply_all, remember};
use crate::stages::{self, Stage, show_plan};
use crate::{input, net, netconf};

const PROGRAM: &str = "flotilla-cloudinit";
const WORKSPACE: &str = "/var/lib/coreos-cloudinit";
const KEY_SET: &str = "coreos-cloudinit";

/// Runs the program that `args[0]` names.
pub fn main(args: &[String]) -> ExitCode {
    let name = args
        .first()
        .map(|a| Path::new(a).file_name().unwrap_or_default().to_owned());
    let rest = args.get(1..).unwrap_or_default();
    if name.is_some_and(|n| n == "update-ssh-keys") {
        return ssh_keys::main(rest);
    }
    telemetry::init(PROGRAM, telemetry::Sink::detect(), 0);
    let (given, left) = match flags::parse(rest) {
        Ok(parsed) => parsed,
        Err(message) => return usage(&message),
    };
    if given.is_set("help") {
        return print(&flags::help());
    }
    if given.is_set("version") {
        return print(&version(PROGRAM));
    }
    match left.as_slice() {
        [] => {}
        [word, shell] if word == "completion" => {
            return match flags::completion(shell) {
                Some(text) => print(&text),
                None => usage("completion is there for bash, zsh and fish"),
            };
        }
        [word, ..] => return usage(&format!("unexpected argument \"{word}\"")),
    }
    match given.text("stage").map(str::parse::<Stage>) {
        Some(Ok(stage)) => run_stage(stage, &given),
        Some(Err(message)) => usage(&message),
        None => plain(&given),
    }
}

fn version(program: &str) -> String {
    let image = std::fs::read_to_string("/usr/lib/os-release").unwrap_or_default();
    let image = image
        .lines()
        .find_map(|l| l.strip_prefix("IMAGE_VERSION="))
        .map(|v| format!(" ({})", v.trim_matches('"')))
        .unwrap_or_default();
    format!("{program} {}{image}\n", env!("CARGO_PKG_VERSION"))
}

/// Prints a result; a reader that went away is no error of ours.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(telemetry::EXIT_BROKEN_PIPE)
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Wrong usage goes to standard output, as the original's did.
fn usage(message: &str) -> ExitCode {
    print(&format!(
        "{PROGRAM}: {message}\nhint: {PROGRAM} --help lists the flags\n"
    ));
    ExitCode::from(2)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{PROGRAM}: {message}");
    ExitCode::FAILURE
}

fn seconds(given: &Given, default: u64) -> Result<Duration, String> {
    match given.text("timeout") {
        None => Ok(Duration::from_secs(default)),
        Some(text) => text
            .trim_end_matches('s')
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| format!("\"{text}\" is not a number of seconds")),
    }
}

fn open_root(given: &Given) -> Result<Root, ExitCode> {
    let path = given.text("root").unwrap_or("/");
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    Root::open(&absolute).map_err(|e| fail(&telemetry::chain(&e)))
}

fn run_stage(stage: Stage, given: &Given) -> ExitCode {
    let timeout = match seconds(given, 60) {
        Ok(timeout) => timeout,
        Err(message) => return usage(&message),
    };
    let root = match open_root(given) {
        Ok(root) => root,
        Err(code) => return code,
    };
    let options = stages::Options {
        words: kernel_words(),
        timeout,
        workspace: given.text("workspace").unwrap_or(WORKSPACE).into(),
        key_set: given.text("ssh-key-name").unwrap_or(KEY_SET).to_owned(),
        dry_run: given.is_set("dry-run"),
        manager: root.is_live(),
    };
    let report = match stages::run(stage, &root, &mut SystemBus::default(), &options) {
        Ok(report) => report,
        Err(error) => return fail(&telemetry::chain(&error)),
    };
    if options.dry_run {
        let code = print(&show_plan(&report.planned, given.is_set("json")));
        if code != ExitCode::SUCCESS {
            return code;
        }
    }
    finish(
        &report.summary,
        &report.errors,
        given.is_set("ignore-failure"),
    )
}

fn finish(summary: &crate::apply::Summary, errors: &[String], ignore: bool) -> ExitCode {
    tracing::info!(
        changed = summary.changed,
        unchanged = summary.unchanged,
        errors = errors.len(),
        "finished"
    );
    if errors.is_empty() || ignore {
        return ExitCode::SUCCESS;
    }
    if errors.iter().any(|error| error.contains("line ")) {
        eprintln!(
            "hint: {PROGRAM} -validate -from-file FILE checks user data before a machine gets it"
        );
    }
    ExitCode::FAILURE
}

/// Sources named by flags.
fn sources(given: &Given) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for (flag, make) in [
        (
            "from-file",
            (|v| Source::File(v.into())) as fn(&str) -> Source,
        ),
        ("from-configdrive", |v| Source::ConfigDrive(v.into())),
        ("from-nocloud", |v| Source::NoCloud(v.into())),
        ("from-url", |v| Source::Url(v.to_owned())),
    ] {
        sources.extend(given.text(flag).filter(|v| !v.is_empty()).map(make));
    }
    for (flag, kind) in [
        ("from-ec2-metadata", Kind::Ec2),
        ("from-openstack-metadata", Kind::OpenStack),
        ("from-digitalocean-metadata", Kind::DigitalOcean),
    ] {
        if let Some(base) = given.text(flag).filter(|v| !v.is_empty()) {
            let slash = if base.ends_with('/') { "" } else { "/" };
            sources.push(Source::Cloud(kind, format!("{base}{slash}")));
        }
    }
    let link_local = |kind| Source::Cloud(kind, LINK_LOCAL.to_owned());
    let drive = || Source::ConfigDrive("/media/configdrive".into());
    if given.is_set("from-metadata-service") {
        sources.push(link_local(Kind::Ec2));
    }
    if given.is_set("from-proc-cmdline") {
        sources.push(Source::ProcCmdline);
    }
    match given.text("oem") {
        None | Some("") => {}
        Some("rackspace-onmetal") => sources.push(drive()),
        Some("digitalocean") => sources.push(link_local(Kind::DigitalOcean)),
        // In a fixed order: which of two answers first must not decide what a machine becomes.
        Some("ec2-compat") => sources.extend([drive(), link_local(Kind::Ec2)]),
        Some(other) => return Err(format!("invalid OEM name \"{other}\"")),
    }
    if sources.is_empty() {
        return Err(
            "provide at least one of -from-file, -from-configdrive, -from-nocloud, \
                    -from-url, -from-proc-cmdline or -from-ec2-metadata"
                .to_owned(),
        );
    }
    Ok(sources)
}

/// The run of the original's command line: all in one.
fn plain(given: &Given) -> ExitCode {
    let onmetal = given.text("oem") == Some("rackspace-onmetal");
    let convert = given
        .text("convert-netconf")
        .or(onmetal.then_some("debian"));
    if let Some(format) = convert.filter(|f| !["", "debian"].contains(f)) {
        return usage(&format!(
            "invalid option to -convert-netconf: \"{format}\" (use debian)"
        ));
    }
    let sources = match sources(given) {
        Ok(sources) => sources,
        Err(message) => return usage(&message),
    };
    // Somebody who only wants to look has mistyped a name, and no drive is on its way.
    let looks = given.is_set("validate") || given.is_set("dry-run");
    let limit = match seconds(given, if looks { 0 } else { 300 }) {
        Ok(limit) => limit,
        Err(message) => return usage(&message),
    };
    let source = match first_available(&sources, limit) {
        Ok(source) => source,
        Err(why) => return fail(&format!("no source of user data is available: {why}")),
    };
    tracing::info!("reading {source}");
    let fetched = match source.fetch() {
        Ok(fetched) => fetched,
        Err(error) => return fail(&telemetry::chain(&error)),
    };
    if given.is_set("validate") {
        return validate(&fetched.user_data, given);
    }
    let root = match open_root(given) {
        Ok(root) => root,
        Err(code) => return code,
    };
    apply(given, &root, &fetched, convert == Some("debian"))
}

fn validate(user_data: &[u8], given: &Given) -> ExitCode {
    let report = input::validate(user_data);
    let json = given.is_set("json");
    let text = if json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        report.findings.iter().map(|f| format!("{f}\n")).collect()
    };
    let code = print(&text);
    if code != ExitCode::SUCCESS {
        return code;
    }
    ExitCode::from(report.exit_code(json, given.is_set("strict")))
}

fn apply(given: &Given, root: &Root, fetched: &Fetched, convert: bool) -> ExitCode {
    let session = Session {
        root,
        addresses: plain_addresses(given, &fetched.meta.addresses),
        instance: fetched.meta.instance_id.clone(),
        client: Client::new(),
        offline: false,
    };
    let mut errors = Vec::new();
    let network_files = match &fetched.meta.debian_network {
        Some(text) if convert => netconf::debian::convert(text).unwrap_or_else(|error| {
            remember(
                &mut errors,
                format!("network settings of the drive: {error}"),
            );
            Vec::new()
        }),
        _ => Vec::new(),
    };
    let key_set = given.text("ssh-key-name").unwrap_or(KEY_SET).to_owned();
    let mut changes: Vec<Change> = Vec::new();
    if !fetched.vendor_data.is_empty() {
        let key_set = format!("{key_set}-vendor");
        let with = Companion {
            name: "vendor-data".to_owned(),
            key_set,
            ..Companion::default()
        };
        let prepared = session.prepare(&fetched.vendor_data, &with);
        errors.extend(prepared.errors);
        changes.extend(prepared.changes);
    }
    let with = Companion {
        name: "user-data".to_owned(),
        meta: fetched.meta.clone(),
        key_set,
        network_files,
    };
    let prepared = session.prepare(&fetched.user_data, &with);
    errors.extend(prepared.errors);
    changes.extend(prepared.changes);

    let ignore = given.is_set("ignore-failure");
    if given.is_set("dry-run") {
        let code = print(&show_plan(&changes, given.is_set("json")));
        if code != ExitCode::SUCCESS {
            return code;
        }
        return finish(&crate::apply::Summary::default(), &errors, ignore);
    }
    let options = ApplyOptions {
        workspace: given.text("workspace").unwrap_or(WORKSPACE).into(),
        instance: fetched.meta.instance_id.clone(),
    };
    let (summary, error) = apply_all(root, &mut SystemBus::default(), &changes, options);
    errors.extend(summary.problems.iter().cloned());
    let code = finish(&summary, &errors, ignore);
    match error {
        // Whatever else is ignored, a failed change is a failure.
        Some(error) => fail(&telemetry::chain(&error)),
        None => code,
    }
}

/// The source's addresses, else those of the environment; found ones only if asked for.
fn plain_addresses(given: &Given, meta: &Addresses) -> Addresses {
    let mut addresses = meta.clone();
    let environment: String = std::env::vars()
        .filter(|(key, _)| key.starts_with("COREOS_"))
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    addresses.fill_from(&text::addresses_of_environment(&environment));
    if given.is_set("detect-addresses") {
        match net::detect(&[], Duration::ZERO) {
            Ok((found, why)) => {
                tracing::info!("addresses of this machine: {}", why.join(", "));
                addresses.fill_from(&found);
            }
            Err(error) => tracing::warn!("cannot look at the network: {error}"),
        }
    }
    addresses
}
