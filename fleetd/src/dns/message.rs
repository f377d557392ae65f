//! One DNS message in, one out.

use std::borrow::Cow;
use std::net::IpAddr;

use simple_dns::rdata::{A, AAAA, NS, OPT, RData, SOA, SRV};
use simple_dns::{
    CLASS, Label, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord,
    TYPE,
};

use super::zone::{Found, ORIGIN, Record, Zone};

/// How long an answer may be kept, in seconds. Short: units move.
pub const TTL: u32 = 5;
/// Longest answer over UDP that is sent whatever the asker allows: it passes every usual link.
const LONGEST_DATAGRAM: usize = 1232;
/// What every asker takes.
const CLASSIC_DATAGRAM: usize = 512;
const HEADER: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Answers have a limit.
    Udp,
    /// Answers may be as long as DNS allows.
    Tcp,
}

/// The answer to a query, or none for what is no query. `zone` is `None` before it is known.
#[must_use]
pub fn answer(query: &[u8], zone: Option<&Zone>, transport: Transport) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let id = u16::from_be_bytes([header[0], header[1]]);
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if header[2] & 0x80 != 0 {
        // An answer. Replying to it could go on for ever.
        return None;
    }
    // Counts that no query has are not even parsed.
    let plausible = count(4) == 1 && count(6) == 0 && count(8) == 0 && count(10) <= 1;
    let parsed = Packet::parse(query).ok().filter(|_| plausible);
    let version = edns_version(query);
    let Some(query) = parsed else {
        let mut refusal = Packet::new_reply(id);
        *refusal.rcode_mut() = if header[2] & 0x78 != 0 {
            RCODE::NotImplemented
        } else {
            RCODE::FormatError
        };
        return refusal.build_bytes_vec().ok();
    };
    let mut reply = reply_to(&query);
    if version > 0 {
        return refuse_version(&reply);
    }
    if let Some(question) = query.questions.first()
        && *reply.rcode_mut() == RCODE::NoError
    {
        fill(&mut reply, question, zone, id);
    }
    fit(reply, limit(&query, transport))
}

/// Longest answer to be sent.
fn limit(query: &Packet<'_>, transport: Transport) -> usize {
    match (transport, query.opt()) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => CLASSIC_DATAGRAM,
        (Transport::Udp, Some(opt)) => {
            usize::from(opt.udp_packet_size).clamp(CLASSIC_DATAGRAM, LONGEST_DATAGRAM)
        }
    }
}

/// An answer without records: what holds for every answer.
fn reply_to<'a>(query: &Packet<'a>) -> Packet<'a> {
    let mut reply = Packet::new_reply(query.id());
    *reply.opcode_mut() = query.opcode();
    reply.questions.clone_from(&query.questions);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    *reply.rcode_mut() = RCODE::NoError;
    if query.opcode() != OPCODE::StandardQuery {
        *reply.rcode_mut() = RCODE::NotImplemented;
    }
    if query.opt().is_some() {
        *reply.opt_mut() = Some(OPT {
            opt_codes: Vec::new(),
            udp_packet_size: 1232,
            version: 0,
        });
    }
    reply
}

/// Where the OPT record of a query with one question begins, and nothing before it is compressed.
fn opt_at(query: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            length if length <= 63 => at += 1 + length,
            _ => return None,
        }
    }
    // The root's name, type and class of the question; the root's name and the type of the record.
    at += 1 + 4;
    (query.get(at..at + 3)? == [0, 0, 41]).then_some(at)
}

/// Version of EDNS that a query wants. The library looks for it in another place, where the DO flag
/// is.
fn edns_version(query: &[u8]) -> u8 {
    opt_at(query)
        .and_then(|at| query.get(at + 6).copied())
        .unwrap_or(0)
}

/// "Bad version": the upper bits of the code are in the OPT record.
fn refuse_version(reply: &Packet<'_>) -> Option<Vec<u8>> {
    let mut bytes = reply.build_bytes_vec().ok()?;
    let at = opt_at(&bytes)?;
    *bytes.get_mut(at + 5)? = 1;
    Some(bytes)
}

