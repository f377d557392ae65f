//! News of changes: fleetd's server-sent events, of which only that there are some is heard.
//!
//! A thread reads them. Several that come while nobody asks are one. The thread ends with the
//! connection, or with the program.

use std::io::{BufRead, BufReader, Read as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use super::Transport;
use super::http::read_head;

/// A listener.
#[derive(Debug)]
pub(crate) struct News(Receiver<()>);

/// What waiting for news gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something has changed.
    Change,
    /// Nothing, in all that time.
    Nothing,
    /// There will be no news any more.
    End,
}

impl Transport {
    /// Listens to a stream of events; `None` if there is none.
    pub(crate) fn listen(&self, path: &str) -> Option<News> {
        let mut stream = self.connect().ok()?;
        self.send(&mut stream, "GET", path, None).ok()?;
        let head = read_head(&mut stream).ok()??;
        if self.debug {
            eprintln!(
                "fleetctl: debug: GET {}{path}: {}",
                self.endpoint, head.status
            );
        }
        if head.status != 200 {
            return None;
        }
        let (sender, receiver) = sync_channel(1);
        let events = BufReader::new(std::io::Cursor::new(head.rest).chain(stream));
        std::thread::spawn(move || pass_on(events, &sender));
        Some(News(receiver))
    }
}

fn pass_on(events: impl BufRead, to: &SyncSender<()>) {
    for line in events.split(b'\n') {
        let Ok(line) = line else { return };
        // Every event ends with its data.
        if line.starts_with(b"data:")
            && matches!(to.try_send(()), Err(TrySendError::Disconnected(())))
        {
            return;
        }
    }
}

impl News {
    /// Waits for news, at most so long.
    pub(crate) fn wait(&self, longest: Duration) -> Heard {
        match self.0.recv_timeout(longest) {
            Ok(()) => Heard::Change,
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_heard_and_comments_are_not() {
        let moment = Duration::from_millis(1);
        for (text, expect) in [
            ("", &[Heard::End][..]),
            (": keep-alive\n\n", &[Heard::End]),
            ("event: reset\ndata: {}\n\n", &[Heard::Change, Heard::End]),
            (
                "event: units\ndata: {}\n\nevent: units\ndata: {}\n\n: x\n\n",
                &[Heard::Change, Heard::End],
            ),
        ] {
            let (sender, receiver) = sync_channel(1);
            pass_on(text.as_bytes(), &sender);
            drop(sender);
            let news = News(receiver);
            for heard in expect {
                assert_eq!(news.wait(moment), *heard, "{text:?}");
            }
        }
        let (sender, receiver) = sync_channel(1);
        assert_eq!(News(receiver).wait(moment), Heard::Nothing);
        drop(sender);
    }
}
