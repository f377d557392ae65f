//! Requests that the engine hands back because only the shell knows the answer.

use init_control::{ControlError, ErrorKind, Reply, Request};
use unit_engine::RequestId;

use super::Manager;
use crate::log::{self, Level};

impl Manager {
    pub(super) fn answer(&mut self, id: RequestId, request: Request) {
        let result = match request {
            Request::Subscribe { level } => {
                self.control.subscribe(id, level);
                Ok(Reply::Done)
            }
            Request::SetLogLevel { level } => match Level::from_name(&level) {
                Some(level) => {
                    log::set_threshold(level);
                    Ok(Reply::Done)
                }
                None => Err(ControlError::invalid(format!("Unknown log level {level}."))),
            },
            other => Err(ControlError::new(
                ErrorKind::NotSupported,
                format!("Not supported: {other:?}"),
            )),
        };
        self.control.reply(id, result, &mut self.poll);
    }
}