fn fill<'a>(reply: &mut Packet<'a>, question: &Question<'a>, zone: Option<&Zone>, turn: u16) {
    let class = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    let transfer = matches!(question.qtype, QTYPE::AXFR | QTYPE::IXFR);
    let Some(name) = relative(&question.qname).filter(|_| class && !transfer) else {
        *reply.rcode_mut() = RCODE::Refused;
        return;
    };
    let Some(zone) = zone else {
        *reply.rcode_mut() = RCODE::ServerFailure;
        return;
    };
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let wanted = |kind: TYPE| matches!(question.qtype, QTYPE::ANY) || question.qtype == kind.into();
    if name.is_empty() {
        if wanted(TYPE::SOA) {
            reply.answers.push(authority(zone));
        }
        if wanted(TYPE::NS) {
            let server = RData::NS(NS(below_origin("ns")));
            reply.answers.push(record(question.qname.clone(), server));
        }
    }
    let found = match zone.find(&name) {
        // The server's own name has no address that everybody could use.
        Found::Nothing if name == "ns" => Vec::new(),
        Found::Nothing => {
            *reply.rcode_mut() = RCODE::NameError;
            Vec::new()
        }
        Found::Node(records) => records.into_iter().collect(),
    };
    let mut answers = Vec::new();
    for found in found {
        let (kind, data) = wire(&found);
        if wanted(kind) {
            if let Record::Service { host, .. } = &found {
                let more = addresses(zone, host);
                reply.additional_records.extend(more);
            }
            answers.push(record(question.qname.clone(), data));
        }
    }
    if !answers.is_empty() {
        // Askers take the first; everybody shall have a turn.
        let first = usize::from(turn) % answers.len();
        answers.rotate_left(first);
    }
    reply.answers.append(&mut answers);
    if reply.answers.is_empty() {
        reply.name_servers.push(authority(zone));
    }
}

/// The name without the zone, in lower case; `None` outside the zone.
fn relative(name: &Name<'_>) -> Option<String> {
    let labels: Vec<Cow<'_, str>> = name
        .get_labels()
        .iter()
        .map(|label| String::from_utf8_lossy(label.as_ref()))
        .collect();
    let at = labels.len().checked_sub(ORIGIN.len())?;
    let inside = labels[at..]
        .iter()
        .zip(ORIGIN)
        .all(|(label, origin)| label.eq_ignore_ascii_case(origin));
    inside.then(|| labels[..at].join(".").to_ascii_lowercase())
}

/// A name of the zone, from one relative to it.
fn below_origin(name: &str) -> Name<'static> {
    let labels: Vec<Label<'static>> = name
        .split('.')
        .filter(|label| !label.is_empty())
        .chain(ORIGIN)
        .map(|label| Label::new_unchecked(label.as_bytes().to_vec()))
        .collect();
    Name::new_with_labels(&labels)
}

fn wire(found: &Record) -> (TYPE, RData<'static>) {
    match found {
        Record::Address(IpAddr::V4(ip)) => (TYPE::A, RData::A(A::from(*ip))),
        Record::Address(IpAddr::V6(ip)) => (TYPE::AAAA, RData::AAAA(AAAA::from(*ip))),
        Record::Service { port, host } => {
            let data = SRV {
                priority: 0,
                weight: 10,
                port: *port,
                target: below_origin(host),
            };
            (TYPE::SRV, RData::SRV(data))
        }
    }
}

fn addresses(zone: &Zone, host: &str) -> Vec<ResourceRecord<'static>> {
    match zone.find(host) {
        Found::Node(records) => records
            .iter()
            .map(|found| record(below_origin(host), wire(found).1))
            .collect(),
        Found::Nothing => Vec::new(),
    }
}

fn record<'a>(name: Name<'a>, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(name, CLASS::IN, TTL, data)
}

