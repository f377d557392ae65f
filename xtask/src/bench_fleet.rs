//! `cargo xtask bench fleet`: fleet's figures beside their goals, and its cost against the size of the cluster.
//!
//! The measuring is `fleetd/examples/fleet-bench`, built as what ships is built. This runs it, prints the figures and
//! writes `docs/fleet/bench.md` and `bench.svg`.
//!
//! The original, fleet 1.0, is measured in the same call where it is there: `FLOTILLA_ORIGINAL_FLEETD` names its
//! daemon, or `FLOTILLA_ORIGINAL_SOURCE` its source, which Go then builds. Neither is part of this project and
//! neither is fetched. Without them its column holds what it was once measured at, and says so.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::setup;

const PAGE: &str = "docs/fleet/bench.md";
const PLOT: &str = "docs/fleet/bench.svg";
/// Names the original's daemon.
const ORIGINAL_PROGRAM: &str = "FLOTILLA_ORIGINAL_FLEETD";
/// Names the original's source, a checkout with its `vendor`.
const ORIGINAL_SOURCE: &str = "FLOTILLA_ORIGINAL_SOURCE";
/// Where the original is built: a Go workspace.
const ORIGINAL_BUILD: &str = "build/original";

/// What the measuring part prints.
#[derive(Debug, Deserialize)]
struct Document {
    figures: Vec<Figure>,
    curve: Vec<Point>,
    load_before: String,
    original_ran: bool,
    /// Why figures of the original are missing though it was there.
    original_failed: Option<String>,
}

/// One figure; without a goal it is there to explain the others.
#[derive(Debug, Deserialize)]
struct Figure {
    name: String,
    unit: String,
    goal: Option<f64>,
    value: f64,
    /// The original's, measured in the same call.
    original: Option<f64>,
    /// What was not as with ours.
    original_note: Option<String>,
}

/// The cluster at one size.
#[derive(Debug, Clone, Deserialize)]
struct Point {
    machines: f64,
    units: f64,
    launch_ms: f64,
    memory_mb: f64,
    leader_percent: f64,
    settled_s: f64,
    plan_ms: f64,
    decide_us: f64,
    machine_lost_ms: f64,
}

/// What the original was measured at once, in a run of its own on two shared cores (three machines, TTL 30 s, units
/// created already launched): beginning of our figure's name, its value.
const RECORDED: &[(&str, &str)] = &[
    ("start one unit", "3.0–6.7 s"),
    ("destroy", "up to 5 s: noticed by the next pass"),
    ("1000 units created", "25 s"),
    ("list 1000 units", "4800 ms"),
    ("steady etcd writes", "126 /s"),
    ("steady raft proposals", "129 /s"),
    ("leader, steady", "59 % of a core"),
    ("a machine dies", "TTL + 1–2 s"),
];

impl Figure {
    fn met(&self) -> Option<bool> {
        self.goal.map(|goal| self.value <= goal)
    }

    /// The original's figure as shown: measured, or recorded and marked so.
    fn original(&self) -> String {
        if let Some(value) = self.original {
            let note = self.original_note.as_deref().unwrap_or("");
            let note = match note {
                "" => String::new(),
                note => format!(" ({note})"),
            };
            return format!("{} {}{note}", number(value), self.unit);
        }
        let mut known = RECORDED.iter();
        let known = known.find(|(name, _)| self.name.starts_with(name));
        known.map_or(String::new(), |(_, value)| format!("{value} (recorded)"))
    }

    /// How many times ours the original's is; nothing where either is unknown or ours is none at all.
    fn ratio(&self) -> String {
        match self.original {
            Some(original) if self.value > 0.0 => format!("{} ×", number(original / self.value)),
            _ => String::new(),
        }
    }
}

/// The original's daemon where it is named, built first where its source is.
fn original() -> Result<Option<PathBuf>> {
    if let Some(program) = std::env::var_os(ORIGINAL_PROGRAM).map(PathBuf::from) {
        if !program.is_file() {
            bail!("{ORIGINAL_PROGRAM}: no file {}", program.display());
        }
        return Ok(Some(program));
    }
    let Some(source) = std::env::var_os(ORIGINAL_SOURCE).map(PathBuf::from) else {
        println!("{NOT_RUN}");
        return Ok(None);
    };
    build_original(&source).map(Some)
}

