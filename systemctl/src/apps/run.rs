//! systemd-run: a command as a transient service, or in a scope of its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use clap::Parser;
use init_control::{JobMode, Reply, Request, Setting, TransientUnit};
use unit_file::UnitName;

use super::fail;
use crate::backend::{self, Failure, text};
use crate::cli::{Outcome, finish, parse};
use crate::names;

/// Run a command as a transient service, or in a scope
#[derive(Debug, Parser)]
#[command(
    name = "systemd-run",
    version,
    trailing_var_arg = true,
    after_help = "Example:\n  systemd-run --unit=job -p MemoryMax=100M /opt/bin/job"
)]
struct Options {
    /// The command and its arguments
    #[arg(required = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Run it here, in a scope
    #[arg(long)]
    scope: bool,
    /// Name of the unit
    #[arg(short = 'u', long)]
    unit: Option<String>,
    /// Settings, KEY=VALUE
    #[arg(short = 'p', long)]
    property: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// Slice
    #[arg(long)]
    slice: Option<String>,
    /// Keep the service after its process has ended
    #[arg(short = 'r', long)]
    remain_after_exit: bool,
    /// Environment of the service, NAME=VALUE
    #[arg(short = 'E', long)]
    setenv: Vec<String>,
    /// Type of the service
    #[arg(long)]
    service_type: Option<String>,
    /// User of the service
    #[arg(long)]
    uid: Option<String>,
    /// Group of the service
    #[arg(long)]
    gid: Option<String>,
    /// Nice level
    #[arg(long)]
    nice: Option<String>,
    /// Working directory of the service
    #[arg(long)]
    working_directory: Option<String>,
    /// Wait until the service has ended, and end as it did
    #[arg(long)]
    wait: bool,
    /// Do not wait until the service is up
    #[arg(long)]
    no_block: bool,
    /// Forget the unit also when it failed
    #[arg(short = 'G', long)]
    collect: bool,
    /// Say nothing
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The system manager (there is no other)
    #[arg(long, hide = true)]
    system: bool,
    /// Accepted and without effect
    #[arg(long, hide = true)]
    no_ask_password: bool,
}

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let options: Options = match parse(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    match run(&options) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(code)) => ExitCode::from(code),
        Err(failure) => finish(Err(failure)),
    }
}

fn run(options: &Options) -> Result<Option<u8>, Failure> {
    let unit = unit(options)?;
    let mut backend = backend::connect()?;
    if !options.no_block {
        backend.watch_jobs()?;
    }
    let name = unit.name.clone();
    let failed = |failure: Failure| {
        Failure::Unreachable(format!("Failed to start transient unit {name}: {failure}"))
    };
    let request = Request::StartTransient {
        unit,
        mode: JobMode::Fail,
        aux: vec![],
    };
    let Reply::Job { id, .. } = backend.ask(request).map_err(failed)? else {
        return Err(Failure::unexpected());
    };
    if !options.no_block {
        let result = backend.wait_job(id, &name)?;
        if result != "done" {
            return Err(Failure::Unreachable(format!(
                "Job for {name} failed: {result}."
            )));
        }
    }
    if !options.quiet {
        let what = if options.scope { "scope " } else { "" };
        eprintln!("Running {what}as unit: {name}");
    }
    if options.scope {
        // The bus is closed on exec; the scope holds this process already.
        let error = Command::new(&options.command[0])
            .args(&options.command[1..])
            .exec();
        fail(
            "systemd-run",
            &format!("failed to execute {}", options.command[0]),
            &error,
        );
        return Ok(Some(203));
    }
    if options.wait {
        wait(backend.as_mut(), &name).map(Some)
    } else {
        Ok(None)
    }
}

/// Until the service has ended; its exit code. Looked at each quarter second: a unit that is gone has ended well, for
/// failed units stay.
fn wait(backend: &mut dyn backend::Backend, name: &str) -> Outcome {
    loop {
        let properties = backend.properties(name)?;
        match text(&properties, "ActiveState") {
            "inactive" => return Ok(0),
            "failed" => {
                let status = backend::number(&properties, "ExecMainStatus");
                return Ok(u8::try_from(status)
                    .ok()
                    .filter(|status| *status != 0)
                    .unwrap_or(1));
            }
            _ => std::thread::sleep(std::time::Duration::from_millis(250)),
        }
    }
}

