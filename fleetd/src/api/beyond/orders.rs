//! Orders to machines and units: cordon, drain, rebalance, restart; and what came of batch units.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_model::MachineId;
use fleet_model::wire::flotilla::{RebalanceRequest, Rebalancing};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::super::reply::Reply;
use super::super::request::read_json_or_nothing;
use super::super::{Api, Caller};
use crate::clock::rfc3339;
use crate::registry::{Cordon, Rebalance};

/// Units that a rebalance may move when the caller does not say.
const BUDGET: u32 = 10;
/// Units that one may ask for.
const MAX_BUDGET: u32 = 10_000;
/// Shortest part of an ID that names a machine.
const SHORTEST_PREFIX: usize = 8;

/// What to do with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MachineOrder {
    Cordon,
    Drain,
    Uncordon,
}

impl Api {
    pub(super) async fn order_machine(
        &self,
        caller: &Caller,
        given: &str,
        order: MachineOrder,
    ) -> Reply {
        let machine = match self.machine_named(given).await {
            Ok(machine) => machine,
            Err(reply) => return reply,
        };
        let cordon = Cordon {
            drain: order == MachineOrder::Drain,
            since: rfc3339(SystemTime::now()),
            by: caller.name.clone(),
        };
        let cordon = (order != MachineOrder::Uncordon).then_some(&cordon);
        match self.registry.set_cordon(&machine, cordon).await {
            Ok(revision) => {
                self.mirror.caught_up(revision).await;
                Reply::Empty(StatusCode::NO_CONTENT)
            }
            Err(error) => Reply::failed(&error),
        }
    }

    /// The machine that `given` names: one that is present or cordoned, whole or by an unambiguous
    /// beginning of at least 8 characters.
    pub(super) async fn machine_named(&self, given: &str) -> Result<MachineId, Reply> {
        let present = self.registry.machines().await;
        let mut known: Vec<MachineId> = match present {
            Ok(machines) => machines.into_iter().map(|(id, _)| id).collect(),
            Err(error) => return Err(Reply::failed(&error)),
        };
        known.extend(self.mirror.read().cordons.keys().cloned());
        pick(&known, given)
    }

    pub(super) async fn ask_rebalance(&self, request: Request<Incoming>) -> Reply {
        let asked: RebalanceRequest = match read_json_or_nothing(request.into_body()).await {
            Ok(asked) => asked.unwrap_or_default(),
            Err(reply) => return reply,
        };
        let budget = asked.budget.unwrap_or(BUDGET);
        if !(1..=MAX_BUDGET).contains(&budget) {
            return Reply::bad_request(format!("budget is not from 1 to {MAX_BUDGET}"));
        }
        let request = Rebalance {
            budget,
            requested: rfc3339(SystemTime::now()),
        };
        match self.registry.ask_rebalance(&request).await {
            Ok(_) => Reply::Empty(StatusCode::ACCEPTED),
            Err(error) => Reply::failed(&error),
        }
    }

    /// Whether a request to rebalance waits for the leader, and what came of the last one.
    pub(super) async fn rebalancing(&self) -> Reply {
        match self.registry.rebalancing().await {
            Ok((request, moves, revision)) => {
                // Who reads next where these units are shall see them on their way.
                self.mirror.caught_up(revision).await;
                Reply::json(&Rebalancing {
                    pending: request.is_some(),
                    moved: moves.moved,
                    units: moves.units,
                })
            }
            Err(error) => Reply::failed(&error),
        }
    }

    pub(super) async fn restart_unit(&self, name: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        if let Some(why) = &self.no_manager {
            return Reply::error(StatusCode::CONFLICT, why);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nonce = now.map_or(1, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        match self.registry.ask_restart(&name, nonce).await {
            Ok(Some(revision)) => {
                self.mirror.caught_up(revision).await;
                Reply::Empty(StatusCode::ACCEPTED)
            }
            Ok(None) => Reply::error(StatusCode::NOT_FOUND, "unit does not exist"),
            Err(error) => Reply::failed(&error),
        }
    }

    pub(super) fn unit_result(&self, name: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        match self.mirror.read().results.get(&name) {
            Some(result) => Reply::json(&**result),
            None => Reply::error(StatusCode::NOT_FOUND, "the unit has no result"),
        }
    }
}

/// The one of `known` that `given` names.
fn pick(known: &[MachineId], given: &str) -> Result<MachineId, Reply> {
    if let Some(exact) = known.iter().find(|id| id.as_str() == given) {
        return Ok(exact.clone());
    }
    let mut hits: Vec<&MachineId> = known
        .iter()
        .filter(|id| given.len() >= SHORTEST_PREFIX && id.as_str().starts_with(given))
        .collect();
    hits.sort();
    hits.dedup();
    match hits[..] {
        [one] => Ok(one.clone()),
        [] => Err(Reply::error(
            StatusCode::NOT_FOUND,
            "no such machine is present",
        )),
        _ => Err(Reply::bad_request("more than one machine is named so")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_whole_or_by_an_unambiguous_beginning() {
        let known: Vec<MachineId> = [
            "m1",
            "aaaaaaaa1111",
            "aaaaaaaa2222",
            "aaaaaaaa2222",
            "bbbbbbbb",
        ]
        .iter()
        .map(|id| MachineId::parse(id).unwrap())
        .collect();
        for (given, expect) in [
            ("m1", Ok("m1")),
            ("m", Err(StatusCode::NOT_FOUND)),
            ("aaaaaaaa1", Ok("aaaaaaaa1111")),
            ("aaaaaaaa2", Ok("aaaaaaaa2222")),
            ("aaaaaaaa", Err(StatusCode::BAD_REQUEST)),
            ("bbbbbbb", Err(StatusCode::NOT_FOUND)),
            ("bbbbbbbb", Ok("bbbbbbbb")),
            ("bbbbbbbbb", Err(StatusCode::NOT_FOUND)),
        ] {
            let picked = match pick(&known, given) {
                Ok(id) => Ok(id.to_string()),
                Err(Reply::Error(status, _)) => Err(status),
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(picked, expect.map(str::to_owned), "{given}");
        }
    }
}
