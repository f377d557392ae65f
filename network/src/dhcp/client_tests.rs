//! Tests of the DHCP client: its way through the states, and any answer.

use super::super::lease::tests::ack;
use super::*;
use proptest::prelude::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn params() -> Params {
    Params {
        mac: MAC,
        client_id: vec![1, 2, 0, 0, 0, 0, 1],
        hostname: Some("node1".into()),
        vendor_class: None,
        broadcast: false,
        max_attempts: None,
        keep_expired: false,
    }
}

fn client() -> Client {
    Client::new(params(), 99)
}

fn sent(actions: &[Action]) -> Vec<(Via, &Message)> {
    let message = |a| {
        if let &Action::Send(via, ref m) = a {
            Some((via, m))
        } else {
            None
        }
    };
    actions.iter().filter_map(message).collect()
}

fn answer(kind: Kind, to: &Message) -> Message {
    let mut message = ack();
    message.xid = to.xid;
    message.chaddr = to.chaddr;
    message
        .options
        .insert(option::MESSAGE_TYPE, vec![kind as u8]);
    message
}

/// Drives a fresh client to Bound at `now`.
fn bound(client: &mut Client, now: u64) {
    let discover = sent(&client.handle(now, Event::Start(None)))[0].1.clone();
    let actions = client.handle(now, Event::Received(&answer(Kind::Offer, &discover)));
    let request = sent(&actions)[0].1.clone();
    assert_eq!(request.kind(), Some(Kind::Request));
    assert_eq!(
        request.address(option::SERVER_ID),
        Some(Ipv4Addr::new(10, 0, 2, 2))
    );
    let actions = client.handle(now, Event::Received(&answer(Kind::Ack, &request)));
    assert!(matches!(actions[..], [Action::Acquired(_)]), "{actions:?}");
    assert_eq!(client.state(), "bound");
}

#[test]
fn four_messages_give_a_lease() {
    let mut client = client();
    bound(&mut client, 1000);
    assert_eq!(client.deadline(), Some(1000 + 1_800_000));
    assert!(!client.wants_frames() && client.wants_datagrams().is_none());
}

#[test]
fn discovery_is_repeated_after_1_2_4_up_to_64_seconds_and_people_are_told() {
    let mut client = client();
    assert_eq!(sent(&client.handle(0, Event::Start(None))).len(), 1);
    let (mut last, mut notes) = (0, Vec::new());
    for want in [1u64, 2, 4, 8, 16, 32, 64, 64] {
        let due = client.deadline().unwrap();
        let waited = due - last;
        assert!(
            waited.abs_diff(want * 1000) <= want * 125,
            "{waited} for {want}"
        );
        assert_eq!(sent(&client.handle(due - 1, Event::Tick)).len(), 0);
        let actions = client.handle(due, Event::Tick);
        assert_eq!(sent(&actions).len(), 1);
        notes.extend(actions.into_iter().filter(|a| matches!(a, Action::Note(_))));
        last = due;
    }
    assert_eq!(notes.len(), 2);
    let Action::Note(note) = &notes[0] else {
        panic!()
    };
    assert!(
        note.to_string()
            .starts_with("no DHCP server has answered 3 requests in "),
        "{note}"
    );
}

#[test]
fn max_attempts_ends_it() {
    let mut client = Client::new(
        Params {
            max_attempts: Some(2),
            ..params()
        },
        1,
    );
    client.handle(0, Event::Start(None));
    client.handle(client.deadline().unwrap(), Event::Tick);
    let actions = client.handle(client.deadline().unwrap(), Event::Tick);
    assert_eq!(actions, [Action::Note(Note::GaveUp { tries: 2 })]);
    assert_eq!(client.deadline(), None);
}

#[test]
fn renewal_then_rebinding_then_expiry() {
    let (own, server) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2));
    let mut client = client();
    bound(&mut client, 0);
    let renew = client.handle(1_800_000, Event::Tick);
    let (via, message) = sent(&renew)[0];
    assert_eq!(
        via,
        Via::Server {
            from: own,
            to: server
        }
    );
    assert_eq!(
        (message.ciaddr, message.address(option::SERVER_ID)),
        (own, None)
    );
    assert_eq!(client.wants_datagrams(), Some(own));
    let rebind = client.handle(3_150_000, Event::Tick);
    assert_eq!(sent(&rebind)[0].0, Via::Everyone { from: own });
    let end = client.handle(3_600_000, Event::Tick);
    assert!(
        matches!(end[..2], [Action::Note(Note::Expired), Action::Lost(_)]),
        "{end:?}"
    );
    assert_eq!(sent(&end)[0].1.kind(), Some(Kind::Discover));
}