fn unit(options: &Options) -> Result<TransientUnit, Failure> {
    let wrong = |text: String| Failure::Unreachable(format!("systemd-run: {text}"));
    let (section, suffix) = if options.scope {
        ("Scope", ".scope")
    } else {
        ("Service", ".service")
    };
    let name = match &options.unit {
        Some(name) => names::mangle(name, suffix),
        None => {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
            format!("run-r{}{suffix}", id.trim().replace('-', ""))
        }
    };
    UnitName::parse(&name).map_err(|error| wrong(format!("{name:?}: {error}")))?;
    let mut unit = TransientUnit {
        name,
        ..TransientUnit::default()
    };
    let mut put = |section: &str, key: &str, value: String| {
        unit.settings.push(Setting::new(section, key, value));
    };
    put(
        "Unit",
        "Description",
        options
            .description
            .clone()
            .unwrap_or_else(|| options.command.join(" "))
            .replace('%', "%%"),
    );
    if options.collect {
        put("Unit", "CollectMode", "inactive-or-failed".to_owned());
    }
    for (key, value) in [("Slice", &options.slice), ("Nice", &options.nice)] {
        if let Some(value) = value {
            put(section, key, value.clone());
        }
    }
    if !options.scope {
        for (key, value) in [
            ("Type", &options.service_type),
            ("User", &options.uid),
            ("Group", &options.gid),
            ("WorkingDirectory", &options.working_directory),
        ] {
            if let Some(value) = value {
                put(section, key, value.clone());
            }
        }
        if options.remain_after_exit {
            put(section, "RemainAfterExit", "yes".to_owned());
        }
        for variable in &options.setenv {
            let value = match variable.split_once('=') {
                Some(_) => variable.clone(),
                None => format!("{variable}={}", std::env::var(variable).unwrap_or_default()),
            };
            put(section, "Environment", quote(&value, false));
        }
        let words: Vec<String> = options
            .command
            .iter()
            .map(|word| quote(word, true))
            .collect();
        put(section, "ExecStart", words.join(" "));
    }
    for property in &options.property {
        let (key, value) = property
            .split_once('=')
            .ok_or_else(|| wrong(format!("{property:?} is no setting KEY=VALUE")))?;
        let in_unit = matches!(
            key,
            "Description"
                | "After"
                | "Before"
                | "Wants"
                | "Requires"
                | "BindsTo"
                | "PartOf"
                | "Conflicts"
                | "CollectMode"
                | "DefaultDependencies"
                | "StopWhenUnneeded"
                | "OnFailure"
                | "OnSuccess"
        );
        put(
            if in_unit { "Unit" } else { section },
            key,
            value.to_owned(),
        );
    }
    if options.scope {
        unit.pids = vec![std::process::id()];
    }
    Ok(unit)
}

/// One word in quotes, as unit files have it.
fn quote(word: &str, command: bool) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '%' => out.push_str("%%"),
            '$' if command => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The words that [`quote`] made.
pub(crate) fn split_quoted(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '"' {
            continue;
        }
        let mut word = String::new();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => word.push('\n'),
                    Some(c) => word.push(c),
                    None => {}
                },
                '%' | '$' => {
                    word.push(c);
                    chars.next_if_eq(&c);
                }
                c => word.push(c),
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn service() {
        let line = [
            "systemd-run",
            "--unit=job",
            "-p",
            "MemoryMax=1M",
            "-E",
            "A=b c",
            "/bin/echo",
            "-n",
            "$x 5%",
        ];
        let unit = unit(&Options::try_parse_from(line).unwrap()).unwrap();
        assert_eq!(unit.name, "job.service");
        let settings: Vec<_> = unit
            .settings
            .iter()
            .map(|s| format!("{}.{}={}", s.section, s.key, s.value))
            .collect();
        assert_eq!(
            settings,
            [
                "Unit.Description=/bin/echo -n $x 5%%",
                "Service.Environment=\"A=b c\"",
                "Service.ExecStart=\"/bin/echo\" \"-n\" \"$$x 5%%\"",
                "Service.MemoryMax=1M",
            ]
        );
    }

    #[test]
    fn scope_holds_this_process() {
        let unit =
            unit(&Options::try_parse_from(["systemd-run", "--scope", "true"]).unwrap()).unwrap();
        assert_eq!(unit.pids, [std::process::id()]);
        assert!(unit.name.starts_with("run-r") && unit.name.ends_with(".scope"));
    }

    proptest! {
        #[test]
        fn quoting_survives(words in proptest::collection::vec("\\PC{0,10}", 0..4)) {
            let line = words.iter().map(|word| quote(word, true)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split_quoted(&line), words);
        }
    }
}
