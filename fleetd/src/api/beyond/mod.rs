//! What the original never had, below `/flotilla/v1`.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `whoami` | GET | name, role, via; also while etcd is away |
//! | `machines` | GET | machines with offers, reservations and cordons |
//! | `machines/ID/cordon`, `/drain`, `/uncordon` | POST | 204 |
//! | `rebalance` | POST | 202; `{"budget":N}` if wanted |
//! | `rebalance` | GET | whether a request waits, and the moves of the last one |
//! | `explain/NAME` | GET | why a unit is where it is, and what each machine has for or against it |
//! | `units/NAME/restart` | POST | 202 |
//! | `units/NAME/result` | GET | what came of a batch unit, 404 if nothing yet |
//! | `units/NAME/states` | GET | the unit on all its machines, and the last restart asked for |
//! | `units/NAME/journal?lines=N&machine=ID` | GET | text, from whichever machine it is on |
//! | `units/NAME/turns` | GET, POST, DELETE | the machines that may take over a new text that is rolled out; 404 if none is |
//! | `events` | GET | server-sent events, see [`Hub`] |

mod events;
mod explain;
mod journal;
mod machines;
mod orders;
mod runs;
mod turns;

use fleet_model::UnitName;
use fleet_model::wire::flotilla::WhoAmI;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

pub use events::Hub;

use self::orders::MachineOrder;

use super::reply::Reply;
use super::{Api, Caller};

/// Answers with who the caller is.
pub(super) fn whoami(caller: &Caller, method: &Method) -> Reply {
    if method != Method::GET {
        return Reply::not_allowed();
    }
    Reply::json(&WhoAmI {
        name: caller.name.clone(),
        role: caller.role.map_or("none", super::Role::as_str).to_owned(),
        via: caller.via.as_str().to_owned(),
    })
}

impl Api {
    pub(super) async fn beyond(
        &self,
        caller: &Caller,
        segments: &[&str],
        request: Request<Incoming>,
    ) -> Reply {
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or("").to_owned();
        let order = |machine, order| self.order_machine(caller, machine, order);
        match (segments, &method) {
            (["events"], &Method::GET) => self.hub.answer(&self.mirror).await,
            (["explain", name], &Method::GET) => self.explain_unit(name).await,
            (["machines"], &Method::GET) => self.machines_with_load().await,
            (["machines", id, "cordon"], &Method::POST) => order(id, MachineOrder::Cordon).await,
            (["machines", id, "drain"], &Method::POST) => order(id, MachineOrder::Drain).await,
            (["machines", id, "uncordon"], &Method::POST) => {
                order(id, MachineOrder::Uncordon).await
            }
            (["rebalance"], &Method::GET) => self.rebalancing().await,
            (["rebalance"], &Method::POST) => self.ask_rebalance(request).await,
            (["units", name, "journal"], &Method::GET) => self.unit_journal(name, &query).await,
            (["units", name, "result"], &Method::GET) => self.unit_result(name),
            (["units", name, "restart"], &Method::POST) => self.restart_unit(name).await,
            (["units", name, "states"], &Method::GET) => self.unit_runs(name).await,
            (["units", name, "turns"], &Method::GET) => self.unit_turns(name),
            (["units", name, "turns"], &Method::POST) => self.give_turns(name, request).await,
            (["units", name, "turns"], &Method::DELETE) => self.end_turns(name).await,
            (
                ["events" | "machines" | "rebalance"]
                | ["machines", _, "cordon" | "drain" | "uncordon"]
                | ["explain", _]
                | [
                    "units",
                    _,
                    "journal" | "result" | "restart" | "states" | "turns",
                ],
                _,
            ) => Reply::not_allowed(),
            _ => Reply::not_found(),
        }
    }

    /// A unit that exists, by the name in a path.
    fn known(&self, name: &str) -> Result<UnitName, Reply> {
        let desired = self.mirror.read();
        let found = desired.units.get_key_value(name).map(|(n, _)| n.clone());
        found.ok_or_else(|| Reply::error(StatusCode::NOT_FOUND, "unit does not exist"))
    }
}
