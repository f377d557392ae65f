//! `pull`, and pulling on behalf of `run`.

use super::args::{Args, Flag, switch, value};
use super::{Context, Failure, table};
use oci_image::manifest::{Descriptor, Platform};
use oci_image::pull::{Options, Progress, PullError, Step, pull as fetch};
use oci_image::registry::RegistryError;
use oci_image::store::{Image, StoreError};
use oci_image::{Reference, Store};
use sd_daemon::State;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Its flags.
pub const FLAGS: &[Flag] = &[
    switch("all-tags", 'a', "Download all tags (not supported)"),
    switch("quiet", 'q', "No progress"),
    switch("disable-content-trust", '\0', "Accepted, without meaning"),
    value("platform", '\0', "Accepted where it is this machine's"),
];

/// Lines on a terminal or every 10 s, and more time from the manager while bytes come.
struct Lines {
    quiet: bool,
    terminal: bool,
    to_stderr: bool,
    state: Mutex<Shown>,
}

struct Shown {
    done: BTreeMap<String, (u64, u64)>,
    last: Instant,
    notified: Option<Instant>,
    open_line: bool,
}

impl Lines {
    fn new(quiet: bool, to_stderr: bool) -> Lines {
        Lines {
            quiet,
            terminal: if to_stderr {
                std::io::stderr().is_terminal()
            } else {
                std::io::stdout().is_terminal()
            },
            to_stderr,
            state: Mutex::new(Shown {
                done: BTreeMap::new(),
                last: Instant::now(),
                notified: None,
                open_line: false,
            }),
        }
    }

    fn say(&self, text: &str, open: bool) {
        if self.quiet {
            return;
        }
        let end = if open { "" } else { "\n" };
        // A closed pipe must not end a pull.
        let _ = if self.to_stderr {
            write!(std::io::stderr(), "{text}{end}")
        } else {
            let mut out = std::io::stdout();
            write!(out, "{text}{end}").and_then(|()| out.flush())
        };
    }
}

impl Progress for Lines {
    fn layer(&self, layer: &Descriptor, step: Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .notified
            .is_none_or(|at| at.elapsed() > Duration::from_secs(5))
        {
            state.notified = Some(Instant::now());
            let _ = sd_daemon::notify(&[
                State::ExtendTimeout(Duration::from_secs(60)),
                State::Status("pulling the image"),
            ]);
        }
        let id = layer.digest.short().to_owned();
        let text = match step {
            Step::Exists => "Already exists",
            Step::Downloaded => "Download complete",
            Step::Extracting => "Extracting",
            Step::Complete => "Pull complete",
            Step::Downloading(bytes) => {
                state.done.insert(id, (bytes, layer.size));
                let pause = if self.terminal {
                    Duration::from_millis(200)
                } else {
                    Duration::from_secs(10)
                };
                if state.last.elapsed() < pause {
                    return;
                }
                state.last = Instant::now();
                let (have, all) = state
                    .done
                    .values()
                    .fold((0, 0), |(have, all), (done, size)| {
                        (have + done, all + size)
                    });
                let line = format!("Downloading {}/{}", table::size(have), table::size(all));
                if self.terminal {
                    state.open_line = true;
                    self.say(&format!("\r{line:<60}"), true);
                } else {
                    self.say(&line, false);
                }
                return;
            }
        };
        if std::mem::take(&mut state.open_line) {
            self.say(&format!("\r{:<60}\r", ""), true);
        }
        if step != Step::Downloaded && step != Step::Extracting || self.terminal {
            self.say(&format!("{id}: {text}"), false);
        }
    }
}

fn name_of(text: &str) -> Result<Reference, Failure> {
    text.parse::<Reference>()
        .map_err(|error| Failure::plain(1, error.to_string()))
}

fn explain(error: PullError) -> Failure {
    match error {
        PullError::Registry(
            error @ (RegistryError::Denied(_)
            | RegistryError::NoManifest(_)
            | RegistryError::Blocked(_)),
        ) => Failure::daemon(error.to_string()),
        PullError::Registry(error) => Failure::daemon(format!("failed to pull: {error}")),
        other => Failure::of(&other),
    }
}