/// The zone's authority record: tells how long "no" may be remembered.
fn authority(zone: &Zone) -> ResourceRecord<'static> {
    let data = SOA {
        mname: below_origin("ns"),
        rname: below_origin("hostmaster"),
        // Serial numbers wrap around by their definition.
        serial: u32::try_from(zone.serial & 0xffff_ffff).unwrap_or(0),
        refresh: 60,
        retry: 10,
        expire: 3600,
        minimum: TTL,
    };
    record(below_origin(""), RData::SOA(data))
}

/// Cuts an answer to the limit: first what was not asked for, then all, with the mark that tells
/// the asker to come by TCP.
fn fit(mut reply: Packet<'_>, limit: usize) -> Option<Vec<u8>> {
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.additional_records.clear();
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.answers.clear();
    reply.name_servers.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.build_bytes_vec_compressed().ok()
}

#[cfg(test)]
mod tests {
    use fleet_model::{MachineId, UnitName};
    use proptest::prelude::*;

    use super::*;
    use crate::registry::Announcement;

    fn zone(units: u32) -> Zone {
        let mut zone = Zone::default();
        for i in 0..units {
            let unit = UnitName::parse(&format!("web@{i}.service")).unwrap();
            let machine = MachineId::parse(&format!("m{i}")).unwrap();
            let announcement = Announcement {
                address: std::net::Ipv4Addr::from(0x0a00_0001 + i).into(),
                port: 80,
                proto: "tcp".into(),
            };
            zone.set(
                &i.to_string(),
                Some(("web", &unit, &machine, &announcement)),
            );
        }
        zone.serial = 7;
        zone
    }

    fn query(name: &str, kind: impl Into<QTYPE>, size: Option<u16>) -> Vec<u8> {
        let mut packet = Packet::new_query(3);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet
            .questions
            .push(Question::new(name, kind.into(), CLASS::IN.into(), false));
        *packet.opt_mut() = size.map(|udp_packet_size| OPT {
            opt_codes: Vec::new(),
            udp_packet_size,
            version: 0,
        });
        packet.build_bytes_vec().unwrap()
    }

    /// Code, number of answers, of authorities, of additional records; authoritative, truncated.
    fn shape(bytes: &[u8]) -> (RCODE, usize, usize, usize, bool, bool) {
        let p = Packet::parse(bytes).unwrap();
        assert!(p.has_flags(PacketFlag::RESPONSE) && p.id() == 3);
        (
            p.rcode(),
            p.answers.len(),
            p.name_servers.len(),
            p.additional_records.len(),
            p.has_flags(PacketFlag::AUTHORITATIVE_ANSWER),
            p.has_flags(PacketFlag::TRUNCATION),
        )
    }

    #[test]
    fn every_kind_of_question_has_its_answer() {
        use RCODE::{NameError, NoError, Refused};
        let two = zone(2);
        for (name, kind, expect) in [
            (
                "web-0.fleet.local",
                TYPE::A,
                (NoError, 1, 0, 0, true, false),
            ),
            (
                "WEB-0.Fleet.LOCAL",
                TYPE::A,
                (NoError, 1, 0, 0, true, false),
            ),
            (
                "web-0.fleet.local",
                TYPE::AAAA,
                (NoError, 0, 1, 0, true, false),
            ),
            ("web.fleet.local", TYPE::A, (NoError, 2, 0, 0, true, false)),
            (
                "web.fleet.local",
                TYPE::SRV,
                (NoError, 2, 0, 2, true, false),
            ),
            (
                "_web._tcp.fleet.local",
                TYPE::SRV,
                (NoError, 2, 0, 2, true, false),
            ),
            (
                "_web._tcp.fleet.local",
                TYPE::A,
                (NoError, 0, 1, 0, true, false),
            ),
            ("_tcp.fleet.local", TYPE::A, (NoError, 0, 1, 0, true, false)),
            (
                "none.fleet.local",
                TYPE::A,
                (NameError, 0, 1, 0, true, false),
            ),
            ("fleet.local", TYPE::SOA, (NoError, 1, 0, 0, true, false)),
            ("fleet.local", TYPE::NS, (NoError, 1, 0, 0, true, false)),
            ("fleet.local", TYPE::A, (NoError, 0, 1, 0, true, false)),
            ("local", TYPE::A, (Refused, 0, 0, 0, false, false)),
            ("example.org", TYPE::A, (Refused, 0, 0, 0, false, false)),
            ("notfleet.local", TYPE::A, (Refused, 0, 0, 0, false, false)),
        ] {
            let reply = answer(&query(name, kind, None), Some(&two), Transport::Udp).unwrap();
            assert_eq!(shape(&reply), expect, "{name} {kind:?}");
        }
        let all = answer(
            &query("web.fleet.local", QTYPE::ANY, None),
            Some(&two),
            Transport::Udp,
        );
        assert_eq!(shape(&all.unwrap()).1, 4);
        let axfr = answer(
            &query("fleet.local", QTYPE::AXFR, None),
            Some(&two),
            Transport::Tcp,
        );
        assert_eq!(shape(&axfr.unwrap()).0, Refused);
        let early = answer(
            &query("web.fleet.local", TYPE::A, None),
            None,
            Transport::Udp,
        );
        assert_eq!(shape(&early.unwrap()).0, RCODE::ServerFailure);
    }

