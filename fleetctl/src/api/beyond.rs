//! What Flotilla's fleetd answers beyond v1, below `/flotilla/v1`.
//!
//! A fleetd that does not know these resources, as the original, says 404 without a message; that
//! is [`Failure::TooOld`], so that a command can do it another way or say what is missing.

use fleet_model::BatchResult;
use fleet_model::wire::flotilla::{
    Explanation, Machine, Machines, RebalanceRequest, Rebalancing, Turns, UnitRuns,
};

use super::{Client, encode};
use crate::error::Failure;
use crate::net::{Answer, News};

const BASE: &str = "/flotilla/v1";

impl Client {
    /// One exchange; 404 without a message means that fleetd does not know the resource.
    fn beyond(
        &self,
        what: &str,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let resource = format!("{BASE}/{path}");
        let answer = self.transport.request(what, method, &resource, body)?;
        if matches!(answer.status, 404 | 405) && super::message(&answer).is_empty() {
            return Err(Failure::TooOld {
                what: what.to_owned(),
                resource,
            });
        }
        Ok(answer)
    }

    /// Why a unit is where it is; `None` if there is no such unit.
    pub(crate) fn explain(&self, name: &str) -> Result<Option<Explanation>, Failure> {
        let what = format!("explain unit {name}");
        let answer = self.beyond(&what, "GET", &format!("explain/{}", encode(name)), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.expect(&what, &answer, &[200])?;
        self.decode(&what, &answer).map(Some)
    }

    /// The machines with what they offer.
    pub(crate) fn machine_infos(&self) -> Result<Vec<Machine>, Failure> {
        let what = "list machines";
        let answer = self.beyond(what, "GET", "machines", None)?;
        self.expect(what, &answer, &[200])?;
        Ok(self.decode::<Machines>(what, &answer)?.machines)
    }

    /// `cordon`, `uncordon` or `drain` a machine.
    pub(crate) fn machine_verb(&self, id: &str, verb: &str) -> Result<(), Failure> {
        let what = format!("{verb} machine {id}");
        let path = format!("machines/{}/{verb}", encode(id));
        let answer = self.beyond(&what, "POST", &path, Some(b"{}"))?;
        self.expect(&what, &answer, &[200, 202, 204])
    }

    /// Asks the leader to even out the load.
    pub(crate) fn rebalance(&self, budget: Option<u32>) -> Result<(), Failure> {
        let what = "rebalance";
        let request = RebalanceRequest { budget };
        let body = serde_json::to_vec(&request).expect("plain numbers always serialise");
        let answer = self.beyond(what, "POST", "rebalance", Some(&body))?;
        self.expect(what, &answer, &[200, 202, 204])
    }

    /// How far the leader is with that.
    pub(crate) fn rebalancing(&self) -> Result<Rebalancing, Failure> {
        let what = "read how far rebalancing is";
        let answer = self.beyond(what, "GET", "rebalance", None)?;
        self.expect(what, &answer, &[200])?;
        self.decode(what, &answer)
    }

    /// News of changes; `None` if this fleetd has none to give, or to nobody more.
    pub(crate) fn listen(&self) -> Option<News> {
        self.transport.listen(&format!("{BASE}/events"))
    }

    /// Asks for a restart, which [`Client::runs`] tells of.
    pub(crate) fn restart(&self, name: &str) -> Result<(), Failure> {
        let what = format!("restart unit {name}");
        let path = format!("units/{}/restart", encode(name));
        let answer = self.beyond(&what, "POST", &path, Some(b"{}"))?;
        self.expect(&what, &answer, &[202])
    }

    /// A unit on each machine that has it, and the last restart asked for.
    pub(crate) fn runs(&self, name: &str) -> Result<UnitRuns, Failure> {
        let what = format!("read the states of unit {name}");
        let path = format!("units/{}/states", encode(name));
        let answer = self.beyond(&what, "GET", &path, None)?;
        self.expect(&what, &answer, &[200])?;
        self.decode(&what, &answer)
    }

    /// The machines that may take over a text that is being rolled out; `None` if none is.
    pub(crate) fn turns(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let what = format!("read how far unit {name} is rolled out");
        let answer = self.beyond(&what, "GET", &turns_path(name), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.expect(&what, &answer, &[200])?;
        Ok(Some(self.decode::<Turns>(&what, &answer)?.machines))
    }

    /// Gives more machines their turn.
    pub(crate) fn give_turns(&self, name: &str, machines: Vec<String>) -> Result<(), Failure> {
        let what = format!("roll unit {name} out");
        let body = serde_json::to_vec(&Turns { machines }).expect("plain strings always serialise");
        let answer = self.beyond(&what, "POST", &turns_path(name), Some(&body))?;
        self.expect(&what, &answer, &[204])
    }

    /// Lets all machines take over a text that was rolled out; nothing if none is.
    pub(crate) fn end_turns(&self, name: &str) -> Result<(), Failure> {
        let what = format!("end the roll-out of unit {name}");
        let answer = self.beyond(&what, "DELETE", &turns_path(name), None)?;
        self.expect(&what, &answer, &[204, 404])
    }

    /// What came of a batch unit; `None` as long as there is nothing to tell.
    pub(crate) fn result(&self, name: &str) -> Result<Option<BatchResult>, Failure> {
        let what = format!("read the result of unit {name}");
        let path = format!("units/{}/result", encode(name));
        let answer = self.beyond(&what, "GET", &path, None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        self.expect(&what, &answer, &[200])?;
        self.decode(&what, &answer).map(Some)
    }
}

fn turns_path(name: &str) -> String {
    format!("units/{}/turns", encode(name))
}
