//! The client's states.
//!
//! ```text
//!            start, no lease                     offer
//!  Stopped ───────────────▶ Selecting ─────────────────────▶ Requesting
//!     │                        ▲  ▲ ▲    4 requests unanswered, NAK │ ack
//!     │ start, kept lease      │  │ └──────────────────────────────┤
//!     └─────────▶ Rebooting ───┘  │ expiry, NAK                    ▼
//!                     └─ ack ─────┼─────── Rebinding ◀─T2─ Renewing ◀─T1─ Bound
//! ```
//!
//! Must stay true: a lease that has not ended is only given up on a NAK or for a new one, so a silent server or a pulled
//! cable costs nothing; an action list never asks for two sends at once.

use std::fmt;
use std::net::Ipv4Addr;

use super::lease::Lease;
use super::message::{Kind, Message, option};
use crate::netlink::Mac;

/// What the client says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Hardware address of the link.
    pub mac: Mac,
    /// Option 61.
    pub client_id: Vec<u8>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 60.
    pub vendor_class: Option<String>,
    /// Answers must be broadcast.
    pub broadcast: bool,
    /// Discoveries before giving up.
    pub max_attempts: Option<u32>,
    /// An address outlives its lease.
    pub keep_expired: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The link can carry packets: begin, with the lease of an earlier run if there is one.
    Start(Option<&'a Lease>),
    /// The link lost its carrier: wait.
    CarrierLost,
    /// A message arrived.
    Received(&'a Message),
    /// Time passed.
    Tick,
}

/// How a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// As a frame, without an address.
    Frame,
    /// From the lease's address to its server.
    Server {
        /// Own address.
        from: Ipv4Addr,
        /// The server.
        to: Ipv4Addr,
    },
    /// From the lease's address to all.
    Everyone {
        /// Own address.
        from: Ipv4Addr,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this message.
    Send(Via, Message),
    /// Put this lease into force.
    Acquired(Lease),
    /// Take this lease's settings away.
    Lost(Lease),
    /// Tell people.
    Note(Note),
}

/// Things people want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Nobody answers.
    NoAnswer {
        /// Messages sent.
        tries: u32,
        /// Seconds since the first.
        seconds: u64,
    },
    /// `MaxAttempts=` is reached.
    GaveUp {
        /// Messages sent.
        tries: u32,
    },
    /// The server refused.
    Refused {
        /// Its words.
        why: String,
    },
    /// The lease ended without a renewal.
    Expired,
    /// The server of a kept lease did not answer; the lease goes on.
    KeptUnconfirmed,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { tries, seconds } => {
                write!(
                    f,
                    "no DHCP server has answered {tries} requests in {seconds} s, still trying"
                )
            }
            Self::GaveUp { tries } => {
                write!(
                    f,
                    "no DHCP server has answered {tries} requests, giving up (MaxAttempts=)"
                )
            }
            Self::Refused { why } if why.is_empty() => {
                write!(f, "the DHCP server refused the address")
            }
            Self::Refused { why } => write!(f, "the DHCP server refused the address: {why:?}"),
            Self::Expired => write!(f, "the DHCP lease ended and no server has prolonged it"),
            Self::KeptUnconfirmed => {
                write!(
                    f,
                    "no DHCP server has confirmed the kept lease, it stays until it ends"
                )
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    sent: u32,
    next: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Stopped,
    GaveUp,
    Selecting(Retry),
    Requesting { offer: Box<Lease>, retry: Retry },
    Rebooting { retry: Retry, moved: bool },
    Bound,
    Renewing { next: u64 },
    Rebinding { next: u64 },
}

const REBOOT_TRIES: u32 = 3;
const REQUEST_TRIES: u32 = 4;
const LONGEST_WAIT: u64 = 64_000;
const SHORTEST_RENEWAL: u64 = 60_000;

/// A client for one link.
#[derive(Debug)]
pub struct Client {
    params: Params,
    phase: Phase,
    lease: Option<Lease>,
    xid: u32,
    /// When the present attempt to get a lease began.
    began: u64,
    /// When the last request was sent, from which the granted time counts.
    requested: u64,
    refusals: u32,
    random: u64,
}

impl Client {
    /// A client that waits for [`Event::Start`]. `seed` should differ between machines.
    pub fn new(params: Params, seed: u64) -> Self {
        Self {
            params,
            phase: Phase::Stopped,
            lease: None,
            xid: 0,
            began: 0,
            requested: 0,
            refusals: 0,
            random: seed | 1,
        }
    }

    /// The lease in force.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// What it was told about itself.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Whether it waits to be started.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Whether it has what it wants, or has given up wanting.
    pub fn is_settled(&self) -> bool {
        self.lease.is_some() || self.phase == Phase::GaveUp
    }

    /// Whether it waits for answers to frames.
    pub fn wants_frames(&self) -> bool {
        matches!(
            self.phase,
            Phase::Selecting(_) | Phase::Requesting { .. } | Phase::Rebooting { .. }
        )
    }

    /// The address it waits for answers at.
    pub fn wants_datagrams(&self) -> Option<Ipv4Addr> {
        match self.phase {
            Phase::Renewing { .. } | Phase::Rebinding { .. } => {
                self.lease.as_ref().map(|l| l.address)
            }
            _ => None,
        }
    }

    /// A word for status displays.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Stopped => "stopped",
            Phase::GaveUp => "failed",
            Phase::Selecting(_) => "selecting",
            Phase::Requesting { .. } => "requesting",
            Phase::Rebooting { .. } => "rebooting",
            Phase::Bound => "bound",
            Phase::Renewing { .. } => "renewing",
            Phase::Rebinding { .. } => "rebinding",
        }
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<u64> {
        let lease = self.lease.as_ref();
        let own = match &self.phase {
            Phase::Stopped | Phase::GaveUp => None,
            Phase::Selecting(retry)
            | Phase::Requesting { retry, .. }
            | Phase::Rebooting { retry, .. } => Some(retry.next),
            Phase::Bound => lease.and_then(Lease::renews),
            Phase::Renewing { next } => lease.and_then(Lease::rebinds).map(|t2| t2.min(*next)),
            Phase::Rebinding { next } => Some(*next),
        };
        let end = lease.and_then(Lease::expires).filter(|_| self.end_counts());
        own.into_iter().chain(end).min()
    }

    /// Whether the lease's end is an event: a kept address only passes it once, while it is being prolonged.
    fn end_counts(&self) -> bool {
        let prolonging = matches!(
            self.phase,
            Phase::Renewing { .. } | Phase::Rebinding { .. } | Phase::Bound
        );
        !self.params.keep_expired || prolonging
    }

    /// The next state and what is to be done.
    pub fn handle(&mut self, now: u64, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start(kept) => self.start(now, kept, &mut out),
            Event::CarrierLost => self.phase = Phase::Stopped,
            Event::Received(message) => self.received(now, message, &mut out),
            Event::Tick => {}
        }
        self.tick(now, &mut out);
        out
    }

    fn start(&mut self, now: u64, kept: Option<&Lease>, out: &mut Vec<Action>) {
        let moved = self.lease.is_some();
        let good = |l: &&Lease| !moved && l.expires().is_none_or(|end| end > now);
        if let Some(kept) = kept.filter(good) {
            self.lease = Some(kept.clone());
            out.push(Action::Acquired(kept.clone()));
        }
        self.begin(now);
        if self.lease.is_some() {
            self.phase = Phase::Rebooting {
                retry: Retry { sent: 0, next: now },
                moved,
            };
        }
    }

    /// A new attempt: new transaction, discovery at once.
    fn begin(&mut self, now: u64) {
        self.new_transaction(now);
        self.phase = Phase::Selecting(Retry { sent: 0, next: now });
    }

    fn new_transaction(&mut self, now: u64) {
        self.xid = u32::try_from(self.next_random() >> 32).unwrap_or(1);
        self.began = now;
    }

    fn tick(&mut self, now: u64, out: &mut Vec<Action>) {
        let ended = self
            .lease
            .as_ref()
            .and_then(Lease::expires)
            .is_some_and(|end| end <= now);
        if ended && self.end_counts() {
            self.expire(now, out);
        }
        if self.deadline().is_none_or(|due| due > now) {
            return;
        }
        match self.phase.clone() {
            Phase::Stopped | Phase::GaveUp => {}
            Phase::Selecting(retry) => self.discover(now, retry, out),
            Phase::Requesting { offer, retry } if retry.sent < REQUEST_TRIES => {
                self.request(now, &offer, out);
                self.phase = Phase::Requesting {
                    offer,
                    retry: self.again(now, retry),
                };
            }
            Phase::Requesting { .. } => {
                self.begin(now);
                self.tick(now, out);
            }
            Phase::Rebooting { retry, moved } => self.reboot(now, retry, moved, out),
            phase @ (Phase::Bound | Phase::Renewing { .. } | Phase::Rebinding { .. }) => {
                if phase == Phase::Bound {
                    self.new_transaction(now);
                }
                let t2 = self.lease.as_ref().and_then(Lease::rebinds);
                self.prolong(now, t2.is_some_and(|t2| t2 <= now), out);
            }
        }
    }

    fn expire(&mut self, now: u64, out: &mut Vec<Action>) {
        out.push(Action::Note(Note::Expired));
        if !self.params.keep_expired
            && let Some(lease) = self.lease.take()
        {
            out.push(Action::Lost(lease));
        }
        if !matches!(self.phase, Phase::Stopped) {
            self.begin(now);
        }
    }

    fn discover(&mut self, now: u64, retry: Retry, out: &mut Vec<Action>) {
        let seconds = now.saturating_sub(self.began) / 1000;
        if self
            .params
            .max_attempts
            .is_some_and(|most| retry.sent >= most)
        {
            self.phase = Phase::GaveUp;
            out.push(Action::Note(Note::GaveUp { tries: retry.sent }));
            return;
        }
        // After 7, 63, and then every 640 seconds: often enough to be found, seldom enough to be read.
        let later = retry.sent > 6 && (retry.sent - 6).is_multiple_of(10);
        if retry.sent == 3 || retry.sent == 6 || later {
            out.push(Action::Note(Note::NoAnswer {
                tries: retry.sent,
                seconds,
            }));
        }
        let mut message = self.message(now, Kind::Discover);
        if let Some(lease) = &self.lease {
            let wish = lease.address.octets().to_vec();
            message.options.insert(option::REQUESTED_ADDRESS, wish);
        }
        out.push(Action::Send(Via::Frame, message));
        self.phase = Phase::Selecting(self.again(now, retry));
    }

    fn request(&mut self, now: u64, offer: &Lease, out: &mut Vec<Action>) {
        self.requested = now;
        let mut message = self.message(now, Kind::Request);
        message
            .options
            .insert(option::REQUESTED_ADDRESS, offer.address.octets().to_vec());
        message
            .options
            .insert(option::SERVER_ID, offer.server.octets().to_vec());
        out.push(Action::Send(Via::Frame, message));
    }

    fn reboot(&mut self, now: u64, retry: Retry, moved: bool, out: &mut Vec<Action>) {
        let Some(address) = self.lease.as_ref().map(|l| l.address) else {
            return self.begin(now);
        };
        if retry.sent < REBOOT_TRIES {
            self.requested = now;
            let mut message = self.message(now, Kind::Request);
            message
                .options
                .insert(option::REQUESTED_ADDRESS, address.octets().to_vec());
            out.push(Action::Send(Via::Frame, message));
            self.phase = Phase::Rebooting {
                retry: self.again(now, retry),
                moved,
            };
            return;
        }
        out.push(Action::Note(Note::KeptUnconfirmed));
        if moved {
            // The cable may be in another network now: look for a server there while the old lease still stands.
            self.begin(now);
        } else {
            self.phase = Phase::Bound;
        }
        self.tick(now, out);
    }

    fn prolong(&mut self, now: u64, everyone: bool, out: &mut Vec<Action>) {
        let Some(lease) = self.lease.clone() else {
            return self.begin(now);
        };
        self.requested = now;
        let mut message = self.message(now, Kind::Request);
        message.ciaddr = lease.address;
        let limit = if everyone {
            lease.expires()
        } else {
            lease.rebinds()
        };
        let left = limit.unwrap_or(u64::MAX).saturating_sub(now);
        let next = now.saturating_add((left / 2).max(SHORTEST_RENEWAL));
        let via = if everyone {
            self.phase = Phase::Rebinding { next };
            Via::Everyone {
                from: lease.address,
            }
        } else {
            self.phase = Phase::Renewing { next };
            Via::Server {
                from: lease.address,
                to: lease.server,
            }
        };
        out.push(Action::Send(via, message));
    }

    fn received(&mut self, now: u64, message: &Message, out: &mut Vec<Action>) {
        if !message.reply || message.xid != self.xid || message.chaddr != self.params.mac {
            return;
        }
        let asked = matches!(
            self.phase,
            Phase::Requesting { .. }
                | Phase::Rebooting { .. }
                | Phase::Renewing { .. }
                | Phase::Rebinding { .. }
        );
        match (&self.phase, message.kind()) {
            (Phase::Selecting(_), Some(Kind::Offer)) => {
                if let Some(offer) = Lease::from_message(message, now) {
                    let retry = Retry { sent: 0, next: now };
                    self.phase = Phase::Requesting {
                        offer: Box::new(offer),
                        retry,
                    };
                }
            }
            (_, Some(Kind::Ack)) if asked => self.acknowledged(message, out),
            (_, Some(Kind::Nak)) if asked => self.refused(now, message, out),
            _ => {}
        }
    }

    fn acknowledged(&mut self, message: &Message, out: &mut Vec<Action>) {
        // An acknowledgement of a renewal may leave out who sent it.
        let mut message = message.clone();
        if let Some(lease) = &self.lease {
            let server = lease.server.octets().to_vec();
            message.options.entry(option::SERVER_ID).or_insert(server);
        }
        if let Some(lease) = Lease::from_message(&message, self.requested) {
            self.refusals = 0;
            self.phase = Phase::Bound;
            self.lease = Some(lease.clone());
            out.push(Action::Acquired(lease));
        }
    }

    fn refused(&mut self, now: u64, message: &Message, out: &mut Vec<Action>) {
        // In Requesting the refusal is about the offer; a lease that still stands is another matter.
        if !matches!(self.phase, Phase::Requesting { .. })
            && let Some(lease) = self.lease.take()
        {
            out.push(Action::Lost(lease));
        }
        let why = message.text(option::MESSAGE).unwrap_or_default();
        out.push(Action::Note(Note::Refused { why }));
        self.begin(now);
        if self.refusals > 0 {
            let wait = (1000 << self.refusals.min(6)).min(LONGEST_WAIT);
            self.phase = Phase::Selecting(Retry {
                sent: 0,
                next: now + wait,
            });
        }
        self.refusals += 1;
    }

    /// 1 2 4 … 64 seconds, each a little shifted so that machines that booted together do not speak together.
    fn again(&mut self, now: u64, retry: Retry) -> Retry {
        let wait = (1000 << retry.sent.min(6)).min(LONGEST_WAIT);
        let shift = self.next_random() % (wait / 8);
        Retry {
            sent: retry.sent + 1,
            next: now + wait - wait / 16 + shift,
        }
    }

    fn message(&self, now: u64, kind: Kind) -> Message {
        let mut message = Message::request(kind, self.xid, self.params.mac);
        message.secs = u16::try_from(now.saturating_sub(self.began) / 1000).unwrap_or(u16::MAX);
        message.broadcast = self.params.broadcast;
        let wanted = [1, 3, 6, 12, 15, 26, 28, 33, 42, 51, 54, 58, 59, 119, 121];
        let mut put = |code, value: Vec<u8>| message.options.insert(code, value);
        put(option::PARAMETERS, wanted.to_vec());
        put(option::MAX_SIZE, 1472u16.to_be_bytes().to_vec());
        put(option::CLIENT_ID, self.params.client_id.clone());
        if let Some(name) = &self.params.hostname {
            put(option::HOSTNAME, name.clone().into_bytes());
        }
        if let Some(class) = &self.params.vendor_class {
            put(option::VENDOR_CLASS, class.clone().into_bytes());
        }
        message
    }

    /// Xorshift: good enough to tell transactions apart, and the same in every test run.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