    #[test]
    fn long_answers_are_cut_as_the_transport_wants() {
        let many = zone(200);
        let ask = |size, transport| {
            let query = query("web.fleet.local", TYPE::A, size);
            let reply = answer(&query, Some(&many), transport).unwrap();
            (reply.len(), shape(&reply).1, shape(&reply).5)
        };
        let (length, answers, cut) = ask(None, Transport::Udp);
        assert!(length <= 512 && answers == 0 && cut);
        let (length, answers, cut) = ask(Some(65535), Transport::Udp);
        assert!(length <= 1232 && answers == 0 && cut);
        let (_, answers, cut) = ask(None, Transport::Tcp);
        assert!(answers == 200 && !cut);
        // What was not asked for goes first.
        let some = zone(12);
        let query = query("web.fleet.local", TYPE::SRV, Some(700));
        let reply = answer(&query, Some(&some), Transport::Udp).unwrap();
        assert_eq!(shape(&reply), (RCODE::NoError, 12, 0, 0, true, false));
    }

    #[test]
    fn what_is_no_proper_query_is_told_so_or_ignored() {
        let good = query("web.fleet.local", TYPE::A, Some(1232));
        let change = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            answer(&bytes, Some(&zone(1)), Transport::Udp).map(|b| b[3] & 0x0f)
        };
        assert_eq!(change(2, 0x81), None, "an answer");
        assert_eq!(change(2, 0x28), Some(4), "an update: not implemented");
        assert_eq!(change(5, 0), Some(1), "no question");
        assert_eq!(change(5, 2), Some(1), "two questions");
        assert_eq!(change(6, 0xff), Some(1), "answers in a query");
        assert_eq!(answer(&good[..11], None, Transport::Udp), None);
        assert_eq!(
            answer(&good[..13], None, Transport::Udp).map(|b| b[3] & 0x0f),
            Some(1)
        );
        // A version of EDNS that does not exist yet. The upper bits of the code are in the OPT record,
        // six bytes before the end; the DO flag is no version.
        let edns = |back: usize, to: u8| {
            let mut bytes = good.clone();
            let at = bytes.len() - back;
            bytes[at] = to;
            let reply = answer(&bytes, Some(&zone(1)), Transport::Udp).unwrap();
            (reply[3] & 0x0f, reply[7], reply[reply.len() - 6])
        };
        assert_eq!(edns(5, 1), (0, 0, 1), "bad version, no answers");
        assert_eq!(edns(4, 0x80), (0, 1, 0), "an answer");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer(&bytes, Some(&zone(2)), Transport::Udp);
        }

        #[test]
        fn no_change_of_a_query_makes_it_panic_or_answer_too_long(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = query("_web._tcp.fleet.local", TYPE::SRV, Some(4096));
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some(reply) = answer(&bytes, Some(&zone(100)), Transport::Udp) {
                prop_assert!(reply.len() <= 1232);
                prop_assert_eq!(&reply[..2], &bytes[..2]);
            }
        }
    }
}