/// How to have the comparison.
const NOT_RUN: &str = "--- original fleetd: NOT RUN, its column shows recorded figures. FLOTILLA_ORIGINAL_FLEETD names its daemon (1.0),\n\
                           or FLOTILLA_ORIGINAL_SOURCE its source, which Go builds: then it is measured in the same call.";

/// Builds the original from a checkout, with the packages that are in it and no others.
fn build_original(source: &Path) -> Result<PathBuf> {
    let source = fs::canonicalize(source)
        .with_context(|| format!("{ORIGINAL_SOURCE}: no directory {}", source.display()))?;
    // Older than modules: it has to lie where its name says.
    let place = Path::new(ORIGINAL_BUILD).join("src/github.com/coreos");
    fs::create_dir_all(&place)?;
    let link = place.join("fleet");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&source, &link)?;
    let workspace = fs::canonicalize(ORIGINAL_BUILD)?;
    let program = workspace.join("fleetd");
    let status = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg("github.com/coreos/fleet")
        .env("GOPATH", &workspace)
        .env("GO111MODULE", "off")
        .status()
        .context("cannot run go")?;
    if !status.success() {
        bail!("building the original failed");
    }
    Ok(program)
}

/// Measures, prints and writes the page.
pub fn fleet() -> Result<()> {
    setup::install(&["etcd-server"])?;
    let original = original()?;
    let status = Command::new("cargo")
        .args([
            "build",
            "--release",
            "-p",
            "fleetd",
            "--example",
            "fleet-bench",
        ])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("building the measuring part failed");
    }
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let program = format!("{target}/release/examples/fleet-bench");
    let mut measure = Command::new(&program);
    if let Some(original) = original {
        measure.env(ORIGINAL_PROGRAM, original);
    }
    let output = measure
        .arg("measure")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", output.status);
    }
    let document: Document =
        serde_json::from_slice(&output.stdout).context("its answer is not understood")?;
    for figure in &document.figures {
        let goal = figure
            .goal
            .map_or(String::new(), |g| format!("goal {g} {}", figure.unit));
        let mark = match figure.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        println!(
            "{:<80} {:>10} {:<14} {goal:<22} {mark:<7} original: {} {}",
            figure.name,
            number(figure.value),
            figure.unit,
            Some(figure.original())
                .filter(|o| !o.is_empty())
                .unwrap_or_else(|| "-".into()),
            figure.ratio()
        );
    }
    fs::create_dir_all("docs/fleet")?;
    fs::write(PLOT, svg(&document.curve))?;
    fs::write(PAGE, page(&document, &facts(&document)))?;
    println!("\nwritten: {PAGE}, {PLOT}");
    if let Some(why) = &document.original_failed {
        bail!("the original was not measured to the end: {why}");
    }
    if !document.original_ran {
        println!("{NOT_RUN}");
    }
    Ok(())
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

