//! The zone, kept up to date by following the announcements in the registry.

use std::sync::{Arc, PoisonError, RwLock};

use etcd_kv::Event;

use super::message::{self, Transport};
use super::zone::Zone;
use crate::registry::{Follow, Key, Registry, Update};

/// What is announced. Cloning is cheap and shares it.
#[derive(Debug, Clone)]
pub struct Directory {
    /// `None` until the registry was read for the first time.
    zone: Arc<RwLock<Option<Zone>>>,
}

impl Directory {
    /// Follows the registry until the runtime ends.
    #[must_use]
    pub fn start(registry: Registry) -> Self {
        let directory = Self {
            zone: Arc::default(),
        };
        let zone = directory.zone.clone();
        tokio::spawn(async move {
            let mut follow = Follow::new(registry.announcements());
            loop {
                let update = follow.next(registry.kv()).await;
                let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
                match update {
                    Update::All(kvs, serial) => {
                        let mut fresh = Zone::default();
                        for kv in &kvs {
                            set(&registry, &mut fresh, &kv.key, Some(&kv.value));
                        }
                        fresh.serial = serial;
                        *zone = Some(fresh);
                    }
                    Update::Changes(events, serial) => {
                        let zone = zone.get_or_insert_with(Zone::default);
                        for event in &events {
                            match event {
                                Event::Put { kv, .. } => {
                                    set(&registry, zone, &kv.key, Some(&kv.value));
                                }
                                Event::Delete { key, .. } => set(&registry, zone, key, None),
                            }
                        }
                        zone.serial = serial;
                    }
                }
            }
        });
        directory
    }

    /// The answer to a query, from what is known now.
    #[must_use]
    pub fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        message::answer(query, zone.as_ref(), transport)
    }
}

fn set(registry: &Registry, zone: &mut Zone, key: &[u8], value: Option<&[u8]>) {
    let Key::Announcement(segment, unit, machine) = registry.read_key(key) else {
        return;
    };
    let announcement = value.and_then(|value| registry.read_announcement(key, value));
    let service = crate::announce::service_of(&segment);
    zone.set(
        &String::from_utf8_lossy(key),
        announcement
            .as_ref()
            .map(|announcement| (service, &unit, &machine, announcement)),
    );
}
