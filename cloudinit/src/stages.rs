//! The three stages of a boot.
//!
//! ```text
//! local     no network yet: find the source, keep the documents, host name, files of networkd
//! config    fetch what needs the network, addresses, everything up to the reload; keep the commands
//! commands  the unit commands, one after the other; nothing is ordered after this stage
//! ```
//!
//! What a stage leaves for the next is in `/run/flotilla/cloudinit`, readable by root only. Each stage
//! may run again in the same boot: changes are idempotent, and commands run once unless the
//! configuration stage ran again. A failure is remembered and makes the stage exit 1; it never stops
//! the other documents.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::apply::root::{FsError, Perm, own};
use crate::apply::{Applier, NetworkRestart, Patience, Root, Summary, Units};
use crate::config;
use crate::datasource::choose::{self, Pending};
use crate::datasource::http::Client;
use crate::datasource::{Fetched, cmdline};
use crate::input::{self, Input};
use crate::metadata::{Addresses, MetaData};
use crate::net;
use crate::netconf;
use crate::plan::{self, Change, text};
use crate::run::{Companion, Session, remember};
use crate::subst;

const STATE: &str = "/run/flotilla/cloudinit";
const KEPT: &str = "/var/lib/flotilla/cloudinit";
const OEM_DOCUMENT: &str = "/usr/share/oem/cloud-config.yml";
const INSTALL_DOCUMENT: &str = "/var/lib/coreos-install/user_data";

/// A stage of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the network.
    Local,
    /// With the network.
    Config,
    /// Unit commands.
    Commands,
}

impl std::str::FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "local" => Ok(Stage::Local),
            "config" => Ok(Stage::Config),
            "commands" => Ok(Stage::Commands),
            other => Err(format!(
                "unknown stage {other} (use local, config or commands)"
            )),
        }
    }
}

/// Whose document it is; the order is the order of application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    Vendor,
    Oem,
    Install,
    Platform,
    Url,
}

impl Origin {
    /// What messages call its document.
    fn name(self) -> &'static str {
        match self {
            Origin::Vendor => "vendor-data",
            Origin::Oem => OEM_DOCUMENT,
            Origin::Install => INSTALL_DOCUMENT,
            Origin::Platform => "user-data",
            Origin::Url => "document of cloud-config-url=",
        }
    }

    /// Each origin has key sets of its own, so that none takes another's keys away.
    fn key_set(self, base: &str) -> String {
        match self {
            Origin::Vendor => format!("{base}-vendor"),
            Origin::Oem => format!("{base}-oem"),
            Origin::Install => format!("{base}-install"),
            Origin::Platform => base.to_owned(),
            Origin::Url => format!("{base}-url"),
        }
    }
}

/// What the local stage found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    source: String,
    meta: MetaData,
    documents: Vec<Kept>,
    pending: Option<Pending>,
    url: Option<String>,
}

/// A document on its way to the next stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    origin: Origin,
    file: String,
}

/// Settings of a stage.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kernel's command line.
    pub words: Vec<String>,
    /// Longest wait for metadata and addresses together.
    pub timeout: Duration,
    /// Workspace for scripts.
    pub workspace: PathBuf,
    /// Name of the key sets.
    pub key_set: String,
    /// Print the plan instead of performing it.
    pub dry_run: bool,
    /// Whether there is a service manager to talk to: not below another root.
    pub manager: bool,
}

/// What a stage did.
#[derive(Debug, Default)]
pub struct Report {
    /// Changes.
    pub summary: Summary,
    /// Errors that make the stage fail.
    pub errors: Vec<String>,
    /// With `dry_run`: the plan.
    pub planned: Vec<Change>,
}

impl Report {
    fn absorb(&mut self, done: (Summary, Option<crate::apply::ApplyError>)) {
        self.errors.extend(done.0.problems.iter().cloned());
        self.summary.absorb(done.0);
        if let Some(error) = done.1 {
            remember(&mut self.errors, telemetry::chain(&error));
        }
    }
}

