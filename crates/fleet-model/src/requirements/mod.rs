//! The `[X-Fleet]` section: what it asks for, and which combinations make no sense.

mod metadata;
mod options;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use crate::amount::{Cpu, Reservation, parse_bytes};
use crate::glob::Glob;
use crate::machine::{MachineId, Metadata};
use crate::name::UnitName;
use crate::text::UnitFile;

use metadata::Unread;
pub use metadata::{Comparison, MetadataDemand, MetadataRule};
use options::parse_bool;
pub use options::{Announce, Batch, Partition, Proto};
pub use validate::{OptionsError, unknown_options, validate_options, validate_unit};

const SECTION: &str = "X-Fleet";

/// What a unit asks of the machine it runs on and of its engine, specifiers expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// Only this machine. An empty value, as `%i` of what is no instance, names none.
    pub machine_id: Option<String>,
    /// What the machine's metadata must be.
    pub metadata: MetadataDemand,
    /// Units that must be on the same machine.
    pub peers: BTreeSet<String>,
    /// Patterns of which each must match a unit on the same machine.
    pub peer_globs: BTreeSet<Glob>,
    /// Units that must not be on the same machine.
    pub conflicts: Vec<Glob>,
    /// Units that give way.
    pub replaces: Vec<Glob>,
    /// On every machine that qualifies.
    pub global: bool,
    /// What is set aside for it on its machine.
    pub reservation: Reservation,
    /// Units that had better not be on the same machine.
    pub prefer_conflicts: Vec<Glob>,
    /// What the machine's metadata had better be.
    pub prefer_metadata: MetadataDemand,
    /// Metadata key over whose values the instances of a template are spread.
    pub spread: Option<String>,
    /// What happens when its machine loses the cluster.
    pub partition: Partition,
    /// Ports to announce while it is active.
    pub announce: Vec<Announce>,
    /// It runs to its end.
    pub batch: Option<Batch>,
    /// Units in `After=`; true if the unit requires them too.
    pub after: BTreeMap<String, bool>,
    /// An option whose value cannot be read. Such a unit is refused, or waits.
    pub invalid: Option<Box<OptionsError>>,
}

impl Requirements {
    /// Reads the section of the unit called `name`.
    #[must_use]
    pub fn of(name: &UnitName, file: &UnitFile) -> Self {
        let mut out = Self::read(file, name.stem(), |value| expand(value, name));
        out.after.remove(name.as_str());
        out
    }

    /// Reads the section without a name, so specifiers stay as they are.
    fn unexpanded(file: &UnitFile) -> Self {
        Self::read(file, "", str::to_owned)
    }

