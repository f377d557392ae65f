//! The tail of a unit's log, wherever it runs.

use bytes::Bytes;
use hyper::StatusCode;

use super::super::reply::Reply;
use super::super::request::query_values;
use super::super::{Api, machines};
use crate::logs::{LogError, MAX_LINES};

/// Lines by default.
const LINES: u32 = 100;

impl Api {
    pub(super) async fn unit_journal(&self, name: &str, query: &str) -> Reply {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(reply) => return reply,
        };
        let lines = match query_values(query, "lines").first().map(|l| l.parse()) {
            None => LINES,
            Some(Ok(n)) if (1..=MAX_LINES).contains(&n) => n,
            Some(_) => {
                return Reply::bad_request(format!("lines is not a number from 1 to {MAX_LINES}"));
            }
        };
        let (scheduled, global) = match self.mirror.read().units.get(&name) {
            Some(unit) => (unit.scheduled.clone(), unit.requirements.global),
            None => (None, false),
        };
        let asked = query_values(query, "machine").into_iter().next();
        let there = match (asked, scheduled) {
            // Of a global unit this machine's, if no other is named.
            (None, _) if global => self.me.clone(),
            (None, None) => return Reply::error(StatusCode::CONFLICT, "the unit is on no machine"),
            (None, Some(there)) => there,
            (Some(asked), there) => match self.machine_named(&asked).await {
                Ok(asked) if global || there.as_ref() == Some(&asked) => asked,
                Ok(asked) => {
                    let message = format!("the unit is not on machine {asked}");
                    return Reply::error(StatusCode::CONFLICT, message);
                }
                Err(reply) => return reply,
            },
        };
        let text = if there == self.me {
            self.logs.journal.tail(&name, lines).await
        } else {
            self.logs
                .tail_of(&self.registry, &there, &name, lines)
                .await
        };
        match text {
            Ok(text) => Reply::Text("text/plain; charset=utf-8", Bytes::from(text), &[]),
            Err(LogError::Registry(error)) => Reply::failed(&error),
            Err(error @ LogError::Slow) => {
                Reply::error(StatusCode::GATEWAY_TIMEOUT, error.to_string())
            }
            Err(LogError::Silent { machine }) => {
                let address = machines::address_of(&self.registry, &machine).await;
                let message = format!("{}: ask there{address}", LogError::Silent { machine });
                Reply::error(StatusCode::GATEWAY_TIMEOUT, message)
            }
            Err(error @ LogError::There { .. }) => {
                Reply::error(StatusCode::BAD_GATEWAY, error.to_string())
            }
            Err(error @ LogError::Read(_)) => {
                Reply::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}
