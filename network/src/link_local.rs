//! IPv4 link-local addresses (RFC 3927) without I/O: ARP frames, and the machine that claims and defends an address.

use std::net::Ipv4Addr;

use crate::netlink::Mac;

/// Ethernet protocol of ARP.
pub const ETH_P_ARP: u16 = 0x0806;

/// What an ARP frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Who speaks.
    pub sender: Mac,
    /// The address it claims; unspecified while it only asks.
    pub sender_address: Ipv4Addr,
    /// The address it speaks about.
    pub target_address: Ipv4Addr,
}

impl Arp {
    /// A broadcast request from `sender`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0xff; 6];
        out.extend_from_slice(&self.sender.0);
        out.extend_from_slice(&ETH_P_ARP.to_be_bytes());
        out.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        out.extend_from_slice(&self.sender.0);
        out.extend_from_slice(&self.sender_address.octets());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&self.target_address.octets());
        out
    }

    /// Reads a frame; `None` if it is not ARP for IPv4 over Ethernet.
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if frame.get(12..14)? != ETH_P_ARP.to_be_bytes() || frame.get(14..20)? != [0, 1, 8, 0, 6, 4]
        {
            return None;
        }
        let address = |at: usize| {
            let bytes = frame.get(at..at + 4)?.first_chunk::<4>()?;
            Some(Ipv4Addr::from(*bytes))
        };
        let sender = Mac(*frame.get(22..28)?.first_chunk::<6>()?);
        Some(Self {
            sender,
            sender_address: address(28)?,
            target_address: address(38)?,
        })
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// The link can carry packets.
    Start,
    /// It cannot any more; a claimed address stays.
    CarrierLost,
    /// A frame arrived.
    Heard(Arp),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this frame.
    Send(Arp),
    /// Nobody has the address: use it.
    Claimed(Ipv4Addr),
    /// Somebody else insists on it: stop using it.
    Lost(Ipv4Addr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    Probing { sent: u32, next: u64 },
    Announcing { sent: u32, next: u64 },
    Settled,
}

const PROBES: u32 = 3;
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_AFTER: u64 = 2000;
const DEFEND_FOR: u64 = 10_000;
const MOST_CONFLICTS: u32 = 10;
const SLOW_DOWN: u64 = 60_000;

/// Claims an address for one link.
#[derive(Debug)]
pub struct Claimer {
    mac: Mac,
    phase: Phase,
    address: Ipv4Addr,
    claimed: bool,
    conflicts: u32,
    defended: Option<u64>,
    random: u64,
}

impl Claimer {
    /// The first address tried depends on the hardware address only, so that a machine tends to keep its own.
    pub fn new(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        let seed = u64::from_be_bytes([1, 0, a, b, c, d, e, f]);
        let mut claimer = Self {
            mac,
            phase: Phase::Stopped,
            address: Ipv4Addr::UNSPECIFIED,
            claimed: false,
            conflicts: 0,
            defended: None,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        claimer.choose();
        claimer
    }

    /// Goes on with the address of an earlier run, which is in use.
    pub fn resume(mut self, address: Option<Ipv4Addr>) -> Self {
        if let Some(address) = address {
            self.address = address;
            self.claimed = true;
        }
        self
    }

    /// The address in use.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.claimed.then_some(self.address)
    }