    fn read(file: &UnitFile, stem: &str, expand: impl Fn(&str) -> String) -> Self {
        let values = |names: &[&'static str]| -> Vec<String> {
            let of = |name: &'static str| file.values(SECTION, name).collect::<Vec<_>>();
            names
                .iter()
                .flat_map(|n| of(n))
                .flat_map(|v| split_quoted(&expand(v)))
                .collect()
        };
        let globs = |names: &[&'static str]| -> Vec<Glob> {
            let values = values(names);
            values
                .iter()
                .flat_map(|v| v.split_whitespace())
                .map(Glob::new)
                .collect()
        };
        let id_keys = [
            "MachineID",
            "X-ConditionMachineID",
            "X-ConditionMachineBootID",
        ];
        let is_glob = |text: &String| text.contains(['*', '?', '[']);
        let (peer_globs, peers): (Vec<_>, Vec<_>) = values(&["MachineOf", "X-ConditionMachineOf"])
            .into_iter()
            .partition(is_glob);
        let mut invalid = Invalid::default();
        let mut metadata = MetadataDemand::default();
        for item in values(&["MachineMetadata", "X-ConditionMachineMetadata"]) {
            if let Err(Unread::Rule(reason)) = metadata.add(&item) {
                invalid.note("MachineMetadata", &item, reason);
            }
        }
        let mut prefer_metadata = MetadataDemand::default();
        for item in values(&["PreferMetadata"]) {
            match prefer_metadata.add(&item) {
                Err(Unread::Rule(reason)) => invalid.note("PreferMetadata", &item, reason),
                Err(Unread::Pair) => invalid.note("PreferMetadata", &item, "not like key=value"),
                Ok(()) => {}
            }
        }
        let peers: BTreeSet<String> = peers.into_iter().collect();
        let mut out = Self {
            machine_id: id_keys
                .into_iter()
                .find_map(|key| values(&[key]).into_iter().next()),
            metadata,
            peer_globs: peer_globs.into_iter().map(Glob::new).collect(),
            conflicts: globs(&["Conflicts", "X-Conflicts"]),
            replaces: globs(&["Replaces"]),
            global: values(&["Global"])
                .last()
                .is_some_and(|v| parse_bool(v) == Some(true)),
            reservation: limits(file),
            prefer_conflicts: globs(&["PreferConflicts"]),
            prefer_metadata,
            after: order(file, &peers, &expand),
            peers,
            ..Self::default()
        };
        for value in values(&["Memory"]) {
            match parse_bytes(&value) {
                Ok(bytes) => out.reservation.memory = bytes,
                Err(reason) => invalid.note("Memory", &value, reason),
            }
        }
        for value in values(&["CPU"]) {
            match Cpu::parse(&value) {
                Ok(cpu) => out.reservation.cpu = cpu,
                Err(reason) => invalid.note("CPU", &value, reason),
            }
        }
        for value in values(&["Spread"]) {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
            if value.is_empty() || !value.bytes().all(legal) {
                invalid.note("Spread", &value, "not a metadata key");
            } else {
                out.spread = Some(value);
            }
        }
        for value in values(&["Partition"]) {
            match value.as_str() {
                "keep" => out.partition = Partition::Keep,
                "stop" => out.partition = Partition::Stop,
                _ => invalid.note("Partition", &value, "not one of keep, stop"),
            }
        }
        for value in values(&["Announce"]) {
            match Announce::parse(&value, stem) {
                Ok(announce) => out.announce.push(announce),
                Err(reason) => invalid.note("Announce", &value, reason),
            }
        }
        out.announce.sort();
        out.announce.dedup();
        for value in values(&["Batch"]) {
            match parse_bool(&value) {
                Some(yes) => out.batch = yes.then(Batch::default),
                None => invalid.note("Batch", &value, "not one of yes, no"),
            }
        }
        for value in values(&["Retries"]) {
            match (value.parse::<u32>(), &mut out.batch) {
                (Ok(retries), Some(batch)) if retries <= 1000 => batch.retries = retries,
                (Ok(_), None) => invalid.note("Retries", &value, "needs Batch=yes"),
                _ => invalid.note("Retries", &value, "not a number from 0 to 1000"),
            }
        }
        out.invalid = invalid.0;
        out
    }

    /// Whether a machine is the one asked for.
    #[must_use]
    pub fn admits_machine(&self, id: &MachineId) -> bool {
        self.machine_id
            .as_ref()
            .is_none_or(|value| id.is_named_by(value))
    }

    /// The first thing asked of the metadata that a machine does not meet: a key, or a rule.
    #[must_use]
    pub fn missing_metadata<'a>(&'a self, metadata: &'a Metadata) -> Option<&'a str> {
        self.metadata.unmet(metadata).next()
    }

    /// Whether one of the conflict patterns matches `name`.
    #[must_use]
    pub fn conflicts_with(&self, name: &str) -> bool {
        self.conflicts.iter().any(|glob| glob.matches(name))
    }

    /// Whether one of the replace patterns matches `name`.
    #[must_use]
    pub fn replaces_unit(&self, name: &str) -> bool {
        self.replaces.iter().any(|glob| glob.matches(name))
    }
}

/// The first value that cannot be read.
#[derive(Default)]
struct Invalid(Option<Box<OptionsError>>);

