//! Messages to the service manager, which must never make us wait: the manager itself may be waiting for us to take a log
//! line, and then neither would ever go on.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sd_daemon::{Notifier, State};

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    /// Start-up is done, with a line for people.
    Ready(String),
    /// Another line for people.
    Status(String),
    /// Still alive.
    Watchdog,
    /// About to end.
    Stopping,
    /// Keep this connection under this name.
    Store(String, OwnedFd),
    /// The connection of this name has ended.
    Remove(String),
}

/// What is still to be said.
#[derive(Debug)]
pub(crate) struct Outbox {
    notifier: Option<Notifier>,
    queue: VecDeque<Message>,
}

impl Outbox {
    /// An outbox to the manager, if there is one.
    pub(crate) fn new() -> Self {
        let notifier = Notifier::from_env().unwrap_or_else(|err| {
            tracing::warn!("{}", telemetry::chain(&err));
            None
        });
        Self {
            notifier,
            queue: VecDeque::new(),
        }
    }

    /// Becomes writable when [`Outbox::send`] should be called.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.notifier.as_ref().map(AsFd::as_fd)
    }

    /// Says it now, or later in order.
    pub(crate) fn push(&mut self, message: Message) {
        if self.notifier.is_none() {
            return;
        }
        if let Message::Remove(name) = &message {
            // What was never handed over needs no removal.
            let before = self.queue.len();
            self.queue
                .retain(|m| !matches!(m, Message::Store(stored, _) if stored == name));
            if self.queue.len() < before {
                return;
            }
        }
        self.queue.push_back(message);
        self.send();
    }

    /// Says as much as the manager takes.
    pub(crate) fn send(&mut self) {
        let Some(notifier) = &self.notifier else {
            return;
        };
        while let Some(message) = self.queue.front() {
            let sent = match message {
                Message::Ready(line) => {
                    notifier.send(&[State::Ready, State::Status(line)], &[], None)
                }
                Message::Status(line) => notifier.send(&[State::Status(line)], &[], None),
                Message::Watchdog => notifier.send(&[State::Watchdog], &[], None),
                Message::Stopping => notifier.send(&[State::Stopping], &[], None),
                Message::Store(name, fd) => {
                    notifier.send(&[State::FdStore, State::FdName(name)], &[fd.as_fd()], None)
                }
                Message::Remove(name) => {
                    notifier.send(&[State::FdStoreRemove, State::FdName(name)], &[], None)
                }
            };
            match sent {
                Err(err) if err.is_full() => return,
                Err(err) => tracing::debug!("{}", telemetry::chain(&err)),
                Ok(()) => {}
            }
            self.queue.pop_front();
        }
    }
}
