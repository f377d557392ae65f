//! `state`: what the machines say of the units on them.
//!
//! Which states there are is read, by their keys, for the first page; the pages that follow go on in
//! what was found then, if they are asked for soon. So each page costs its own states, and listing
//! them all is not quadratic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet_model::wire;
use fleet_model::{MachineId, Phase, UnitName, UnitState};
use hyper::StatusCode;

use super::paging::Page;
use super::request::query_values;
use super::{Api, Reply};
use crate::registry::RegistryError;

/// How long what was found for a first page is good for those that follow.
const FRESH: Duration = Duration::from_secs(10);
/// Lists of several clients that are kept at once.
const LISTINGS: usize = 4;

type Records = Arc<[(UnitName, MachineId)]>;
type State = (UnitName, MachineId, UnitState);

/// Lists that clients are reading page by page.
#[derive(Debug, Default)]
pub struct Listings(Mutex<Vec<Listing>>);

#[derive(Debug)]
struct Listing {
    since: Instant,
    /// Of this machine only.
    machine: Option<String>,
    records: Records,
    /// For each page known so far, which record is the first that may be on it.
    starts: BTreeMap<u16, usize>,
}

impl Listings {
    /// Where a page begins, in a list that is still good.
    fn find(&self, machine: Option<&str>, page: u16) -> Option<(Records, usize)> {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lists = lists.iter().rev();
        lists.find_map(|list| {
            let fits = list.machine.as_deref() == machine && list.since.elapsed() < FRESH;
            let start = list.starts.get(&page).filter(|_| fits)?;
            Some((list.records.clone(), *start))
        })
    }

    /// Notes where the page after `page` begins; a list ends with its last page.
    fn note(&self, machine: Option<String>, records: &Records, page: u16, next: Option<usize>) {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|list| list.since.elapsed() < FRESH);
        let known = lists.iter().position(|l| Arc::ptr_eq(&l.records, records));
        match (known, next) {
            (Some(known), Some(next)) => {
                lists[known].starts.insert(page.saturating_add(1), next);
            }
            (Some(known), None) => {
                lists.remove(known);
            }
            (None, Some(next)) => {
                if lists.len() == LISTINGS {
                    lists.remove(0);
                }
                lists.push(Listing {
                    since: Instant::now(),
                    machine,
                    records: records.clone(),
                    starts: BTreeMap::from([(page.saturating_add(1), next)]),
                });
            }
            (None, None) => {}
        }
    }
}

impl Api {
    pub(super) async fn list_states(&self, query: &str) -> Reply {
        let page = match Page::from_query(query, self.page_limit) {
            Ok(page) => page,
            Err(reply) => return reply,
        };
        // The first value counts, and an empty one is none.
        let filter = |key| {
            let first = query_values(query, key).into_iter().next();
            first.filter(|value| !value.is_empty())
        };
        let (machine, unit) = (filter("machineID"), filter("unitName"));
        let name = unit.as_deref().map(UnitName::parse);
        let read = match &name {
            // No unit can have that name.
            Some(Err(_)) => Ok(page.cut(Vec::new())),
            Some(Ok(name)) => self.cut_states(page, Some(name), machine.as_deref()).await,
            None => self.page_of_states(page, machine).await,
        };
        match read {
            Ok((states, next_page_token)) => Reply::json(&wire::UnitStatePage {
                states: states.iter().map(to_wire).collect(),
                next_page_token,
            }),
            Err(error) => Reply::failed(&error),
        }
    }

    /// A page cut from the states of one unit or of all, read as they are now.
    async fn cut_states(
        &self,
        page: Page,
        unit: Option<&UnitName>,
        machine: Option<&str>,
    ) -> Result<(Vec<State>, String), RegistryError> {
        let mut states = self.registry.states(unit.map(|name| (name, name))).await?;
        states.retain(|(_, on, state)| {
            is_told(state) && machine.is_none_or(|machine| machine == on.as_str())
        });
        Ok(page.cut(states))
    }

    async fn page_of_states(
        &self,
        page: Page,
        machine: Option<String>,
    ) -> Result<(Vec<State>, String), RegistryError> {
        let found = match page.number() {
            1 => {
                let mut records = self.registry.recorded().await?;
                if let Some(machine) = &machine {
                    records.retain(|(_, on)| on.as_str() == machine);
                }
                Some((Records::from(records), 0))
            }
            number => self.listings.find(machine.as_deref(), number),
        };
        let Some((records, mut next)) = found else {
            return self.cut_states(page, None, machine.as_deref()).await;
        };
        let mut states = Vec::with_capacity(page.limit());
        while states.len() < page.limit() && next < records.len() {
            let end = records.len().min(next + page.limit() - states.len());
            let read = self.registry.states_of(&records[next..end]).await?;
            states.extend(read.into_iter().filter(|(_, _, state)| is_told(state)));
            next = end;
        }
        let full = states.len() == page.limit();
        self.listings
            .note(machine, &records, page.number(), full.then_some(next));
        Ok((states, page.next_token(full)))
    }

    pub(super) async fn get_state(&self, name: &str) -> Reply {
        let missing = || Reply::error(StatusCode::NOT_FOUND, "unit state does not exist");
        let Ok(name) = UnitName::parse(name) else {
            return missing();
        };
        match self.registry.states(Some((&name, &name))).await {
            Ok(states) => states
                .iter()
                .find(|(_, _, state)| is_told(state))
                .map_or_else(missing, |state| Reply::json(&to_wire(state))),
            Err(error) => Reply::failed(&error),
        }
    }
}

/// A machine that is about to take a unit has said nothing of it yet.
fn is_told(state: &UnitState) -> bool {
    state.phase != Phase::Claimed
}

pub(super) fn to_wire((name, machine, state): &State) -> wire::UnitState {
    wire::UnitState {
        name: name.to_string(),
        hash: state.hash.clone(),
        machine_id: machine.to_string(),
        systemd_load_state: state.load.clone(),
        systemd_active_state: state.active.clone(),
        systemd_sub_state: state.sub.clone(),
    }
}
