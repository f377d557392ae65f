//! The service manager's client against a manager of a few lines on a real socket: what is asked, how
//! long is waited, and that a lost connection repeats no command.
#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cloudinit::apply::{Ended, Patience, SystemBus, UnitError, Units};
use dbus_api::wire::{Kind, Message, Value};

const MANAGER: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// What the manager does with a job.
#[derive(Clone, Copy, PartialEq)]
enum Script {
    /// Ends it at once with this word.
    Ends(&'static str),
    /// Closes the connection once while the job runs, ends it on the next connection.
    Drops,
    /// Keeps it waiting, because we are starting.
    Blocks,
}

struct Manager {
    address: String,
    calls: Arc<Mutex<Vec<String>>>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                serve(stream.unwrap(), script, number, &seen);
            }
        });
        let address = format!("unix:path={}", path.display());
        Self {
            address,
            calls,
            path,
            _dir: dir,
        }
    }

    fn calls(&self, member: &str) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|c| c.starts_with(member))
            .count()
    }
}

fn serve(mut stream: UnixStream, script: Script, number: usize, seen: &Mutex<Vec<String>>) {
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    while !input.windows(7).any(|w| w == b"BEGIN\r\n") {
        let n = stream.read(&mut chunk).unwrap();
        input.extend_from_slice(&chunk[..n]);
    }
    let at = input.windows(7).position(|w| w == b"BEGIN\r\n").unwrap() + 7;
    input.drain(..at);
    stream
        .write_all(b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n")
        .unwrap();
    let mut running = number > 0;
    loop {
        while let Some(length) = Message::length(&input)
            .unwrap()
            .filter(|l| input.len() >= *l)
        {
            let call = Message::parse(&input[..length]).unwrap();
            input.drain(..length);
            if call.kind != Kind::Call {
                continue;
            }
            if !answer(&mut stream, &call, script, number, &mut running, seen) {
                return;
            }
        }
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => input.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
}

/// Answers one call; false ends the connection.
fn answer(
    stream: &mut UnixStream,
    call: &Message,
    script: Script,
    number: usize,
    running: &mut bool,
    seen: &Mutex<Vec<String>>,
) -> bool {
    let words: Vec<&str> = call.body.iter().filter_map(Value::as_str).collect();
    seen.lock()
        .unwrap()
        .push(format!("{} {}", call.member, words.join(" ")));
    let job = Value::path(format!("{MANAGER}/job/7"));
    let mut send = |mut message: Message| {
        message.serial = 1;
        stream.write_all(&message.encode()).is_ok()
    };
    let removed = |word: &str| {
        let body = vec![
            Value::U32(7),
            job.clone(),
            Value::str("a.service"),
            Value::str(word),
        ];
        Message::signal(MANAGER, INTERFACE, "JobRemoved", body)
    };
    match call.member.as_str() {
        "Hello" => send(call.reply(vec![Value::str(":1.1")])),
        "StartUnit" if words[0] == "missing.service" => send(call.refuse(
            "org.freedesktop.systemd1.NoSuchUnit",
            "Unit missing.service not found.",
        )),
        "StartUnit" | "RestartUnit" | "StartTransientUnit" => {
            *running = true;
            let ok = send(call.reply(vec![job.clone()]));
            if let Script::Ends(word) = script {
                *running = false;
                return ok && send(removed(word));
            }
            ok
        }
        "ListJobs" => {
            if script == Script::Drops && number == 0 {
                return false;
            }
            let state = if script == Script::Blocks {
                "waiting"
            } else {
                "running"
            };
            let entry = Value::Struct(vec![
                Value::U32(7),
                Value::str("a.service"),
                Value::str("start"),
                Value::str(state),
                job.clone(),
                Value::path("/u"),
            ]);
            let list = if *running { vec![entry] } else { Vec::new() };
            let ok = send(call.reply(vec![Value::array("(usssoo)", list)]));
            // The second connection hears how the job ended.
            if script == Script::Drops {
                ok && send(removed("done"))
            } else {
                ok
            }
        }
        "GetUnitByPID" => {
            send(call.reply(vec![Value::path(format!("{MANAGER}/unit/me_2eservice"))]))
        }
        "Get" => send(call.reply(vec![Value::variant(Value::str("activating"))])),
        "EnableUnitFiles" => {
            let changes = Value::array("(sss)", Vec::new());
            send(call.reply(vec![Value::Bool(true), changes]))
        }
        _ => send(call.reply(Vec::new())),
    }
}

#[test]
fn jobs_are_awaited_and_their_end_is_told() {
    for (word, want) in [
        ("done", Ended::Done),
        ("failed", Ended::Badly("failed".into())),
    ] {
        let manager = Manager::start(Script::Ends(word));
        let mut bus = SystemBus::at(&manager.address);
        assert_eq!(
            bus.command("a.service", "start", Patience::Forever)
                .unwrap(),
            want
        );
        assert_eq!(manager.calls("StartUnit a.service replace"), 1);
    }
}

#[test]
fn enable_reload_and_transient_units_reach_the_manager() {
    let manager = Manager::start(Script::Ends("done"));
    let mut bus = SystemBus::at(&manager.address);
    bus.enable("a.service", true).unwrap();
    bus.reload().unwrap();
    let argv = ["/bin/bash".to_owned(), "/script".to_owned()];
    let ended = bus
        .run("s.service", "a script", &argv, Patience::UnlessBlocked)
        .unwrap();
    assert_eq!(ended, Ended::Done);
    for member in [
        "EnableUnitFiles",
        "Reload",
        "StartTransientUnit s.service replace",
    ] {
        assert_eq!(manager.calls(member), 1, "{member}");
    }
}

#[test]
fn missing_units_and_unknown_commands_are_told_apart() {
    let manager = Manager::start(Script::Ends("done"));
    let mut bus = SystemBus::at(&manager.address);
    let error = bus
        .command("missing.service", "start", Patience::Forever)
        .unwrap_err();
    assert!(matches!(error, UnitError::NoSuchUnit(name) if name == "missing.service"));
    let error = bus
        .command("a.service", "frobnicate", Patience::Forever)
        .unwrap_err();
    assert!(matches!(error, UnitError::UnknownCommand(word) if word == "frobnicate"));
}

#[test]
fn a_lost_connection_waits_for_the_same_job_and_gives_no_command_twice() {
    let manager = Manager::start(Script::Drops);
    let mut bus = SystemBus::at(&manager.address);
    let ended = bus
        .command("a.service", "restart", Patience::Forever)
        .unwrap();
    assert_eq!(ended, Ended::Done);
    assert_eq!(manager.calls("RestartUnit"), 1);
    assert_eq!(manager.calls("Hello"), 2);
}

#[test]
fn a_job_that_waits_for_us_is_left_in_the_queue() {
    let manager = Manager::start(Script::Blocks);
    let mut bus = SystemBus::at(&manager.address);
    let begin = std::time::Instant::now();
    let ended = bus
        .command("a.service", "start", Patience::UnlessBlocked)
        .unwrap();
    assert_eq!(ended, Ended::Queued);
    assert!(begin.elapsed().as_secs() >= 4);
}

#[test]
fn no_bus_is_an_error_with_its_address() {
    let manager = Manager::start(Script::Ends("done"));
    assert!(Path::new(&manager.path).exists());
    let mut bus = SystemBus::at("unix:path=/nonexistent/bus");
    let error = bus.reload().unwrap_err();
    assert!(telemetry::chain(&error).contains("/nonexistent/bus"));
}