impl Invalid {
    fn note(&mut self, option: &'static str, value: &str, reason: &'static str) {
        let value = value.chars().take(80).collect();
        self.0.get_or_insert_with(|| {
            Box::new(OptionsError::Value {
                option,
                value,
                reason,
            })
        });
    }
}

/// The limits of the service, which are what it reserves unless it says otherwise. A limit that
/// depends on the machine, or that only systemd can read, reserves nothing.
fn limits(file: &UnitFile) -> Reservation {
    let last = |name| file.values("Service", name).last();
    Reservation {
        memory: last("MemoryMax")
            .and_then(|v| parse_bytes(v).ok())
            .unwrap_or(0),
        cpu: last("CPUQuota")
            .filter(|v| v.ends_with('%'))
            .and_then(|v| Cpu::parse(v).ok())
            .unwrap_or_default(),
    }
}

/// The units in `After=`, and whether they are required. Peers are left to the service manager: they are
/// on the same machine.
fn order(
    file: &UnitFile,
    peers: &BTreeSet<String>,
    expand: &impl Fn(&str) -> String,
) -> BTreeMap<String, bool> {
    let names = |option| -> BTreeSet<String> {
        let values = file.values("Unit", option).map(expand);
        values
            .flat_map(|v| v.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let after = names("After");
    if after.is_empty() {
        return BTreeMap::new();
    }
    let (requires, binds) = (names("Requires"), names("BindsTo"));
    let needed = |name: &String| requires.contains(name) || binds.contains(name);
    after
        .into_iter()
        .filter(|name| !peers.contains(name) && UnitName::parse(name).is_ok())
        .map(|name| {
            let needed = needed(&name);
            (name, needed)
        })
        .collect()
}

/// `%n %N %p %i`, one after the other, nothing else.
fn expand(value: &str, name: &UnitName) -> String {
    if !value.contains('%') {
        return value.to_owned();
    }
    value
        .replace("%n", name.as_str())
        .replace("%N", name.stem())
        .replace("%p", name.prefix())
        .replace("%i", name.instance())
}

/// A value in quotes is several values, split at the blanks outside quotes; any other is one.
fn split_quoted(value: &str) -> Vec<String> {
    if value.len() < 2 || !value.starts_with('"') || !value.ends_with('"') {
        return vec![value.to_owned()];
    }
    let mut out = Vec::new();
    let (mut current, mut quoted) = (String::new(), false);
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => out.push(std::mem::take(&mut current)),
            c => current.push(c),
        }
    }
    out.push(current);
    out.retain(|v| !v.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, section: &str) -> Requirements {
        let file = UnitFile::parse(&format!("[X-Fleet]\n{section}")).unwrap();
        Requirements::of(&UnitName::parse(name).unwrap(), &file)
    }

    #[test]
    fn options_are_read_with_their_older_spellings() {
        let r = read(
            "web@1.service",
            "MachineOf=a.service\nX-ConditionMachineOf=\"b.service\" \"c.service\"\n\
             Conflicts=web@*.service api*\nX-Conflicts=%p-x@%i.service\n\
             X-ConditionMachineID=old\nMachineID=new\nMachineID=newer\n\
             MachineMetadata=\"role=core\" \"disk=ssd\"\nMachineMetadata=role=worker\n\
             MachineMetadata=broken\nMachineMetadata=a=b=c\nMachineMetadata==x\nGlobal=no\nGlobal=YES",
        );
        assert_eq!(
            r.peers.iter().collect::<Vec<_>>(),
            ["a.service", "b.service", "c.service"]
        );
        let conflicts: Vec<_> = r.conflicts.iter().map(Glob::as_str).collect();
        assert_eq!(conflicts, ["web@*.service", "api*", "web-x@1.service"]);
        assert_eq!(r.machine_id.as_deref(), Some("new"));
        assert_eq!(
            r.metadata.values.keys().collect::<Vec<_>>(),
            ["disk", "role"]
        );
        assert_eq!(r.metadata.values["role"].len(), 2);
        assert!(r.global);
        assert_eq!(
            read("a.service", "X-ConditionMachineBootID=b")
                .machine_id
                .unwrap(),
            "b"
        );
        let none = read("a.service", "MachineID=%i\nMachineID=m1");
        assert_eq!(none.machine_id.as_deref(), Some(""));
        assert!(!none.admits_machine(&MachineId::parse("m1").unwrap()));
        assert_eq!(
            read("a.service", "MachineBootID=b"),
            Requirements::default()
        );
    }

    #[test]
    fn specifiers_are_plain_replacements() {
        let name = UnitName::parse("a@b@c.service").unwrap();
        assert_eq!(
            expand("%n %N %p %i %H %%", &name),
            "a@b@c.service a@b@c a b@c %H %%"
        );
        assert_eq!(expand("%i", &UnitName::parse("x.service").unwrap()), "");
    }

    #[test]
    fn values_of_a_key_are_alternatives_and_keys_must_all_hold() {
        let r = read(
            "a.service",
            "MachineMetadata=role=core\nMachineMetadata=role=worker\nMachineMetadata=disk=ssd",
        );
        let meta = crate::parse_metadata;
        assert_eq!(r.missing_metadata(&meta("role=core,disk=ssd")), None);
        assert_eq!(r.missing_metadata(&meta("role=worker,disk=ssd")), None);
        assert_eq!(r.missing_metadata(&meta("role=db,disk=ssd")), Some("role"));
        assert_eq!(r.missing_metadata(&meta("role=core")), Some("disk"));
    }

    #[test]
    fn the_new_options_are_read() {
        let file = UnitFile::parse(
            "[Unit]\nAfter=db@%i.service network.target a.service\nAfter=log.service b\n\
             Requires=db@1.service\nBindsTo=log.service x.service\n\
             [Service]\nMemoryMax=1G\nCPUQuota=150%\n\
             [X-Fleet]\nCPU=0.5\nPreferConflicts=web@* x\nPreferMetadata=\"disk=ssd\" \"ram>=4\"\n\
             Spread=zone\nPartition=stop\nAnnounce=80\nAnnounce=\"dns:53/udp\" \"80\"\nBatch=yes\n\
             Retries=3\nMachineOf=a.service\nMachineOf=db*.service",
        )
        .unwrap();
        let name = UnitName::parse("web@1.service").unwrap();
        let r = Requirements::of(&name, &file);
        assert_eq!(r.invalid, None);
        assert_eq!(r.reservation.memory, 1 << 30);
        assert_eq!(r.reservation.cpu, Cpu::from_millis(500));
        assert_eq!(r.prefer_conflicts.len(), 2);
        assert_eq!(r.prefer_metadata.rules[0].as_str(), "ram>=4");
        assert_eq!(r.spread.as_deref(), Some("zone"));
        assert_eq!(r.partition, Partition::Stop);
        let announced: Vec<_> = r
            .announce
            .iter()
            .map(|a| (a.service.as_str(), a.port))
            .collect();
        assert_eq!(announced, [("dns", 53), ("web@1", 80)]);
        assert_eq!(r.batch, Some(Batch { retries: 3 }));
        let after: Vec<_> = r.after.iter().map(|(n, s)| (n.as_str(), *s)).collect();
        let expect = [
            ("db@1.service", true),
            ("log.service", true),
            ("network.target", false),
        ];
        assert_eq!(after, expect);
        assert_eq!(r.peers.iter().collect::<Vec<_>>(), ["a.service"]);
        assert_eq!(r.peer_globs.len(), 1);
        for (text, memory, millis) in [
            ("[Service]\nMemoryMax=infinity\nCPUQuota=", 0, 0),
            ("[Service]\nMemoryMax=10%\nCPUQuota=2", 0, 0),
            (
                "[Service]\nMemoryMax=5M\n[X-Fleet]\nMemory=0\nCPU=20%",
                0,
                200,
            ),
        ] {
            let r = Requirements::of(&name, &UnitFile::parse(text).unwrap());
            assert_eq!(
                (r.reservation.memory, r.reservation.cpu.millis()),
                (memory, millis)
            );
        }
    }
}