    /// The hardware address it speaks with.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether it waits to be started.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Stopped | Phase::Settled => None,
            Phase::Probing { next, .. } | Phase::Announcing { next, .. } => Some(next),
        }
    }

    /// The next state and what is to be done.
    pub fn handle(&mut self, now: u64, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start if self.claimed => self.phase = Phase::Announcing { sent: 0, next: now },
            Event::Start => self.probe(now),
            Event::CarrierLost => self.phase = Phase::Stopped,
            Event::Heard(arp) => self.heard(now, arp, &mut out),
            Event::Tick => {}
        }
        if self.deadline().is_some_and(|due| due <= now) {
            self.tick(now, &mut out);
        }
        out
    }

    fn tick(&mut self, now: u64, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Probing { sent: PROBES, .. } => {
                self.claimed = true;
                self.conflicts = 0;
                out.push(Action::Claimed(self.address));
                out.push(Action::Send(self.frame(self.address)));
                self.phase = Phase::Announcing {
                    sent: 1,
                    next: now + ANNOUNCE_AFTER,
                };
            }
            Phase::Probing { sent, .. } => {
                out.push(Action::Send(self.frame(Ipv4Addr::UNSPECIFIED)));
                let last = sent + 1 == PROBES;
                let wait = if last {
                    ANNOUNCE_AFTER
                } else {
                    1000 + self.next_random() % 1000
                };
                self.phase = Phase::Probing {
                    sent: sent + 1,
                    next: now + wait,
                };
            }
            Phase::Announcing { sent, .. } => {
                out.push(Action::Send(self.frame(self.address)));
                self.phase = match sent + 1 >= ANNOUNCEMENTS {
                    true => Phase::Settled,
                    false => Phase::Announcing {
                        sent: sent + 1,
                        next: now + ANNOUNCE_AFTER,
                    },
                };
            }
            Phase::Stopped | Phase::Settled => {}
        }
    }

    fn probe(&mut self, now: u64) {
        let wait = if self.conflicts >= MOST_CONFLICTS {
            SLOW_DOWN
        } else {
            self.next_random() % 1000
        };
        self.phase = Phase::Probing {
            sent: 0,
            next: now + wait + 1,
        };
    }

    fn heard(&mut self, now: u64, arp: Arp, out: &mut Vec<Action>) {
        if arp.sender == self.mac || self.phase == Phase::Stopped {
            return;
        }
        let used = arp.sender_address == self.address;
        if !self.claimed {
            // Somebody has it, or asks for it at the same time.
            let wanted = arp.sender_address.is_unspecified() && arp.target_address == self.address;
            if used || wanted {
                self.conflicts += 1;
                self.choose();
                self.probe(now);
            }
        } else if used {
            if self.defended.is_none_or(|last| now - last > DEFEND_FOR) {
                self.defended = Some(now);
                out.push(Action::Send(self.frame(self.address)));
            } else {
                out.push(Action::Lost(self.address));
                self.claimed = false;
                self.defended = None;
                self.conflicts += 1;
                self.choose();
                self.probe(now);
            }
        }
    }

    fn frame(&self, sender_address: Ipv4Addr) -> Arp {
        Arp {
            sender: self.mac,
            sender_address,
            target_address: self.address,
        }
    }

    /// 169.254.1.0 to 169.254.254.255: the first and last 256 are reserved.
    fn choose(&mut self) {
        let n = u16::try_from(256 + self.next_random() % (254 * 256)).unwrap_or(256);
        let [high, low] = n.to_be_bytes();
        self.address = Ipv4Addr::new(169, 254, high, low);
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    /// Ticks until the address is in use; the frames sent, and when it was claimed.
    fn claim(claimer: &mut Claimer) -> (Vec<Arp>, u64) {
        let mut frames = Vec::new();
        for _ in 0..20 {
            let now = claimer.deadline().unwrap();
            for action in claimer.handle(now, Event::Tick) {
                match action {
                    Action::Send(arp) => frames.push(arp),
                    Action::Claimed(address) => {
                        assert_eq!(claimer.address(), Some(address));
                        return (frames, now);
                    }
                    Action::Lost(_) => panic!(),
                }
            }
        }
        panic!("not claimed")
    }

    #[test]
    fn three_probes_and_the_address_is_ours() {
        let mut claimer = Claimer::new(MAC);
        assert_eq!(claimer.handle(0, Event::Start), []);
        let (frames, now) = claim(&mut claimer);
        assert_eq!(frames.len(), 3);
        assert!(frames.iter().all(|f| f.sender_address.is_unspecified()));
        assert!((4000..7500).contains(&now), "{now}");
        let address = claimer.address().unwrap();
        assert!(address.is_link_local() && (1..255).contains(&address.octets()[2]));
        assert_eq!(claimer.handle(now + 2000, Event::Tick).len(), 1);
        assert_eq!(claimer.deadline(), None);
        assert_eq!(
            Claimer::new(MAC).address,
            address,
            "the same machine tries the same address"
        );
        let mut resumed = Claimer::new(OTHER).resume(Some(address));
        assert_eq!(resumed.address(), Some(address));
        assert_eq!(resumed.handle(0, Event::Start).len(), 1, "announced again");
    }

    #[test]
    fn conflicts() {
        let mut claimer = Claimer::new(MAC);
        claimer.handle(0, Event::Start);
        let wished = claimer.address;
        let taken = Arp {
            sender: OTHER,
            sender_address: wished,
            target_address: wished,
        };
        claimer.handle(10, Event::Heard(taken));
        assert_ne!(claimer.address, wished);
        let (_, now) = claim(&mut claimer);
        let own = claimer.address;
        let claim = Arp {
            sender: OTHER,
            sender_address: own,
            target_address: own,
        };
        assert!(
            matches!(
                claimer.handle(now + 1, Event::Heard(claim))[..],
                [Action::Send(_)]
            ),
            "defended once"
        );
        assert_eq!(
            claimer.handle(now + 500, Event::Heard(claim))[0],
            Action::Lost(own),
            "then given up"
        );
        assert_eq!(claimer.address(), None);
        let echo = Arp {
            sender: MAC,
            sender_address: own,
            target_address: own,
        };
        assert_eq!(claimer.handle(now + 501, Event::Heard(echo)), []);
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_reading_never_panics(
            a in any::<[u8; 4]>(), b in any::<[u8; 4]>(), junk in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let arp = Arp { sender: MAC, sender_address: a.into(), target_address: b.into() };
            prop_assert_eq!(Arp::decode(&arp.encode()), Some(arp));
            let _ = Arp::decode(&junk);
        }
    }
}
