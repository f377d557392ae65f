//! Our typed client, other owners of names, and hostile peers against unit-busd.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod engine;
mod lab;

use std::time::Duration;

use dbus_api::bus;
use dbus_api::systemd1::{self, Event, JobMode, Verb};
use lab::{Lab, spawn_busd};

#[test]
fn typed_client() {
    let lab = Lab::new();
    let mut client = lab.bus();
    assert!(
        client
            .run_job(Verb::Start, "idle.service", JobMode::Replace, None)
            .unwrap()
            .is_done()
    );
    let end = client
        .run_job(Verb::Start, "broken.service", JobMode::Replace, None)
        .unwrap();
    assert_eq!(end.as_str(), "failed");
    let error = client
        .run_job(Verb::Start, "nosuch.service", JobMode::Replace, None)
        .unwrap_err();
    assert!(error.is_no_such_unit(), "{error}");
    let path = client.call(systemd1::unit_by_pid(0)).unwrap();
    assert_eq!(path.unit_name().as_deref(), Some("ssh.service"));
    assert_eq!(
        client.call(systemd1::delegate_self()).unwrap(),
        "/system.slice/ssh.service"
    );
    let scope = [
        systemd1::TransientProperty::pids(&[std::process::id()]),
        systemd1::TransientProperty::slice("machine.slice"),
        systemd1::TransientProperty::delegate(true),
    ];
    let call = systemd1::start_transient_unit("docker-1.scope", JobMode::Fail, &scope);
    assert!(client.run(call, None).unwrap().is_done());
    assert!(lab.engine.saw("machine.slice"));
    let units = client
        .call(systemd1::list_units_by_names(&[
            "ssh.service",
            "nosuch.service",
        ]))
        .unwrap();
    assert_eq!(units[0].active_state, "active");
    assert_eq!(units[1].load_state, "not-found");
    let processes = client
        .call(systemd1::unit_processes("ssh.service"))
        .unwrap();
    assert_eq!(processes[0].control_group, "/system.slice/ssh.service/sub");
    assert_eq!(client.call(systemd1::list_unit_files()).unwrap().len(), 2);
    // Private peers get the manager's signals without asking.
    let mut private = lab.private();
    assert!(
        private
            .run_job(Verb::Stop, "idle.service", JobMode::Replace, None)
            .unwrap()
            .is_done()
    );
}

#[test]
fn property_signals_come_before_the_end_of_the_job() {
    let lab = Lab::new();
    let mut watcher = lab.bus();
    watcher
        .call(bus::add_match(systemd1::MATCH_MANAGER))
        .unwrap();
    watcher
        .call(bus::add_match(systemd1::MATCH_PROPERTIES))
        .unwrap();
    watcher.subscribe().unwrap();
    // The level is raised at the end of the turn; a round trip puts that behind us.
    watcher.call(systemd1::list_jobs()).unwrap();
    let mut other = lab.bus();
    other
        .run_job(Verb::Start, "idle.service", JobMode::Replace, None)
        .unwrap();
    let mut became_active = false;
    loop {
        let message = watcher
            .next_signal(Some(Duration::from_secs(10)))
            .unwrap()
            .expect("signals come");
        match Event::from_message(&message) {
            Some(Event::Changed { unit, changed, .. }) if unit == "idle.service" => {
                became_active |= changed.str("ActiveState") == Some("active");
            }
            Some(Event::JobRemoved { unit, .. }) if unit == "idle.service" => break,
            _ => {}
        }
    }
    assert!(became_active);
}

#[test]
fn names_are_routed_between_clients() {
    let lab = Lab::new();
    let mut service = lab.bus();
    let mut client = lab.bus();
    assert_eq!(
        service
            .call(bus::request_name("com.coreos.update1", bus::DO_NOT_QUEUE))
            .unwrap(),
        bus::PRIMARY_OWNER
    );
    assert!(
        client
            .call(bus::request_name("org.freedesktop.systemd1", 0))
            .is_err()
    );
    let server = std::thread::spawn(move || {
        let call = service
            .next_call(Some(Duration::from_secs(10)))
            .unwrap()
            .expect("a call comes");
        assert!(call.sender.starts_with(":1."));
        let answer = call.reply(vec![dbus_api::wire::Value::str("idle")]);
        service.send(answer).unwrap();
        service
            .next_call(Some(Duration::from_secs(10)))
            .unwrap()
            .expect("another call comes");
    });
    let status = |member: &str| {
        dbus_api::Call::new(
            "com.coreos.update1",
            "/com/coreos/update1",
            "com.coreos.update1.Manager",
            member,
            vec![],
            |body| body.first()?.as_str().map(str::to_owned),
        )
    };
    assert_eq!(client.call(status("GetStatus")).unwrap(), "idle");
    // The service ends with the second call open.
    let gone = client.call(status("Again")).unwrap_err();
    assert_eq!(gone.name(), Some("org.freedesktop.DBus.Error.NoReply"));
    server.join().unwrap();
    let nobody = client.call(status("GetStatus")).unwrap_err();
    assert!(nobody.is_unsupported(), "{nobody}");
}

#[test]
fn engine_and_daemon_may_go_and_come_back() {
    let mut lab = Lab::new();
    let mut on_bus = lab.bus();
    let mut private = lab.private();
    // A round trip: unit-busd is connected to the engine by now.
    private.call(systemd1::list_jobs()).unwrap();
    lab.engine.hang_up();
    // Private peers are let go, as at a re-execution; the bus stays and asks the new PID 1.
    let end = private.next_signal(Some(Duration::from_secs(10)));
    assert!(matches!(end, Err(dbus_api::Error::Closed)), "{end:?}");
    let state = on_bus.unit_text("ssh.service", "Unit", "ActiveState");
    assert_eq!(state.unwrap(), "active");
    lab.busd.kill().unwrap();
    lab.busd.wait().unwrap();
    assert!(
        on_bus
            .call(bus::list_names())
            .unwrap_err()
            .is_disconnected()
    );
    let _ = std::fs::remove_file(lab.run.path().join("dbus/system_bus_socket"));
    lab.busd = spawn_busd(lab.run.path());
    assert!(
        lab.bus()
            .run_job(Verb::Restart, "idle.service", JobMode::Replace, None)
            .unwrap()
            .is_done()
    );
}

#[test]
fn hostile_clients_do_not_disturb() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    let lab = Lab::new();
    let path = lab.run.path().join("dbus/system_bus_socket");
    let login = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
    let mut huge = login.to_vec();
    huge.extend_from_slice(b"l\x01\x00\x01\xff\xff\xff\x7f\x01\x00\x00\x00\xff\xff\xff\x7f");
    let mut no_hello = login.to_vec();
    no_hello.extend_from_slice(&{
        let mut call = systemd1::list_units().message().clone();
        call.serial = 1;
        call.encode()
    });
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &huge,
        &no_hello,
        &[&login[..], &[0_u8; 64]].concat(),
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // The connection is ended, not left hanging.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    // One that never reads cannot make the daemon grow without bound, or hold up others.
    let mut deaf = UnixStream::connect(&path).unwrap();
    deaf.write_all(login).unwrap();
    let mut hello = bus::hello().message().clone();
    hello.serial = 1;
    deaf.write_all(&hello.encode()).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut call = systemd1::unit_properties("ssh.service").message().clone();
    for serial in 2..20_000 {
        call.serial = serial;
        if deaf.write_all(&call.encode()).is_err() {
            break;
        }
    }
    assert_eq!(
        lab.bus()
            .unit_text("ssh.service", "Unit", "ActiveState")
            .unwrap(),
        "active"
    );
}
