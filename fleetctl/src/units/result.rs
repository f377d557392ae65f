//! `result`: what came of a batch unit.

use std::process::ExitCode;

use fleet_model::{BatchResult, Outcome, mangle};
use serde_json::json;

use super::{get, requirements};
use crate::api::Client;
use crate::cli::ResultOf;
use crate::error::Failure;
use crate::list::{legend, machines_by_id};
use crate::out::Out;
use crate::wait::{Look, Patience, Waiter};

/// `result`. The exit status is 0 only after success.
pub(crate) fn result(client: &Client, out: &Out, args: &ResultOf) -> Result<ExitCode, Failure> {
    let name = mangle(&args.unit);
    let unit = get(client, &name)?;
    let Some(batch) = requirements(&unit).batch else {
        return Err(Failure::Refused(format!(
            "unit {name} is no batch unit: it has no Batch=yes in [X-Fleet]"
        )));
    };
    let is_final = |result: &BatchResult| result.is_final(batch.retries);
    if args.wait {
        let patience = Patience::from_attempts(args.block_attempts);
        let waiter = Waiter {
            client,
            out,
            patience,
        };
        waiter.each(std::slice::from_ref(&name), "finished", |round, name| {
            round.unit(name)?;
            let done = client.result(name)?.as_ref().is_some_and(is_final);
            Ok(if done { Look::Done } else { Look::NotYet })
        })?;
    }
    let Some(result) = client.result(&name)? else {
        return Err(Failure::Refused(format!(
            "unit {name} has no result yet: it is {} wanted, and {}",
            unit.desired_state, unit.current_state
        )));
    };
    out.document(json!({"unit": name, "result": result, "final": is_final(&result)}));
    say(client, out, &name, &result, is_final(&result))?;
    Ok(match result.outcome {
        Outcome::Success => ExitCode::SUCCESS,
        Outcome::Failure => ExitCode::FAILURE,
    })
}

/// The line that says what came of a unit.
fn say(
    client: &Client,
    out: &Out,
    name: &str,
    result: &BatchResult,
    is_final: bool,
) -> Result<(), Failure> {
    let place = legend(&result.machine, &machines_by_id(client)?, false);
    out.line(&line(name, result, is_final, &place));
    Ok(())
}

/// Waits until batch units run, or (`to_the_end`) until they have finished; one that has finished
/// already counts as either. A failure that is final is one of ours.
pub(super) fn for_batch(
    waiter: &Waiter<'_>,
    batch: &[(String, u32)],
    to_the_end: bool,
) -> Result<(), Failure> {
    let names: Vec<String> = batch.iter().map(|(name, _)| name.clone()).collect();
    let word = if to_the_end { "finished" } else { "launched" };
    waiter.each(&names, word, |round, name| {
        let unit = round.unit(name)?;
        let retries = batch.iter().find(|(n, _)| n == name).map_or(0, |(_, r)| *r);
        let result = match waiter.client.result(name) {
            // Such a fleetd knows no batch units, and runs this one as any other.
            Err(Failure::TooOld { .. }) if !to_the_end => None,
            other => other?,
        };
        if let Some(result) = result.filter(|r| r.is_final(retries)) {
            say(waiter.client, waiter.out, name, &result, true)?;
            let (state, exit) = match result.outcome {
                Outcome::Success => ("success", None),
                Outcome::Failure => ("failure", Some(result.exit_status)),
            };
            waiter.out.unit(name, &[("state", state)]);
            return Ok(exit.map_or(Look::Done, |exit| {
                Look::Never(Failure::BatchFailed {
                    name: name.to_owned(),
                    exit,
                })
            }));
        }
        if to_the_end || unit.current_state != "launched" {
            return Ok(Look::NotYet);
        }
        waiter.say_where(&unit, "launched")?;
        Ok(Look::Done)
    })
}

fn line(name: &str, result: &BatchResult, is_final: bool, machine: &str) -> String {
    let outcome = match (result.outcome, is_final) {
        (Outcome::Success, _) => "success",
        (Outcome::Failure, true) => "failure",
        (Outcome::Failure, false) => "failure, to be tried again",
    };
    let attempts = match result.attempts {
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let mut text = format!(
        "Unit {name} {outcome}: exit status {} after {attempts}, on {machine}",
        result.exit_status
    );
    if !result.finished.is_empty() {
        text.push_str(&format!(", {}", result.finished));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn results_read_well() {
        let mut result = BatchResult {
            outcome: Outcome::Success,
            exit_status: 0,
            attempts: 1,
            machine: "m".into(),
            finished: "2026-11-28T22:00:00Z".into(),
            failures: BTreeMap::new(),
        };
        assert_eq!(
            line("a.service", &result, true, "m"),
            "Unit a.service success: exit status 0 after 1 attempt, on m, 2026-11-28T22:00:00Z"
        );
        result = BatchResult {
            outcome: Outcome::Failure,
            exit_status: 3,
            attempts: 2,
            finished: String::new(),
            ..result
        };
        assert_eq!(
            line("a.service", &result, false, "m"),
            "Unit a.service failure, to be tried again: exit status 3 after 2 attempts, on m"
        );
    }
}
