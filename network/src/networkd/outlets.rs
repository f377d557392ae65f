//! The daemon's outlets: `resolv.conf`, time sources, masquerading rules, and the links' states, in that order.

use std::path::Path;

use super::manager::{ManagedLink, Manager, report};
use super::{masquerade, publish};
use crate::config::Cidr;

impl Manager {
    /// Writes everything that others read, where it changed.
    pub(super) fn publish(&mut self) {
        let sources: Vec<_> = self.links.values().map(publish::source).collect();
        let text = crate::resolv::resolv_conf(&sources);
        let written = self.writer.put(self.places.resolv_conf.clone(), text);
        report(written, "failed to write resolv.conf");
        self.publish_time(&crate::resolv::time_sources(&sources));
        self.publish_masquerading();
        // Last, because whoever waits for "online" uses what stands above.
        let status = |(index, managed): (&u32, &ManagedLink)| {
            let link = self.kernel.links.get(index)?;
            publish::status(link, &self.kernel.addresses(*index), managed)
        };
        let states: Vec<_> = self.links.iter().filter_map(status).collect();
        let written = publish::write_states(&mut self.writer, &self.places, &states);
        report(written, "failed to write the links' states");
    }

    fn publish_time(&mut self, text: &str) {
        let path = self.places.time_sources.clone();
        let changed = if text.is_empty() {
            self.writer.remove(&path)
        } else {
            self.writer.put(path, text.to_owned())
        };
        match changed {
            // A time daemon that runs reads the list again; one that starts later reads it anyway.
            Ok(true) if Path::new("/run/chrony/chronyd.pid").exists() => {
                let told = std::process::Command::new("chronyc")
                    .args(["reload", "sources"])
                    .output();
                report(told, "failed to tell the time daemon its sources");
            }
            other => report(other, "failed to write the time sources"),
        }
    }

    fn publish_masquerading(&mut self) {
        let wishes: Vec<(String, Vec<Cidr>)> = self
            .links
            .values()
            .filter_map(|managed| {
                let file = managed.managing_file()?;
                let (v4, v6) = (file.settings.masquerade_v4, file.settings.masquerade_v6);
                let networks = file.settings.addresses.iter().map(|a| a.address);
                let networks: Vec<Cidr> = networks
                    .filter(|n| if n.addr.is_ipv4() { v4 } else { v6 })
                    .collect();
                (!networks.is_empty()).then(|| (managed.facts.name.clone(), networks))
            })
            .collect();
        let rules = masquerade::rules(&wishes);
        if self
            .masquerading
            .as_ref()
            .map_or(!wishes.is_empty(), |have| *have != rules)
        {
            report(
                crate::nft::load(&rules),
                "failed to set the masquerading rules",
            );
            self.masquerading = Some(rules);
        }
    }
}
