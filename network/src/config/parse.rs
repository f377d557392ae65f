//! From text to [`NetworkFile`]: every key of the first boot, each bad value dropped with its line.

use unit_file::{Diagnostic, Level};

use super::ini::{self, Entry, Section};
use super::keys::{
    ADDRESS, Outcome,
    Outcome::{Bad, NotYet, Taken, Unknown},
    dhcp_key, link_key, match_key, network_key, parse_address, route_key, store,
};
use super::model::{AddressSpec, Match, NetworkFile, RouteSpec};
use super::values::Cidr;

/// Reads a `.network` file and its drop-ins, given in order as `(path, text)`.
pub fn parse_network(name: &str, sources: &[(String, String)]) -> (NetworkFile, Vec<Diagnostic>) {
    let mut reader = Reader {
        file: NetworkFile {
            name: name.to_owned(),
            path: sources
                .first()
                .map(|(path, _)| path.clone())
                .unwrap_or_default(),
            ..NetworkFile::default()
        },
        remarks: Vec::new(),
        source: String::new(),
    };
    for (path, text) in sources {
        reader.source.clone_from(path);
        let (sections, remarks) = ini::parse(path, text);
        reader.remarks.extend(remarks);
        for section in &sections {
            reader.section(section);
        }
    }
    if reader.file.rule == Match::default() {
        let path = reader.file.path.clone();
        reader.remarks.push(Diagnostic {
            path,
            line: 1,
            level: Level::Warning,
            message: "nothing in [Match], so this file is for no link (Name=* means all)"
                .to_owned(),
        });
    }
    (reader.file, reader.remarks)
}

struct Reader {
    file: NetworkFile,
    remarks: Vec<Diagnostic>,
    source: String,
}

impl Reader {
    fn section(&mut self, section: &Section) {
        match section.name.as_str() {
            "Address" => return self.address(section),
            "Route" => return self.route(section),
            "Match" | "Link" | "Network" | "DHCP" | "DHCPv4" => {}
            name if name.starts_with("X-") => return,
            name => {
                let message = format!("section [{name}] is not known, ignored");
                self.remark(section.line, message);
                return;
            }
        }
        for entry in &section.entries {
            let outcome = match section.name.as_str() {
                "Match" => match_key(&mut self.file.rule, entry),
                "Link" => link_key(&mut self.file.settings, entry),
                "Network" => network_key(&mut self.file.settings, entry),
                _ => dhcp_key(&mut self.file.settings, entry),
            };
            self.judge(&section.name, entry, &outcome);
        }
    }

    fn judge(&mut self, section: &str, entry: &Entry, outcome: &Outcome) {
        let Entry { key, value, line } = entry;
        match outcome {
            Taken => {}
            Bad(want) => self.remark(
                *line,
                format!("{key}={value}: expected {want}, line ignored"),
            ),
            Unknown => self.remark(
                *line,
                format!("{key}= is not known in [{section}], ignored"),
            ),
            NotYet(what) => self.remark(*line, format!("{key}={value}: {what}")),
        }
    }

    fn remark(&mut self, line: usize, message: String) {
        self.remarks.push(Diagnostic {
            path: self.source.clone(),
            line,
            level: Level::Warning,
            message,
        });
    }

    fn address(&mut self, section: &Section) {
        let mut address = None;
        let (mut label, mut peer, mut broadcast) = (None, None, None);
        for entry in &section.entries {
            let value = entry.value.as_str();
            let outcome = match entry.key.as_str() {
                "Address" => store(&mut address, parse_address(value), ADDRESS),
                "Label" if value.len() < 16 && !value.is_empty() => {
                    store(&mut label, Some(value.to_owned()), "")
                }
                "Label" => Bad("1 to 15 characters"),
                "Peer" => store(&mut peer, Cidr::parse(value).map(|c| c.addr), "an address"),
                "Broadcast" => store(&mut broadcast, value.parse().ok(), "an IPv4 address"),
                _ => Unknown,
            };
            self.judge("Address", entry, &outcome);
        }
        match address {
            Some(address) => {
                self.file.settings.addresses.push(AddressSpec {
                    address,
                    label,
                    peer,
                    broadcast,
                });
            }
            None => self.remark(
                section.line,
                "[Address] without a valid Address=, ignored".to_owned(),
            ),
        }
    }

    fn route(&mut self, section: &Section) {
        let mut route = RouteSpec::default();
        for entry in &section.entries {
            let outcome = route_key(&mut route, entry);
            self.judge("Route", entry, &outcome);
        }
        if route.destination.is_none() && route.gateway.is_none() {
            self.remark(
                section.line,
                "[Route] with neither Destination= nor Gateway=, ignored".to_owned(),
            );
        } else if route.destination.is_some_and(|d| {
            route
                .gateway
                .is_some_and(|g| g.is_ipv4() != d.addr.is_ipv4())
        }) {
            self.remark(
                section.line,
                "[Route] with addresses of two families, ignored".to_owned(),
            );
        } else {
            self.file.settings.routes.push(route);
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
