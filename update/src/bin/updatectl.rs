//! `updatectl`: looks at and changes the state of the system slots.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use boot_slots::{BootState, Slot};
use clap::{CommandFactory, Parser, Subcommand};
use update::{boot, esp, health};

/// Shows and marks the slots that the machine boots from.
#[derive(Debug, Parser)]
#[command(
    name = "updatectl",
    version,
    after_help = "Example:\n  updatectl status --json"
)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// What is in the slots, and how many boot attempts each has left.
    Status {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// This boot is healthy: the running slot is good and has all its attempts again.
    MarkGood,
    /// Orderly shutdown: a good slot gets its attempts back.
    Refresh,
    /// Exit status 0 where the running slot is marked good, 3 where it is not.
    IsGood,
    /// Prints a completion script.
    Completion {
        /// bash, zsh or fish.
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    Inner { action: String, slot: String },
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("updatectl: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cmd: &Cmd) -> Result<ExitCode, String> {
    let action = match cmd {
        Cmd::Completion { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "updatectl", &mut io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Cmd::Inner { action, slot } => return inner(action, slot),
        Cmd::Status { json: true } => "status-json",
        Cmd::Status { json: false } => "status",
        Cmd::MarkGood => "mark-good",
        Cmd::Refresh => "refresh",
        Cmd::IsGood => "is-good",
    };
    let info = boot::read(Path::new(boot::PATH)).map_err(|e| telemetry::chain(&e))?;
    let Some(slot) = info.slot.filter(|_| Path::new(esp::DEVICE).exists()) else {
        println!("this machine was not started from a slot; nothing to mark");
        return Ok(ExitCode::SUCCESS);
    };
    if action == "mark-good" {
        remember_route();
    }
    match esp::with_esp(&["inner", action, &slot]) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(if action == "is-good" { 3 } else { 1 })),
        Err(e) => Err(telemetry::chain(&e)),
    }
}

/// The second run, with the ESP mounted.
fn inner(action: &str, slot: &str) -> Result<ExitCode, String> {
    let slot = Slot::parse(slot).ok_or_else(|| format!("not a slot: {slot}"))?;
    let file = Path::new(esp::MOUNT).join(esp::GRUBENV);
    let state = esp::edit(&file, |s| match action {
        "mark-good" => s.mark_good(slot),
        "refresh" => s.refresh(slot),
        _ => {}
    })
    .map_err(|e| telemetry::chain(&e))?;
    match action {
        "status" => print!("{}", table(&state, slot)),
        "status-json" => println!("{}", document(&state, slot)),
        "is-good" if !state.slot(slot).good => return Ok(ExitCode::from(3)),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn table(state: &BootState, running: Slot) -> String {
    let mut s = String::from("SLOT\tVERSION\tGOOD\tTRIES\tNOTE\n");
    for slot in [Slot::A, Slot::B] {
        let st = state.slot(slot);
        let mut notes = Vec::new();
        if slot == running {
            notes.push("running");
        }
        if slot == state.first {
            notes.push("next");
        }
        let version = if st.version.is_empty() {
            "-"
        } else {
            &st.version
        };
        s += &format!(
            "{slot}\t{version}\t{}\t{}\t{}\n",
            if st.good { "yes" } else { "no" },
            st.tries,
            notes.join(",")
        );
    }
    s
}

fn document(state: &BootState, running: Slot) -> serde_json::Value {
    let slots: Vec<_> = [Slot::A, Slot::B]
        .iter()
        .map(|s| {
            let st = state.slot(*s);
            serde_json::json!({"slot": s.to_string(), "version": st.version, "good": st.good, "tries": st.tries,
                "running": *s == running, "next": *s == state.first})
        })
        .collect();
    serde_json::json!({ "slots": slots })
}

fn remember_route() {
    let now =
        health::default_route(&std::fs::read_to_string("/proc/net/route").unwrap_or_default());
    let p = Path::new(health::HAD_ROUTE);
    // Losing this note only makes the next health check less strict.
    let _ = if now {
        p.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(p, b""))
    } else {
        std::fs::remove_file(p)
    };
}
