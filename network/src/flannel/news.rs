//! What the kernel tells that can concern the overlay, from a thread of its own that sleeps in `poll` nearly always.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::plan::PROTO_FLANNEL;
use crate::netlink::address::{RTM_DELADDR, RTM_NEWADDR};
use crate::netlink::link::{RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::route::RTM_DELROUTE;
use crate::netlink::{Address, Link, Monitor, Route};

/// One piece of news.
#[derive(Debug, Clone, Copy)]
pub(super) enum News {
    /// A link or its addresses changed, or it went.
    Link(u32),
    /// One of our routes went.
    RouteGone,
    /// More happened than could be listened to.
    SomeLost,
}

/// Starts listening.
pub(super) fn listen(mut monitor: Monitor) -> std::io::Result<mpsc::Receiver<News>> {
    let (sender, receiver) = mpsc::channel(256);
    std::thread::Builder::new()
        .name("netlink".to_owned())
        .spawn(move || {
            loop {
                let mut fds = [PollFd::new(&monitor, PollFlags::IN)];
                if poll(&mut fds, None).is_err_and(|e| e != Errno::INTR) {
                    return;
                }
                if read(&mut monitor)
                    .into_iter()
                    .any(|n| sender.blocking_send(n).is_err())
                {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

fn read(monitor: &mut Monitor) -> Vec<News> {
    let mut news = Vec::new();
    let complete = monitor.drain(|message| {
        let body = message.body;
        news.extend(match message.kind {
            RTM_NEWLINK | RTM_DELLINK => Link::parse(body).map(|l| News::Link(l.index)),
            RTM_NEWADDR | RTM_DELADDR => Address::parse(body).map(|a| News::Link(a.index)),
            RTM_DELROUTE => Route::parse(body)
                .filter(|r| r.proto == PROTO_FLANNEL)
                .map(|_| News::RouteGone),
            _ => None,
        });
    });
    if !complete.unwrap_or(false) {
        news.push(News::SomeLost);
    }
    news
}