#[test]
fn a_renewal_moves_the_end() {
    let mut client = client();
    bound(&mut client, 0);
    let request = sent(&client.handle(1_800_000, Event::Tick))[0].1.clone();
    let mut reply = answer(Kind::Ack, &request);
    reply.options.remove(&option::SERVER_ID);
    let actions = client.handle(1_801_000, Event::Received(&reply));
    let [Action::Acquired(lease)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(lease.expires(), Some(1_800_000 + 3_600_000));
}

#[test]
fn a_kept_lease_is_in_force_at_once_and_confirmed() {
    let lease = Lease::from_message(&ack(), 0).unwrap();
    let mut client = client();
    let actions = client.handle(10_000, Event::Start(Some(&lease)));
    assert_eq!(actions[0], Action::Acquired(lease.clone()));
    let (via, request) = sent(&actions)[0];
    assert_eq!((via, request.kind()), (Via::Frame, Some(Kind::Request)));
    assert_eq!(
        request.address(option::REQUESTED_ADDRESS),
        Some(lease.address)
    );
    assert_eq!(request.address(option::SERVER_ID), None);
    assert_eq!(request.ciaddr, Ipv4Addr::UNSPECIFIED);
    client.handle(11_000, Event::Received(&answer(Kind::Ack, request)));
    assert_eq!(
        (client.state(), client.lease().unwrap().since),
        ("bound", 10_000)
    );
}

#[test]
fn a_kept_lease_survives_a_silent_server_but_not_a_refusal_nor_its_end() {
    let lease = Lease::from_message(&ack(), 0).unwrap();
    let mut silent = client();
    silent.handle(10_000, Event::Start(Some(&lease)));
    let mut last = Vec::new();
    while silent.state() == "rebooting" {
        last = silent.handle(silent.deadline().unwrap(), Event::Tick);
    }
    assert_eq!(last, [Action::Note(Note::KeptUnconfirmed)]);
    assert_eq!((silent.state(), silent.lease()), ("bound", Some(&lease)));

    let mut refused = client();
    let actions = refused.handle(10_000, Event::Start(Some(&lease)));
    let nak = answer(Kind::Nak, sent(&actions)[0].1);
    let actions = refused.handle(10_100, Event::Received(&nak));
    assert_eq!(actions[0], Action::Lost(lease.clone()));
    assert_eq!(sent(&actions)[0].1.kind(), Some(Kind::Discover));

    let mut late = client();
    let actions = late.handle(3_600_000, Event::Start(Some(&lease)));
    assert_eq!(sent(&actions)[0].1.kind(), Some(Kind::Discover));
    assert_eq!(late.lease(), None);
}

#[test]
fn a_pulled_cable_keeps_the_lease_and_asks_again() {
    let mut client = client();
    bound(&mut client, 0);
    assert_eq!(client.handle(5000, Event::CarrierLost), []);
    assert!(client.lease().is_some());
    let actions = client.handle(9000, Event::Start(None));
    assert_eq!(sent(&actions)[0].1.kind(), Some(Kind::Request));
    while client.state() == "rebooting" {
        client.handle(client.deadline().unwrap(), Event::Tick);
    }
    assert_eq!(client.state(), "selecting", "it may be in another network");
    assert!(client.lease().is_some());
}

#[test]
fn answers_to_others_are_not_ours() {
    let mut client = client();
    let discover = sent(&client.handle(0, Event::Start(None)))[0].1.clone();
    let good = answer(Kind::Offer, &discover);
    for bad in [
        Message {
            xid: good.xid ^ 1,
            ..good.clone()
        },
        Message {
            chaddr: Mac([2; 6]),
            ..good.clone()
        },
        Message {
            reply: false,
            ..good.clone()
        },
    ] {
        assert_eq!(client.handle(1, Event::Received(&bad)), []);
    }
    assert_eq!(client.handle(1, Event::Received(&good)).len(), 1);
}

proptest! {
    /// Whatever arrives whenever: no panic, no storm, and every deadline is in the future after it was served.
    #[test]
    fn any_history_is_survived(
        steps in proptest::collection::vec((0u8..6, 0u64..5_000_000), 1..60), keep in any::<bool>(),
    ) {
        let mut client = Client::new(Params { keep_expired: keep, ..params() }, 7);
        let (mut now, mut last) = (0, Message::request(Kind::Discover, 0, MAC));
        for (what, wait) in steps {
            now += wait;
            let reply = answer([Kind::Offer, Kind::Ack, Kind::Nak][usize::from(what % 3)], &last);
            let event = match what {
                0..=2 => Event::Received(&reply),
                3 => Event::Start(None),
                4 => Event::CarrierLost,
                _ => Event::Tick,
            };
            let actions = client.handle(now, event);
            prop_assert!(sent(&actions).len() <= 1, "{:?}", actions);
            if let Some((_, m)) = sent(&actions).first() { last = (*m).clone(); }
            if let Some(due) = client.deadline() { prop_assert!(due > now, "{:?} {} {}", client, due, now); }
            let end = client.lease().and_then(Lease::expires);
            prop_assert!(end.is_none_or(|end| keep || end > now));
        }
    }
}
