//! `scale`: so many instances of a template, numbered from 1.

use std::collections::BTreeSet;

use fleet_model::{TargetState, UnitName};

use super::up::Up;
use super::upload::{check, from_template};
use crate::api::Client;
use crate::cli::Scale;
use crate::error::Failure;
use crate::out::Out;
use crate::wait::{Patience, Waiter};

/// What makes the instances as many as wanted.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Numbers to make, lowest first.
    create: Vec<u32>,
    /// Numbers that stay.
    keep: Vec<u32>,
    /// Numbers to destroy, highest first.
    destroy: Vec<u32>,
}

fn plan(have: &BTreeSet<u32>, count: u32) -> Plan {
    Plan {
        create: (1..=count).filter(|n| !have.contains(n)).collect(),
        keep: have.iter().copied().filter(|n| *n <= count).collect(),
        destroy: have.iter().rev().copied().filter(|n| *n > count).collect(),
    }
}

/// The number of an instance; those with leading zeros and other names have none.
fn number(instance: &str) -> Option<u32> {
    let number: u32 = instance.parse().ok()?;
    (number > 0 && number.to_string() == instance).then_some(number)
}

/// The template that an argument names: `web@`, `web@.service` or a path to such a file.
fn template_of(argument: &str) -> Result<UnitName, Failure> {
    let base = argument.rsplit('/').next().unwrap_or(argument);
    let name = if base.ends_with('@') {
        format!("{base}.service")
    } else {
        base.to_owned()
    };
    UnitName::parse(&name)
        .ok()
        .filter(UnitName::is_template)
        .ok_or_else(|| {
            Failure::Refused(format!(
                "{argument} is no template: name one as web@.service"
            ))
        })
}

/// `scale`.
pub(crate) fn scale(client: &Client, out: &Out, args: &Scale) -> Result<(), Failure> {
    let template = template_of(&args.template)?;
    let instance = |n: u32| {
        let (stem, kind) = (template.prefix(), template.kind());
        format!("{stem}@{n}.{kind}")
    };
    let mut have = BTreeSet::new();
    let mut others = Vec::new();
    for unit in client.units()? {
        let Ok(name) = UnitName::parse(&unit.name) else {
            continue;
        };
        if name.template().as_ref() != Some(&template) {
            continue;
        }
        match number(name.instance()) {
            Some(number) => drop(have.insert(number)),
            None => others.push(unit.name),
        }
    }
    if !others.is_empty() {
        eprintln!("Not numbered, so left alone: {}", others.join(" "));
    }
    let plan = plan(&have, args.count);
    if args.dry_run {
        for n in &plan.create {
            out.unit(&instance(*n), &[("action", "create")]);
            out.line(&format!("Would create and start {}", instance(*n)));
        }
        for n in &plan.destroy {
            out.unit(&instance(*n), &[("action", "destroy")]);
            out.line(&format!("Would destroy {}", instance(*n)));
        }
        return Ok(());
    }
    let beside = |name: &str| match args.template.rsplit_once('/') {
        Some((dir, _)) => format!("{dir}/{name}"),
        None => name.to_owned(),
    };
    let mut names = Vec::new();
    for n in &plan.create {
        let name = instance(*n);
        let file = from_template(client, &beside(&name), &name)?;
        check(template.as_str(), &name, &file)?;
        client.create(&name, &file, TargetState::Inactive)?;
        out.unit(&name, &[("action", "created")]);
        names.push(name);
    }
    // Those that are there count as instances only if they run.
    names.extend(plan.keep.iter().map(|n| instance(*n)));
    let patience = Patience::from(args.wait);
    for n in &plan.destroy {
        let name = instance(*n);
        if client.destroy(&name)? {
            out.unit(&name, &[("action", "destroyed")]);
        }
    }
    let waiter = || Waiter {
        client,
        out,
        patience,
    };
    let destroyed: Vec<String> = plan.destroy.iter().map(|n| instance(*n)).collect();
    if !args.wait.no_block {
        waiter().for_gone(&destroyed)?;
    }
    for name in &destroyed {
        out.line(&format!("Destroyed {name}"));
    }
    let up = Up {
        client,
        out,
        waiter: waiter(),
        target: TargetState::Launched,
    };
    up.bring(&names, args.wait.no_block, args.wait_active)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_made_from_below_and_destroyed_from_above() {
        for (have, count, create, keep, destroy) in [
            (&[][..], 2, &[1, 2][..], &[][..], &[][..]),
            (&[1, 3], 3, &[2], &[1, 3], &[]),
            (&[1, 2, 3, 7], 2, &[], &[1, 2], &[7, 3]),
            (&[1, 2], 0, &[], &[], &[2, 1]),
            (&[4], 4, &[1, 2, 3], &[4], &[]),
        ] {
            let have: BTreeSet<u32> = have.iter().copied().collect();
            let expect = Plan {
                create: create.to_vec(),
                keep: keep.to_vec(),
                destroy: destroy.to_vec(),
            };
            assert_eq!(plan(&have, count), expect, "{have:?} {count}");
        }
    }

    #[test]
    fn templates_and_numbers_are_told_from_other_names() {
        for (argument, expect) in [
            ("web@", Some("web@.service")),
            ("./units/web@.service", Some("web@.service")),
            ("web@.socket", Some("web@.socket")),
            ("web@1.service", None),
            ("web", None),
            ("web.service", None),
        ] {
            let got = template_of(argument).ok();
            assert_eq!(got.as_ref().map(UnitName::as_str), expect, "{argument}");
        }
        for (instance, expect) in [
            ("1", Some(1)),
            ("12", Some(12)),
            ("01", None),
            ("0", None),
            ("a", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(number(instance), expect, "{instance}");
        }
    }
}
