//! What the units of a document say, held against the reader that PID 1 uses: a bad unit is named with its line before
//! it is on a machine.
//!
//! Only remarks: a unit that cannot be used is written all the same, for the service manager says at its start what is
//! wrong, and the rest of the document stands.

use unit_file::load::{SourceText, load};
use unit_file::specifier::MachineInfo;
use unit_file::{Level as UnitLevel, UnitName};

use super::reader::Findings;
use super::{DropIn, Unit};
use crate::finding::{Check, Level};
use crate::plan::units::{drop_in_name, is_network};
use crate::subst::addresses_used;
use crate::yaml::{Mark, Node, Style};

/// Looks at one entry of `coreos.units`; `node` is the entry.
pub(super) fn check(unit: &Unit, node: &Node, findings: &mut Findings) {
    if unit.name.is_empty() || is_network(&unit.name) || drop_in_name(&unit.name) {
        return;
    }
    let name = match UnitName::parse(&unit.name) {
        Ok(name) => name,
        Err(error) => {
            let mark = node
                .as_map()
                .and_then(|entries| entries.iter().find(|e| e.key == "name"))
                .map_or(node.mark, |entry| entry.mark);
            findings.add(Check::Unit, Level::Warning, mark, error.to_string());
            return;
        }
    };
    let mut texts: Vec<(&str, Option<&Node>)> = Vec::new();
    if !unit.content.is_empty() {
        texts.push((&unit.content, node.get("content")));
    }
    let nodes = drop_in_nodes(node);
    for DropIn { content, .. } in &unit.drop_ins {
        let node = nodes
            .iter()
            .find(|node| node.as_scalar().is_some_and(|s| s.text == *content));
        texts.push((content, node.copied()));
    }
    // The number of the text stands for its path: it comes back with each remark.
    let paths: Vec<String> = (0..texts.len()).map(|index| index.to_string()).collect();
    let sources: Vec<SourceText<'_>> = texts
        .iter()
        .zip(&paths)
        .map(|((text, _), path)| SourceText { path, text })
        .collect();
    let (_, remarks) = load(&name, &sources, &MachineInfo::default());
    for remark in remarks {
        let Some((text, place)) = remark.path.parse().ok().and_then(|i: usize| texts.get(i)) else {
            continue;
        };
        // A drop-in alone is no whole unit, and what an address will be is not known yet.
        let whole = remark.line == 0;
        let line = remark
            .line
            .checked_sub(1)
            .and_then(|at| text.lines().nth(at));
        if whole && unit.content.is_empty() || line.is_some_and(|l| !addresses_used(l).is_empty()) {
            continue;
        }
        let level = match remark.level {
            UnitLevel::Warning => Level::Warning,
            UnitLevel::Error => Level::Error,
        };
        let message = if whole {
            remark.message
        } else {
            format!("{name}: {}", remark.message)
        };
        let mark = place.map_or(node.mark, |node| place_of(node, remark.line));
        findings.add(Check::Unit, level, mark, message);
    }
}

fn drop_in_nodes(node: &Node) -> Vec<&Node> {
    let list = node.get("drop_ins").and_then(Node::as_list);
    let contents = list.into_iter().flatten().filter_map(|i| i.get("content"));
    contents.collect()
}

/// The place of a line of a text: exact in a block, else that of the text.
fn place_of(node: &Node, line: usize) -> Mark {
    let block = node.as_scalar().is_some_and(|s| s.style == Style::Block);
    let below = line.checked_sub(1).and_then(|l| u32::try_from(l).ok());
    match below {
        Some(below) if block => Mark {
            line: node.mark.line.saturating_add(below),
            ..node.mark
        },
        _ => node.mark,
    }
}
