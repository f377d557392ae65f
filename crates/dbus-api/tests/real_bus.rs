//! Our clients on Debian's dbus-daemon: the same calls as on the façade of unit-busd must work there.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dbus_api::blocking::Connection;
use dbus_api::wire::{Message, Value};
use dbus_api::{Call, bus, systemd1};

struct Daemon {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn daemon() -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("--address=unix:path={}/bus", directory.path().display());
    let mut child = Command::new("dbus-daemon")
        .args(["--session", "--nofork", "--print-address", &socket])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    Daemon {
        child,
        address: address.trim().to_owned(),
        _directory: directory,
    }
}

fn echo(text: &str) -> Call<String> {
    let read = |body: &[Value]| body.first()?.as_str().map(str::to_owned);
    Call::new(
        "org.flotilla.Test",
        "/test",
        "org.flotilla.Test",
        "Echo",
        vec![Value::str(text)],
        read,
    )
}

/// Answers `count` calls by their own arguments, then says so by a signal.
fn serve(address: String, count: usize) -> std::thread::JoinHandle<()> {
    let mut service = Connection::bus(&address).unwrap();
    assert_eq!(
        service
            .call(bus::request_name("org.flotilla.Test", bus::DO_NOT_QUEUE))
            .unwrap(),
        bus::PRIMARY_OWNER
    );
    std::thread::spawn(move || {
        for _ in 0..count {
            let call = service
                .next_call(Some(Duration::from_secs(20)))
                .unwrap()
                .expect("a call comes");
            let answer = call.reply(call.body.clone());
            service.send(answer).unwrap();
        }
        let signal = Message::signal("/test", "org.flotilla.Test", "Served", vec![Value::U32(7)]);
        service.send(signal).unwrap();
    })
}

#[test]
fn blocking() {
    let daemon = daemon();
    let mut client = Connection::bus(&daemon.address).unwrap();
    assert!(client.unique_name().unwrap().starts_with(":1."));
    client
        .call(bus::add_match(
            "type='signal',interface='org.flotilla.Test'",
        ))
        .unwrap();
    let service = serve(daemon.address.clone(), 2);
    assert_eq!(client.call(echo("one")).unwrap(), "one");
    // Larger than one read, and than the socket's buffer.
    let large = "x".repeat(1 << 20);
    assert_eq!(client.call(echo(&large)).unwrap(), large);
    let signal = loop {
        let signal = client
            .next_signal(Some(Duration::from_secs(20)))
            .unwrap()
            .expect("a signal comes");
        if signal.member == "Served" {
            break signal;
        }
    };
    assert_eq!(signal.body, [Value::U32(7)]);
    service.join().unwrap();
    // No service of that name, or one that cannot be started: both say that nobody is there.
    let missing = client.call(systemd1::list_units()).unwrap_err();
    assert!(missing.is_unsupported(), "{missing}");
    assert_eq!(
        client.call(bus::connection_process_id(bus::NAME)).unwrap(),
        daemon.child.id()
    );
}

#[test]
fn silence_and_the_end_of_the_bus_are_errors() {
    let mut daemon = daemon();
    let mut client = Connection::bus(&daemon.address).unwrap();
    assert_eq!(
        client.next_call(Some(Duration::from_millis(50))).unwrap(),
        None
    );
    daemon.child.kill().unwrap();
    let end = client.call(bus::list_names()).unwrap_err();
    assert!(end.is_disconnected(), "{end}");
    let again = Connection::bus(&daemon.address).unwrap_err();
    assert!(again.is_disconnected(), "{again}");
    assert!(matches!(
        Connection::bus("tcp:host=localhost"),
        Err(dbus_api::Error::Address { .. })
    ));
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use dbus_api::asynchronous::Connection;

    use super::{Duration, bus, daemon, echo, serve};

    #[tokio::test]
    async fn calls_run_side_by_side() {
        let mut daemon = daemon();
        let client = Connection::bus(&daemon.address).await.unwrap();
        client
            .call(bus::add_match(
                "type='signal',interface='org.flotilla.Test'",
            ))
            .await
            .unwrap();
        let mut signals = client.signals().unwrap();
        let service = serve(daemon.address.clone(), 50);
        let calls: Vec<_> = (0..50)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move { client.call(echo(&number.to_string())).await })
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), number.to_string());
        }
        let wait = async {
            loop {
                if signals.recv().await.unwrap().member == "Served" {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap();
        service.join().unwrap();
        assert!(!client.is_closed());
        daemon.child.kill().unwrap();
        let end = client.call(bus::list_names()).await.unwrap_err();
        assert!(end.is_disconnected(), "{end}");
        // The reader notices by itself; nothing hangs.
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(client.signals().is_err());
    }
}
