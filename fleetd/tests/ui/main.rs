//! The dashboard in a real browser: what it shows, that it follows the cluster, that it can be used
//! with a keyboard and on a phone. Screenshots are left in cargo's directory for test output.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop")]

mod driver;
#[allow(dead_code, reason = "the cluster tests use the rest")]
#[path = "../cluster/pretend.rs"]
mod pretend;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driver::{Browser, http};
use etcd_kv::{Kv, MemKv};
use fleet_model::UnitFile;
use fleetd::clock::MachineClock;
use fleetd::config::Settings;
use fleetd::daemon::{ApiIo, End, Io, run};
use fleetd::logs::JournalReader;
use journal::{Id128, Stamp, Writer, WriterOptions};
use pretend::Pretend;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const IDS: [&str; 3] = [
    "5e1f0a93c2b74d6f8a10b3c4d5e6f701",
    "8b42d7706f5e4c19a3d2e1f0c9b8a702",
    "c7d9e8f10a2b4c3d9e8f7a6b5c4d3e03",
];

/// Three daemons with pretended service managers on one store.
struct Cluster {
    address: SocketAddr,
    runtime: Runtime,
}

impl Cluster {
    fn start(dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let kv: Arc<dyn Kv> = Arc::new(MemKv::new());
        let mut address = None;
        let metadata = [
            "role=web,zone=north",
            "role=web,zone=south",
            "role=db,zone=south,disk=ssd",
        ];
        for (i, id) in IDS.iter().enumerate() {
            let home = dir.join(id);
            std::fs::create_dir(&home).unwrap();
            std::fs::write(home.join("machine-id"), id).unwrap();
            let text = format!(
                "public_ip=10.0.2.{}\nmetadata={}\noffer_memory=4G\noffer_cpus=4\n",
                11 + i,
                metadata[i]
            );
            let (settings, _) = Settings::from_text("test", &text, std::iter::empty()).unwrap();
            let settings = Settings {
                units_directory: home.join("units"),
                run_directory: home.join("run"),
                machine_id_file: home.join("machine-id"),
                ..settings
            };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if i == 0 {
                address = Some(listener.local_addr().unwrap());
            }
            let command = ["journalctl", "--directory"].map(Into::into).to_vec();
            let io = Io {
                sockets: vec![("test".into(), listener.into())],
                manager: Arc::new(Pretend::default()),
                kv: Some(kv.clone()),
                clock: Arc::new(MachineClock),
                api: ApiIo {
                    journal: JournalReader {
                        command: [command, vec![dir.join("journal").into()]].concat(),
                        user: false,
                    },
                    ..ApiIo::default()
                },
            };
            runtime.spawn(async move {
                let never = std::future::pending::<Result<End, _>>();
                run(&settings, &io, never).await.unwrap();
            });
        }
        Self {
            address: address.unwrap(),
            runtime,
        }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = http(self.address, method, path, body);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    #[track_caller]
    fn put(&self, name: &str, text: &str, target: &str) {
        let file = UnitFile::parse(text).unwrap();
        let body = json!({"options": file.options(), "desiredState": target}).to_string();
        let (status, answer) = self.ask("PUT", &format!("/fleet/v1/units/{name}"), &body);
        assert_eq!(status, 201, "{answer}");
    }

    fn end(self) {
        self.runtime.shutdown_background();
    }
}

/// A real journal with logs of two units.
fn write_journal(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let machine_id = Id128([0xab; 16]);
    let options = WriterOptions {
        machine_id,
        max_size: 8 << 20,
        step: 64 << 10,
        gid: None,
    };
    let boot = Id128([0xb0; 16]);
    let path = dir.join("system.journal");
    let mut writer = Writer::create(&path, &options, Id128([5; 16]), 0).unwrap();
    for (i, (unit, line)) in [
        ("web@1.service", "listening on 0.0.0.0:8080"),
        ("database.service", "ready for connections"),
        ("web@1.service", "GET /health 200 in 1 ms"),
        ("web@1.service", "<b>not markup</b> & \"quotes\""),
        ("web@1.service", "GET / 200 in 12 ms"),
    ]
    .iter()
    .enumerate()
    {
        let stamp = Stamp {
            realtime: 1_790_000_000_000_000 + i as u64 * 1_000_000,
            monotonic: 1_000_000 + i as u64,
            boot_id: boot,
        };
        let fields = [
            format!("MESSAGE={line}"),
            "PRIORITY=6".into(),
            format!("_SYSTEMD_UNIT={unit}"),
            format!("_BOOT_ID={boot}"),
            format!("_MACHINE_ID={machine_id}"),
            "_HOSTNAME=node1".into(),
            "SYSLOG_IDENTIFIER=web".into(),
            "_PID=712".into(),
        ];
        writer.append(stamp, &fields).unwrap();
    }
    writer.sync().unwrap();
}

fn pictures() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The text of a unit's row, or null.
fn row(unit: &str) -> String {
    format!("document.querySelector('[data-unit=\"{unit}\"]')?.closest('tr').innerText ?? null")
}

fn row_has(unit: &str, text: &str) -> String {
    format!("({})?.includes({text:?}) ?? false", row(unit))
}

#[test]
fn the_dashboard_shows_the_cluster_and_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    // Wherever the units come to run, these are their logs.
    write_journal(&dir.path().join("journal"));
    let cluster = Cluster::start(dir.path());
    let browser = Browser::start(&dir.path().join("profile"));
    browser.screen(1280, 860, false, "light");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while cluster.ask("GET", "/flotilla/v1/machines", "").1["machines"]
        .as_array()
        .is_none_or(|m| m.len() < 3)
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the machines do not register"
        );
        std::thread::sleep(std::time::Duration::from_millis(30));
    }

    let page = format!("http://{}/ui", cluster.address);
    browser.open(&page);
    browser.wait(
        "it is live",
        "document.querySelector('#live').textContent === 'live'",
    );
    browser.wait(
        "three machines",
        "document.querySelectorAll('.card').length === 3",
    );
    let empty = browser.eval("document.querySelector('#unit-list').innerText");
    assert!(
        empty.as_str().unwrap().contains("There are no units yet"),
        "{empty}"
    );
    browser.screenshot(&pictures().join("empty.png"));

    // Units appear by themselves. A mark in the page shows that it was not loaded anew.
    browser.eval("(window.mark = 7)");
    let web = "[Unit]\nDescription=Web server\n[Service]\nExecStart=/usr/bin/web --port 8080\n\
               [X-Fleet]\nConflicts=web@*.service\nMemory=512M\nCPU=0.5\nMachineMetadata=role=web\n";
    for i in 1..=3 {
        cluster.put(&format!("web@{i}.service"), web, "launched");
    }
    let service = "[Service]\nExecStart=/usr/bin/thing\n";
    for name in ["api", "billing", "cache", "mailer", "search"] {
        let text = format!("{service}[X-Fleet]\nMemory=256M\nCPU=0.25\n");
        cluster.put(&format!("{name}.service"), &text, "launched");
    }
    cluster.put(
        "broken.service",
        "[Service]\nExecStart=/bin/false\n",
        "launched",
    );
    cluster.put(
        "agent.service",
        &format!("{service}[X-Fleet]\nGlobal=true\n"),
        "launched",
    );
    cluster.put("report.service", service, "inactive");
    cluster.put(
        "database.service",
        &format!("{service}[X-Fleet]\nMachineMetadata=disk=ssd\n"),
        "launched",
    );
    for (unit, text) in [
        ("web@1.service", "active (running)"),
        ("web@3.service", "waiting for a machine"),
        ("broken.service", "failed (failed)"),
        ("agent.service", "3 of 3 active"),
        ("report.service", "inactive"),
        ("database.service", "c7d9e8f1… / 10.0.2.13"),
    ] {
        browser.wait(unit, &row_has(unit, text));
    }
    assert_eq!(browser.eval("window.mark"), json!(7));
    let tile = |kind: &str| {
        browser.eval(&format!(
            "document.querySelector('[data-kind={kind}] b').textContent"
        ))
    };
    assert_eq!(
        (tile("all"), tile("bad"), tile("idle")),
        (json!("12"), json!("1"), json!("1"))
    );
    browser.wait(
        "machines show what is reserved",
        "[...document.querySelectorAll('.card')].some(c => /\\d+ MiB \\/ 4\\.0 GiB/.test(c.innerText))",
    );

    // A machine is drained; its card says so, and one cordon less.
    let drain = format!("/flotilla/v1/machines/{}/cordon", IDS[1]);
    assert_eq!(cluster.ask("POST", &drain, "").0, 204);
    browser.wait(
        "cordoned",
        "document.querySelector('.card.off .chip.warn')?.textContent === 'cordoned'",
    );
    browser.screenshot(&pictures().join("desktop.png"));
    // Metadata is text, whatever is in it.
    let patch =
        json!([{"op": "add", "path": format!("/{}/metadata/note", IDS[0]), "value": "<i>x</i>"}]);
    assert_eq!(
        cluster
            .ask("PATCH", "/fleet/v1/machines", &patch.to_string())
            .0,
        204
    );
    browser.wait(
        "a chip with a tag",
        "document.querySelector('#machines').innerText.includes('note=<i>x</i>')",
    );

    let patch = json!([{"op": "remove", "path": format!("/{}/metadata/note", IDS[0])}]);
    assert_eq!(
        cluster
            .ask("PATCH", "/fleet/v1/machines", &patch.to_string())
            .0,
        204
    );

    // With the keyboard alone: filter, open, read, close.
    browser.press("/web@1");
    browser.wait(
        "one row",
        "document.querySelectorAll('table.units tbody tr').length === 1",
    );
    assert_eq!(
        browser.eval("document.querySelector('#unit-count').textContent"),
        json!("1 of 12")
    );
    browser.press("\u{e004}\u{e007}");
    browser.wait(
        "the dialog is open",
        "document.querySelector('#detail').open",
    );
    browser.wait(
        "its log, as text",
        "document.querySelector('#log').textContent.includes('<b>not markup</b>')",
    );
    browser.wait(
        "its text",
        "document.querySelector('#text').textContent.includes('--port 8080')",
    );
    browser.wait(
        "why",
        "/least loaded|fits/.test(document.querySelector('#why').innerText)",
    );
    browser.screenshot(&pictures().join("unit.png"));
    browser.press("\u{e00c}");
    browser.wait(
        "the dialog is closed",
        "!document.querySelector('#detail').open",
    );
    browser.wait(
        "the focus is back",
        "document.activeElement.dataset.unit === 'web@1.service'",
    );

    // A log that is on another machine comes from there.
    browser.open(&format!("{page}#unit=database.service"));
    browser.wait(
        "the log from elsewhere",
        "document.querySelector('#log')?.textContent.endsWith('ready for connections')",
    );
    browser.press("\u{e00c}");

    // Why a unit waits is said, and destroyed units go.
    browser.eval("(document.querySelector('#filter').value = '', document.querySelector('#filter').dispatchEvent(new Event('input')))");
    browser.open(&format!("{page}#unit=web@3.service"));
    browser.wait(
        "why it waits",
        "document.querySelector('#why')?.innerText.includes('conflicts with web@')",
    );
    browser.press("\u{e00c}");
    assert_eq!(
        cluster.ask("DELETE", "/fleet/v1/units/cache.service", "").0,
        204
    );
    browser.wait(
        "it is gone",
        &format!("({}) === null", row("cache.service")),
    );
    let stop = json!({"desiredState": "loaded"}).to_string();
    assert_eq!(
        cluster.ask("PUT", "/fleet/v1/units/api.service", &stop).0,
        204
    );
    browser.wait("it is stopped", &row_has("api.service", "inactive (dead)"));
    // Only what failed.
    browser.eval("document.querySelector('[data-kind=bad]').click()");
    browser.wait(
        "one failed",
        "document.querySelectorAll('table.units tbody tr').length === 1",
    );
    browser.eval("document.querySelector('[data-kind=bad]').click()");

    browser.screen(1280, 860, false, "dark");
    browser.wait(
        "dark",
        "getComputedStyle(document.body).backgroundColor === 'rgb(13, 17, 23)'",
    );
    browser.screenshot(&pictures().join("dark.png"));
    browser.screen(390, 844, true, "light");
    browser.open(&page);
    browser.wait("rows on the phone", &row_has("broken.service", "failed"));
    let fits = "document.documentElement.scrollWidth <= 390";
    assert_eq!(
        browser.eval(fits),
        json!(true),
        "nothing is wider than the phone"
    );
    let small = browser.eval(
        "[...document.querySelectorAll('td.name button, #tiles button')].filter(b => b.getBoundingClientRect().height < 24).length",
    );
    assert_eq!(small, json!(0), "fingers are not that small");
    browser.screenshot(&pictures().join("phone.png"));
    browser.eval("document.querySelector('#units').scrollIntoView()");
    browser.screenshot(&pictures().join("phone-units.png"));
    browser.eval("document.querySelector('[data-unit=\"web@3.service\"]').click()");
    browser.wait(
        "why it waits",
        "document.querySelector('#why')?.innerText.includes('conflicts with web@')",
    );
    assert_eq!(browser.eval(fits), json!(true));
    browser.screenshot(&pictures().join("phone-unit.png"));

    let complaints: Vec<String> = browser
        .complaints()
        .into_iter()
        // The log of a unit that is on no machine is a 409 that the page shows.
        .filter(|line| !line.contains("/web%403.service/journal"))
        .collect();
    assert_eq!(complaints, Vec::<String>::new());
    drop(browser);
    cluster.end();
}