/// Why a stage could not run at all.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The state of this boot cannot be kept or read.
    #[error("cannot use the state of this boot in {STATE}")]
    State(#[source] FsError),
    /// The state is not what an earlier stage writes.
    #[error("{0} is not readable")]
    Broken(String, #[source] serde_json::Error),
}

/// Runs one stage.
pub fn run(
    stage: Stage,
    root: &Root,
    units: &mut dyn Units,
    options: &Options,
) -> Result<Report, StageError> {
    match stage {
        Stage::Local => local(root, units, options),
        Stage::Config => config_stage(root, units, options),
        Stage::Commands => commands(root, units, options),
    }
}

fn keep(root: &Root, name: &str, bytes: &[u8]) -> Result<(), StageError> {
    let dir = Path::new(STATE);
    let fd = root.directory(dir, true).map_err(StageError::State)?;
    own(fd.as_fd(), Perm::root(0o700)).map_err(|e| {
        StageError::State(FsError::Io {
            what: "own",
            path: STATE.to_owned(),
            source: e.into(),
        })
    })?;
    root.write(&dir.join(name), bytes, Perm::root(0o600))
        .map_err(StageError::State)?;
    Ok(())
}

fn kept(root: &Root, name: &str) -> Result<Option<Vec<u8>>, StageError> {
    root.read(&Path::new(STATE).join(name))
        .map_err(StageError::State)
}

fn keep_json<T: Serialize>(root: &Root, name: &str, value: &T) -> Result<(), StageError> {
    let bytes =
        serde_json::to_vec_pretty(value).map_err(|e| StageError::Broken(name.to_owned(), e))?;
    keep(root, name, &bytes)
}

fn kept_json<T: for<'de> Deserialize<'de>>(
    root: &Root,
    name: &str,
) -> Result<Option<T>, StageError> {
    let Some(bytes) = kept(root, name)? else {
        return Ok(None);
    };
    let value =
        serde_json::from_slice(&bytes).map_err(|e| StageError::Broken(name.to_owned(), e))?;
    Ok(Some(value))
}

/// Documents with their bytes, in order of application.
type Documents = Vec<(Origin, Vec<u8>)>;

fn gather(root: &Root, options: &Options, report: &mut Report) -> (State, Documents) {
    let live_path = if root.is_live() {
        PathBuf::from("/")
    } else {
        root.path().to_owned()
    };
    let choice = choose::local(&live_path, &options.words).unwrap_or_else(|error| {
        remember(&mut report.errors, telemetry::chain(&error));
        choose::Choice::default()
    });
    let mut documents = Documents::new();
    add_fetched(&mut documents, &choice.fetched);
    for (origin, path) in [
        (Origin::Oem, OEM_DOCUMENT),
        (Origin::Install, INSTALL_DOCUMENT),
    ] {
        match root.read(Path::new(path)) {
            Ok(Some(bytes)) if !bytes.is_empty() => documents.push((origin, bytes)),
            Ok(_) => {}
            Err(error) => remember(&mut report.errors, telemetry::chain(&error)),
        }
    }
    documents.sort_by_key(|(origin, _)| *origin);
    let state = State {
        source: choice.source,
        meta: choice.fetched.meta,
        documents: Vec::new(),
        pending: choice.pending,
        url: cmdline::config_url(&options.words),
    };
    (state, documents)
}

fn add_fetched(documents: &mut Documents, fetched: &Fetched) {
    if !fetched.vendor_data.is_empty() {
        documents.push((Origin::Vendor, fetched.vendor_data.clone()));
    }
    // Present even when empty: the meta-data comes with it.
    documents.retain(|(origin, _)| *origin != Origin::Platform);
    documents.push((Origin::Platform, fetched.user_data.clone()));
}

/// The kind of change that is made before the network comes up.
fn is_early(change: &Change) -> bool {
    match change {
        // A name with an address in it has to wait for the address.
        Change::SetHostname { name } => !name.contains('$'),
        Change::WriteFile { path, .. } | Change::Link { path, .. } => {
            ["/etc/systemd/network", "/run/systemd/network"]
                .iter()
                .any(|d| path.starts_with(d))
        }
        _ => false,
    }
}

fn local(root: &Root, units: &mut dyn Units, options: &Options) -> Result<Report, StageError> {
    let mut report = Report::default();
    let (mut state, documents) = gather(root, options, &mut report);
    if state.source.is_empty() {
        tracing::info!("no source of user data found on this machine");
    } else {
        tracing::info!(
            source = state.source,
            instance = state.meta.instance_id,
            "source found"
        );
    }
    for (index, (origin, bytes)) in documents.iter().enumerate() {
        let file = format!("document-{index}");
        if !options.dry_run {
            keep(root, &file, bytes)?;
        }
        state.documents.push(Kept {
            origin: *origin,
            file,
        });
    }
    if !options.dry_run {
        keep_json(root, "state.json", &state)?;
    }
    let documents = without_unwanted_vendor(documents);
    let session = Session {
        root,
        addresses: Addresses::default(),
        instance: state.meta.instance_id.clone(),
        client: Client::new(),
        offline: true,
    };
    let network_files = network_files(&state.meta, &mut report);
    for (origin, bytes) in documents {
        let with = companion(origin, &state.meta, &network_files, options);
        let prepared = session.prepare(&bytes, &with);
        // The next stage reads the document again and says what is wrong with it.
        let changes: Vec<Change> = prepared.changes.into_iter().filter(is_early).collect();
        perform(root, units, options, &state.meta, changes, &mut report);
    }
    Ok(report)
}

fn companion(
    origin: Origin,
    meta: &MetaData,
    network_files: &[(String, String)],
    options: &Options,
) -> Companion {
    let platform = origin == Origin::Platform;
    Companion {
        name: origin.name().to_owned(),
        meta: if platform {
            meta.clone()
        } else {
            MetaData::default()
        },
        key_set: origin.key_set(&options.key_set),
        network_files: if platform {
            network_files.to_vec()
        } else {
            Vec::new()
        },
    }
}

fn network_files(meta: &MetaData, report: &mut Report) -> Vec<(String, String)> {
    let mut files = Vec::new();
    if let Some(text) = &meta.network_config {
        match netconf::nocloud::convert(text) {
            Ok((made, notes)) => {
                notes.iter().for_each(|note| tracing::warn!("{note}"));
                files.extend(made);
            }
            Err(error) => remember(&mut report.errors, format!("network-config: {error}")),
        }
    }
    if let Some(text) = &meta.debian_network {
        match netconf::debian::convert(text) {
            Ok(made) => files.extend(made),
            Err(error) => report
                .errors
                .push(format!("network settings of the drive: {error}")),
        }
    }
    files
}

fn perform(
    root: &Root,
    units: &mut dyn Units,
    options: &Options,
    meta: &MetaData,
    changes: Vec<Change>,
    report: &mut Report,
) {
    if options.dry_run {
        report.planned.extend(changes);
        return;
    }
    let mut applier = Applier {
        root,
        manager: options.manager,
        units,
        // The last stage is the only one that nothing waits for.
        patience: Patience::UnlessBlocked,
        network_restart: NetworkRestart::IfChanged,
        workspace: options.workspace.clone(),
        instance: meta.instance_id.clone(),
    };
    report.absorb(applier.apply(&changes));
}

/// The user may switch the vendor's document off.
fn without_unwanted_vendor(mut documents: Documents) -> Documents {
    let unwanted = documents.iter().any(|(origin, bytes)| {
        *origin > Origin::Oem
            && matches!(input::classify(bytes), Ok(Input::Document(text))
                if config::tree(&text).ok().flatten()
                    .and_then(|root| config::from_tree(&root).ok())
                    .is_some_and(|c| c.vendor_data_disabled))
    });
    if unwanted {
        tracing::info!("vendor-data is switched off by user-data");
        documents.retain(|(origin, _)| *origin != Origin::Vendor);
    }
    documents
}

fn config_stage(
    root: &Root,
    units: &mut dyn Units,
    options: &Options,
) -> Result<Report, StageError> {
    let mut report = Report::default();
    let deadline = Instant::now() + options.timeout;
    let (mut state, mut documents) = match kept_json::<State>(root, "state.json")? {
        Some(state) => {
            let mut documents = Documents::new();
            for Kept { origin, file } in &state.documents {
                documents.push((*origin, kept(root, file)?.unwrap_or_default()));
            }
            (state, documents)
        }
        // The local stage did not run: an image without it, or a test.
        None => gather(root, options, &mut report),
    };
    let client = Client::new().until(deadline);
    fetch_rest(&mut state, &mut documents, &client, &mut report);
    let documents = without_unwanted_vendor(documents);

    let addresses = addresses(
        root,
        &state.meta,
        &documents,
        deadline,
        options,
        &mut report,
    )?;
    let session = Session {
        root,
        addresses,
        instance: state.meta.instance_id.clone(),
        client: Client::new(),
        offline: false,
    };
    let network_files = network_files(&state.meta, &mut report);
    let mut later = Vec::new();
    for (origin, bytes) in &documents {
        let with = companion(*origin, &state.meta, &network_files, options);
        let prepared = session.prepare(bytes, &with);
        report.errors.extend(prepared.errors);
        let (commands, now): (Vec<_>, Vec<_>) =
            prepared.changes.into_iter().partition(Change::is_command);
        later.extend(commands);
        perform(root, units, options, &state.meta, now, &mut report);
    }
    if options.dry_run {
        report.planned.extend(later);
    } else {
        keep_json(root, "commands.json", &later)?;
        root.remove(&Path::new(STATE).join("commands.done"))
            .map_err(StageError::State)?;
    }
    Ok(report)
}

/// Fetches the seed and the document that the command line names.
fn fetch_rest(state: &mut State, documents: &mut Documents, client: &Client, report: &mut Report) {
    if let Some(pending) = &state.pending {
        match choose::fetch_pending(pending, client) {
            Ok(fetched) => {
                add_fetched(documents, &fetched);
                state.meta = fetched.meta;
            }
            Err(error) => remember(&mut report.errors, telemetry::chain(&error)),
        }
    }
    if let Some(url) = &state.url {
        match client.get(url) {
            Ok(bytes) => documents.push((Origin::Url, bytes)),
            Err(error) => remember(&mut report.errors, telemetry::chain(&error)),
        }
    }
    documents.sort_by_key(|(origin, _)| *origin);
}

/// The addresses for this boot: the source's, else the operator's in `/etc/environment`, else found.
fn addresses(
    root: &Root,
    meta: &MetaData,
    documents: &Documents,
    deadline: Instant,
    options: &Options,
    report: &mut Report,
) -> Result<Addresses, StageError> {
    let environment = root
        .read_text(Path::new("/etc/environment"))
        .map_err(StageError::State)?
        .unwrap_or_default();
    let list = Path::new(KEPT).join("detected");
    let earlier = root
        .read_text(&list)
        .map_err(StageError::State)?
        .unwrap_or_default();
    let mut operator = text::addresses_of_environment(&environment);
    for name in earlier.lines() {
        // Detection put it there: look again.
        if let Some(slot) = operator.slot(name) {
            slot.clear();
        }
    }
    let mut known = meta.addresses.clone();
    known.fill_from(&operator);
    if !root.is_live() {
        return Ok(known);
    }
    let needed = needed_addresses(documents, &known);
    let left = deadline.saturating_duration_since(Instant::now());
    match net::detect(&needed, left) {
        Ok((found, why)) => {
            let detected: Vec<&str> = known
                .pairs()
                .iter()
                .zip(found.pairs())
                .filter(|((_, have), (_, new))| have.is_empty() && !new.is_empty())
                .map(|((name, _), _)| *name)
                .collect();
            if !detected.is_empty() {
                tracing::info!("addresses of this machine: {}", why.join(", "));
            }
            if !options.dry_run {
                let mut text = detected.join("\n");
                text.push('\n');
                root.write(&list, text.as_bytes(), Perm::root(0o644))
                    .map_err(StageError::State)?;
            }
            known.fill_from(&found);
        }
        Err(error) => report
            .errors
            .push(format!("cannot look at the network: {error}")),
    }
    Ok(known)
}

/// Names that a document uses, itself or through `/etc/environment`, and that nobody has given yet.
fn needed_addresses(documents: &Documents, known: &Addresses) -> Vec<&'static str> {
    let mut needed = Vec::new();
    for (_, bytes) in documents {
        let text = match input::classify(bytes) {
            Ok(Input::Document(text) | Input::Script(text)) => text,
            _ => continue,
        };
        needed.extend(subst::addresses_used(&text));
        // Units of a cluster read COREOS_PRIVATE_IPV4 from the environment file.
        let indirect = ["COREOS_P", "/etc/environment", "fleet", "flannel", "etcd"];
        if indirect.iter().any(|word| text.contains(word)) {
            needed.push("private_ipv4");
        }
    }
    needed.retain(|name| known.pairs().iter().any(|(n, v)| n == name && v.is_empty()));
    needed
}