/// `docker pull`.
pub fn pull(context: &Context, args: &Args) -> Result<i32, Failure> {
    let name = name_of(&args.words[0])?;
    if args.on("all-tags") {
        return Err(Failure::plain(
            1,
            "pulling all tags is not supported; name one tag",
        ));
    }
    if let Some(wanted) = args.get("platform")
        && !is_ours(wanted)
    {
        let own = Platform::host();
        return Err(Failure::plain(
            1,
            format!(
                "--platform {wanted}: only images of this machine's platform can run here ({}/{})",
                own.os, own.architecture
            ),
        ));
    }
    let store = context.host.store()?;
    let quiet = args.on("quiet");
    if !quiet {
        if let (None, true) = (
            &name.digest,
            !args.words[0].contains('@') && !has_tag(&args.words[0]),
        ) {
            println!("Using default tag: latest");
        }
        println!("{}: Pulling from {}", name.manifest_id(), name.repository);
    }
    let pulled = fetch(
        &store,
        &context.options.registry(),
        &name,
        options(context),
        &Lines::new(quiet, false),
    )
    .map_err(explain)?;
    let shown = full_name(&name);
    if quiet {
        println!("{shown}");
        return Ok(0);
    }
    println!("Digest: {}", pulled.digest);
    if pulled.new {
        println!("Status: Downloaded newer image for {name}");
    } else {
        println!("Status: Image is up to date for {name}");
    }
    println!("{shown}");
    Ok(0)
}

/// `linux/amd64`, with or without a variant, or the architecture alone.
fn is_ours(platform: &str) -> bool {
    let own = Platform::host();
    let mut parts = platform.split('/');
    match (parts.next(), parts.next()) {
        (Some(os), Some(architecture)) => os == own.os && architecture == own.architecture,
        (Some(architecture), None) => architecture == own.architecture,
        _ => false,
    }
}

fn has_tag(text: &str) -> bool {
    text.rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'))
}

fn full_name(name: &Reference) -> String {
    let mut text = format!("{}/{}", name.registry, name.repository);
    if let Some(tag) = &name.tag {
        text.push(':');
        text.push_str(tag);
    }
    if let Some(digest) = &name.digest {
        text.push_str(&format!("@{digest}"));
    }
    text
}

fn options(context: &Context) -> Options {
    Options {
        keep_blobs: context.options.keep_blobs,
        ..Options::default()
    }
}

/// The image of `run` and `create`, pulled as `policy` says.
pub fn ensure(
    context: &Context,
    store: &Store,
    typed: &str,
    policy: &str,
    quiet: bool,
) -> Result<Image, Failure> {
    let missing = || Failure::daemon(format!("No such image: {typed}"));
    if policy != "always" {
        match store.find(typed) {
            Ok(image) => return Ok(image),
            Err(StoreError::NoSuchImage(_)) if policy == "missing" => {}
            Err(StoreError::NoSuchImage(_)) if policy == "never" => return Err(missing()),
            Err(StoreError::NoSuchImage(_)) => {
                return Err(Failure::usage(format!(
                    "invalid pull option: '{policy}': must be one of \"always\", \"missing\" or \"never\""
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let name = typed
        .parse::<Reference>()
        .map_err(|error| Failure::usage(error.to_string()))?;
    if policy != "always" && !quiet {
        eprintln!("Unable to find image '{name}' locally");
    }
    if !quiet {
        eprintln!("{}: Pulling from {}", name.manifest_id(), name.repository);
    }
    let pulled = fetch(
        store,
        &context.options.registry(),
        &name,
        options(context),
        &Lines::new(quiet, true),
    )
    .map_err(explain)?;
    if !quiet {
        eprintln!(
            "Digest: {}\nStatus: Downloaded newer image for {name}",
            pulled.digest
        );
    }
    Ok(pulled.image)
}