/// What the figures were measured on.
fn facts(document: &Document) -> String {
    let first = |text: &str| text.lines().next().unwrap_or("").trim().to_owned();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        Some(first(&String::from_utf8_lossy(&output.stdout)))
    };
    let read = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key)).map(str::to_owned);
        line.and_then(|l| Some(l.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo", "MemTotal");
    let memory: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = run("uname", &["-r"]).unwrap_or_default();
    format!(
        "{cores} cores ({}), {:.0} GiB memory, Linux {}, {}, {}. Load before it began: {}.",
        read("/proc/cpuinfo", "model name"),
        memory / f64::from(1 << 20),
        kernel.split('-').next().unwrap_or(""),
        run("etcd", &["--version"])
            .unwrap_or_default()
            .replace(" Version:", ""),
        run("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default(),
        document
            .load_before
            .split(' ')
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
    )
}

fn page(document: &Document, facts: &str) -> String {
    let mut out = format!(
        "# What fleet costs\n\n\
         Written by `cargo xtask bench fleet`, which measures all of this anew. Real etcd with fsync, programs built as they\n\
         ship. Daemons are real; their service manager is a pretended one that starts nothing, so that fleet is measured and\n\
         not the units. All on loopback. The 1000 machines are one real daemon, which leads, and simulated agents that do\n\
         with etcd what real ones do (own lease and presence, a claim and a state for every unit) but share one copy of the\n\
         wishes and one process.\n\n\
         If the load before it began is high, other work shared the machine, and times are upper bounds.\n\
         Processor time comes in hundredths of a second, over 20 s here: 0 % is less than 0.05 %.\n\n{facts}\n\n\
         | figure | measured | goal | | original 1.0 | original ÷ ours |\n|---|---|---|---|---|---|\n"
    );
    for figure in &document.figures {
        let goal = figure
            .goal
            .map_or(String::new(), |g| format!("≤ {g} {}", figure.unit));
        let met = match figure.met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let _ = writeln!(
            out,
            "| {} | {} {} | {goal} | {met} | {} | {} |",
            figure.name,
            number(figure.value),
            figure.unit,
            figure.original(),
            figure.ratio()
        );
    }
    out.push_str(&about_original(document));
    out.push_str(
        "\n## Against the size of the cluster\n\n\
         20 units for each machine. A tenth of the units ask for a kind of machine, a tenth not to be with their like.\n\n\
         ![cost against cluster size](bench.svg)\n\n\
         | machines | units | full plan | one decision | a machine lost, replanned | create → launched | leader, steady | leader's memory | new units of this step until all run |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for p in &document.curve {
        let _ = writeln!(
            out,
            "| {} | {} | {} ms | {} µs | {} ms | {} ms | {} % | {} MB | {} s |",
            p.machines,
            p.units,
            number(p.plan_ms),
            number(p.decide_us),
            number(p.machine_lost_ms),
            number(p.launch_ms),
            number(p.leader_percent),
            number(p.memory_mb),
            number(p.settled_s)
        );
    }
    out
}

/// Where the original's column is from.
fn about_original(document: &Document) -> String {
    if !document.original_ran {
        return "\nThe original was not run here: its column is from a run of its own (three machines, TTL 30 s, two shared cores).\n\
                With `FLOTILLA_ORIGINAL_FLEETD` naming its daemon, or `FLOTILLA_ORIGINAL_SOURCE` its source, it is measured in\n\
                the same call.\n"
            .into();
    }
    let failed = document.original_failed.as_ref().map_or(String::new(), |why| {
        format!("It was not measured to the end ({why}): what is missing is recorded, or not there.\n")
    });
    format!(
        "\nThe original, fleet 1.0, was measured in the same call, after ours: three of its daemons with default settings,\n\
         the same units, requests and etcd with its v2 API on, the same pretended service manager. It speaks D-Bus to that one,\n\
         as it can do nothing else, while ours calls it: what this costs is at most what \"another daemon, steady\" says.\n\
         Steady, it was looked at for 48 s, in which it says everything anew twice. For the dying machine its daemons were\n\
         started again with a TTL of 10 s, which is ours and not its default: they then write nearly five times as much.\n{failed}"
    )
}

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 240.0;
const MARGIN: (f64, f64) = (56.0, 44.0);

/// What a panel shows of a point.
type Value = fn(&Point) -> f64;

/// Four panels with logarithmic axes.
fn svg(curve: &[Point]) -> String {
    let panels: [(&str, &str, Value); 4] = [
        ("full plan", "ms", |p| p.plan_ms),
        ("one decision", "µs", |p| p.decide_us),
        ("create → launched", "ms", |p| p.launch_ms),
        ("leader's memory", "MB", |p| p.memory_mb),
    ];
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        2.0 * WIDTH,
        2.0 * HEIGHT
    );
    for (i, (title, unit, value)) in panels.iter().enumerate() {
        let (column, row) = (i % 2, i / 2);
        #[allow(clippy::cast_precision_loss, reason = "0 or 1")]
        let (x, y) = (column as f64 * WIDTH, row as f64 * HEIGHT);
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        let points: Vec<(f64, f64)> = curve.iter().map(|p| (p.machines, value(p))).collect();
        panel(&mut out, &format!("{title} ({unit})"), &points);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, title: &str, points: &[(f64, f64)]) {
    let decades = |values: &dyn Fn(&(f64, f64)) -> f64| {
        let logs = points
            .iter()
            .map(values)
            .filter(|v| *v > 0.0)
            .map(f64::log10);
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (0.0, 1.0)
        } else {
            (low.floor(), high.ceil().max(low.floor() + 1.0))
        }
    };
    let (x_low, x_high) = decades(&|p| p.0);
    let (y_low, y_high) = decades(&|p| p.1);
    let x = |v: f64| MARGIN.0 + (v.log10() - x_low) / (x_high - x_low) * (WIDTH - MARGIN.0 - 30.0);
    let y = |v: f64| {
        HEIGHT - MARGIN.1 - (v.log10() - y_low) / (y_high - y_low) * (HEIGHT - MARGIN.1 - 40.0)
    };
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"22\" font-size=\"13\" fill=\"#222\">{title}</text>",
        MARGIN.0
    );
    let mut tick = y_low;
    while tick <= y_high {
        let (value, at) = (10f64.powf(tick), y(10f64.powf(tick)));
        let _ = writeln!(
            out,
            "<path d=\"M{} {at:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value}</text>",
            MARGIN.0,
            WIDTH - 30.0,
            MARGIN.0 - 6.0,
            at + 4.0
        );
        tick += 1.0;
    }
    let mut line = String::new();
    for (i, (machines, value)) in points.iter().enumerate().filter(|(_, p)| p.1 > 0.0) {
        let (px, py) = (x(*machines), y(*value));
        let _ = write!(line, "{}{px:.1} {py:.1}", if i == 0 { "M" } else { "L" });
        let _ = writeln!(
            out,
            "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"#0b62a4\"/><text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222\">{}</text><text x=\"{px:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{machines}</text>",
            py - 8.0,
            number(*value),
            HEIGHT - MARGIN.1 + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<path d=\"{line}\" fill=\"none\" stroke=\"#0b62a4\" stroke-width=\"1.5\"/>"
    );
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">machines (20 units each)</text>",
        (WIDTH + MARGIN.0 - 30.0) / 2.0,
        HEIGHT - 8.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let text = r#"{"load_before":"1 2 3 x","original_ran":true,"original_failed":null,"figures":[
            {"name":"start one unit, x","unit":"s","goal":0.3,"value":0.05,"original":4.0,"original_note":"of 5"},
            {"name":"slow","unit":"s","goal":1.0,"value":1.5,"original":3.0,"original_note":""},
            {"name":"steady etcd writes","unit":"a second","goal":1.0,"value":0,"original":127.3},
            {"name":"a machine dies","unit":"s","goal":10.5,"value":10.0},
            {"name":"plain","unit":"MB","goal":null,"value":123.4}],"curve":[
            {"machines":10,"units":200,"launch_ms":9,"memory_mb":8,"leader_percent":0.1,"settled_s":1,"plan_ms":0.5,"decide_us":3,"machine_lost_ms":0.1},
            {"machines":1000,"units":20000,"launch_ms":20,"memory_mb":80,"leader_percent":0.1,"settled_s":9,"plan_ms":90,"decide_us":9,"machine_lost_ms":1}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn check(page: &str, lines: &[&str]) {
        for line in lines {
            assert!(page.contains(line), "no {line:?} in\n{page}");
        }
    }

    #[test]
    fn the_page_says_what_was_met_and_what_the_original_did() {
        check(
            &page(&document(), "facts"),
            &[
                "| start one unit, x | 0.050 s | ≤ 0.3 s | met | 4.00 s (of 5) | 80.0 × |",
                "| slow | 1.50 s | ≤ 1 s | **missed** | 3.00 s | 2.00 × |",
                "| steady etcd writes | 0 a second | ≤ 1 a second | met | 127 a second |  |",
                "| a machine dies | 10.0 s | ≤ 10.5 s | met | TTL + 1–2 s (recorded) |  |",
                "| plain | 123 MB |  |  |  |  |",
                "| 1000 | 20000 | 90.0 ms |",
                "was measured in the same call",
            ],
        );
    }

    #[test]
    fn the_page_says_where_the_original_was_not_run_or_failed() {
        let mut document = document();
        document.original_failed = Some("it sat there".into());
        check(
            &page(&document, "facts"),
            &["not measured to the end (it sat there)"],
        );
        document.original_ran = false;
        for figure in &mut document.figures {
            figure.original = None;
        }
        check(
            &page(&document, "facts"),
            &[
                "| start one unit, x | 0.050 s | ≤ 0.3 s | met | 3.0–6.7 s (recorded) |  |",
                "| slow | 1.50 s | ≤ 1 s | **missed** |  |  |",
                "The original was not run here",
                "FLOTILLA_ORIGINAL_FLEETD",
            ],
        );
    }

    #[test]
    fn the_plot_has_four_panels_inside_its_frame() {
        let svg = svg(&document().curve);
        assert_eq!(svg.matches("<g ").count(), 4);
        assert_eq!(svg.matches("<circle ").count(), 8);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for part in svg.split("cy=\"").skip(1) {
            let at: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..=HEIGHT).contains(&at));
        }
    }
}