fn commands(root: &Root, units: &mut dyn Units, options: &Options) -> Result<Report, StageError> {
    let mut report = Report::default();
    let changes: Vec<Change> = kept_json(root, "commands.json")?.unwrap_or_default();
    if options.dry_run {
        report.planned = changes;
        return Ok(report);
    }
    if root.exists(&Path::new(STATE).join("commands.done")) {
        tracing::info!("the commands of this boot were given already");
        return Ok(report);
    }
    let state: State = kept_json(root, "state.json")?.unwrap_or_default();
    keep(root, "commands.done", b"")?;
    let mut applier = Applier {
        root,
        manager: options.manager,
        units,
        patience: Patience::Forever,
        network_restart: NetworkRestart::Always,
        workspace: options.workspace.clone(),
        instance: state.meta.instance_id,
    };
    report.absorb(applier.apply(&changes));
    Ok(report)
}

/// The plan as text or JSON.
pub fn show_plan(changes: &[Change], json: bool) -> String {
    if json {
        let mut text =
            serde_json::to_string_pretty(&serde_json::json!({ "changes": redacted(changes) }))
                .unwrap_or_default();
        text.push('\n');
        text
    } else {
        plan::render(changes)
    }
}

/// Password hashes do not belong on a terminal or in a file of a test.
fn redacted(changes: &[Change]) -> Vec<Change> {
    let mut changes = changes.to_vec();
    for change in &mut changes {
        match change {
            Change::SetPassword { hash, .. } => "(hidden)".clone_into(hash),
            Change::CreateUser(user) if user.passwd != "*" => {
                "(hidden)".clone_into(&mut user.passwd);
            }
            _ => {}
        }
    }
    changes
}
