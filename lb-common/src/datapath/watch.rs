//! Watching: which packets does somebody want to see?
//!
//! Nothing here decides anything about a packet. The XDP program `weir_watched` does what `weir_edge` does, then asks [`matches`] for each of the
//! watchers' filters, and tells what happened. What it shows of a packet's addresses is what the datapath itself read; where that had no need to
//! read any ([`sketch`]), what stands in the frame.

use crate::{
    abi::watch::{
        AddressMatch, SEEN_ADDRESSES, SEEN_OPENING, SEEN_PORTS, VERDICT_ANSWER, VERDICT_FORWARD, WatchFilter,
        WatchRecord,
    },
    net::{mapped_words, protocol},
};

use super::parse::{Shape, TRANSPORT_WORDS};

/// Bytes of a frame that [`sketch`] looks at.
pub const HEAD: usize = 128;

/// Whether a port is one of a range.
#[inline(always)]
const fn within(port: u16, [first, last]: [u16; 2]) -> bool {
    first <= port && port <= last
}

/// Whether an address is one of a prefix.
#[inline(always)]
const fn lies_in(words: &[u32; 4], prefix: &AddressMatch) -> bool {
    words[0] & prefix.mask[0] == prefix.value[0]
        && words[1] & prefix.mask[1] == prefix.value[1]
        && words[2] & prefix.mask[2] == prefix.value[2]
        && words[3] & prefix.mask[3] == prefix.value[3]
}

/// Whether a packet is one that a watcher wants to see. `drawn` is a random number, one for each packet.
#[inline(always)]
#[must_use]
pub fn matches(filter: &WatchFilter, record: &WatchRecord, drawn: u32) -> bool {
    if drawn > filter.sample
        || filter.reasons >> (record.reason & 63) & 1 == 0
        || filter.verdicts >> (record.verdict & 15) & 1 == 0
        || (filter.service != WatchFilter::ANY_SERVICE && filter.service != record.service)
        || (filter.protocol != WatchFilter::ANY_PROTOCOL && filter.protocol != record.protocol as u16)
    {
        return false;
    }
    let [a, b, c, d] = record.ports.to_ne_bytes();
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    within(source, filter.source_ports)
        && within(destination, filter.destination_ports)
        && (within(source, filter.ports) || within(destination, filter.ports))
        && lies_in(&record.source, &filter.source)
        && lies_in(&record.destination, &filter.destination)
        && (lies_in(&record.source, &filter.host) || lies_in(&record.destination, &filter.host))
}

/// Writes into a record what a [packed](super::parse::Transport::pack) packet of a flow says of itself.
#[inline(always)]
pub fn from_transport(record: &mut WatchRecord, words: &[u32; TRANSPORT_WORDS]) {
    record.source = [words[0], words[1], words[2], words[3]];
    record.destination = [words[4], words[5], words[6], words[7]];
    record.ports = words[8];
    record.protocol = words[10] as u8;
    record.shape = (words[10] >> 16) as u8;
    record.flags |= SEEN_ADDRESSES | SEEN_PORTS;
}

/// Writes into a record what a frame says of addresses and ports, as far as it is an IP packet, behind up to two VLAN tags, whose ports stand
/// right behind an IPv4 header or an IPv6 header without extensions. `head` holds the first `length` bytes of the frame.
#[inline(always)]
pub fn sketch(record: &mut WatchRecord, head: &[u8; HEAD], length: usize) {
    let byte = |at: usize| head[at & (HEAD - 1)];
    let word = |at: usize| u32::from_ne_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
    let is_tag = |at: usize| {
        let kind = (byte(at), byte(at + 1));
        kind == (0x81, 0x00) || kind == (0x88, 0xa8)
    };
    let mut at = 12;
    if is_tag(at) {
        at += 4;
        if is_tag(at) {
            at += 4;
        }
    }
    let kind = (byte(at), byte(at + 1));
    at += 2;
    let ports_at;
    if kind == (0x08, 0x00) && at + 20 <= length {
        record.source = mapped_words(word(at + 12));
        record.destination = mapped_words(word(at + 16));
        record.protocol = byte(at + 9);
        let is_later = byte(at + 6) & 0x1f | byte(at + 7) != 0;
        if is_later {
            record.shape = Shape::LaterFragment as u8;
        }
        ports_at = if is_later { length } else { at + (byte(at) & 0x0f) as usize * 4 };
    } else if kind == (0x86, 0xdd) && at + 40 <= length {
        record.source = [word(at + 8), word(at + 12), word(at + 16), word(at + 20)];
        record.destination = [word(at + 24), word(at + 28), word(at + 32), word(at + 36)];
        record.protocol = byte(at + 6);
        ports_at = at + 40;
    } else {
        return;
    }
    record.flags |= SEEN_ADDRESSES;
    let has_ports = matches!(record.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    if has_ports && ports_at + 4 <= length {
        record.ports = word(ports_at);
        record.flags |= SEEN_PORTS;
    }
}

/// Writes into a record what became of its packet: the words of [`Outcome::words`](super::verdict::Outcome::words). `ingress` is the
/// interface that it came by; [`WatchRecord::egress`] holds that of a redirect, or 0.
#[inline(always)]
pub fn conclude(record: &mut WatchRecord, what: u64, whither: u64, ingress: u32) {
    record.reason = what as u32 & 0xff;
    record.verdict = (what >> 8) as u8;
    if what & 1 << 16 != 0 {
        record.flags |= SEEN_OPENING;
    }
    record.service = whither as u32;
    record.backend = (whither >> 32) as u32;
    record.ingress = ingress;
    record.egress = match record.verdict {
        VERDICT_FORWARD if record.egress != 0 => record.egress,
        VERDICT_ANSWER | VERDICT_FORWARD => ingress,
        _ => 0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::{
            reason::Reason,
            watch::{NO_INDEX, VERDICT_DROP, VERDICT_PASS},
        },
        net::{address_bytes, address_words},
    };
    use alloc::vec::Vec;
    use core::net::IpAddr;

    fn words(text: &str) -> [u32; 4] {
        address_words(&address_bytes(text.parse::<IpAddr>().unwrap()))
    }

    fn ports(source: u16, destination: u16) -> u32 {
        let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    fn prefix(text: &str, bits: u32) -> AddressMatch {
        let bytes = (u128::MAX.checked_shl(128 - bits).unwrap_or(0)).to_be_bytes();
        let mask = address_words(&bytes);
        let value = words(text);
        AddressMatch {
            mask,
            value: [value[0] & mask[0], value[1] & mask[1], value[2] & mask[2], value[3] & mask[3]],
        }
    }

    fn record() -> WatchRecord {
        WatchRecord {
            source: words("198.51.100.7"),
            destination: words("192.0.2.10"),
            ports: ports(40_000, 443),
            protocol: protocol::TCP,
            verdict: VERDICT_DROP,
            service: 3,
            backend: NO_INDEX,
            reason: Reason::AllDown as u32,
            ..WatchRecord::default()
        }
    }

    #[test]
    fn each_term_of_a_filter_lets_through_and_keeps_out() {
        let all = WatchFilter::ALL;
        type Change = fn(&mut WatchFilter);
        let terms: [(&str, Change, Change); 12] = [
            (
                "source",
                |f| f.source = prefix("198.51.100.0", 120),
                |f| f.source = prefix("198.51.101.0", 120),
            ),
            (
                "source, one address",
                |f| f.source = prefix("198.51.100.7", 128),
                |f| f.source = prefix("198.51.100.6", 128),
            ),
            ("source, any IPv4", |f| f.source = prefix("0.0.0.0", 96), |f| f.source = prefix("8000::", 1)),
            (
                "destination",
                |f| f.destination = prefix("192.0.2.10", 128),
                |f| f.destination = prefix("198.51.100.7", 128),
            ),
            ("host", |f| f.host = prefix("192.0.2.10", 128), |f| f.host = prefix("192.0.2.11", 128)),
            ("source port", |f| f.source_ports = [40_000, 40_000], |f| f.source_ports = [40_001, 65_535]),
            ("destination port", |f| f.destination_ports = [400, 443], |f| f.destination_ports = [0, 442]),
            ("port", |f| f.ports = [443, 444], |f| f.ports = [444, 39_999]),
            ("service", |f| f.service = 3, |f| f.service = 4),
            ("protocol", |f| f.protocol = 6, |f| f.protocol = 17),
            (
                "reason",
                |f| f.reasons = 1 << Reason::AllDown as u32,
                |f| f.reasons = !(1 << Reason::AllDown as u32),
            ),
            ("verdict", |f| f.verdicts = 1 << VERDICT_DROP, |f| f.verdicts = 1 << VERDICT_PASS),
        ];
        assert!(matches(&all, &record(), u32::MAX));
        for (name, yes, no) in terms {
            let (mut good, mut bad) = (all, all);
            yes(&mut good);
            no(&mut bad);
            assert!(matches(&good, &record(), 0), "{name}");
            assert!(!matches(&bad, &record(), 0), "{name}");
            let mut both = good;
            no(&mut both);
            assert!(!matches(&both, &record(), 0), "{name}");
        }
    }

    #[test]
    fn the_host_may_be_either_end_and_ports_are_both_ways() {
        let mut filter = WatchFilter { host: prefix("198.51.100.7", 128), ..WatchFilter::ALL };
        assert!(matches(&filter, &record(), 0));
        filter.ports = [40_000, 40_000];
        assert!(matches(&filter, &record(), 0));
        filter.service = WatchFilter::ANY_SERVICE;
        let of_none = WatchRecord { service: NO_INDEX, ..record() };
        assert!(matches(&filter, &of_none, 0));
    }

    #[test]
    fn a_sample_is_those_whose_number_is_low() {
        let filter = WatchFilter { sample: u32::MAX / 10, ..WatchFilter::ALL };
        let seen = (0..1000_u32).filter(|i| matches(&filter, &record(), i * (u32::MAX / 1000))).count();
        assert_eq!(seen, 101);
        assert!(matches(&WatchFilter { sample: 0, ..WatchFilter::ALL }, &record(), 0));
    }

    fn sketched(frame: &[u8]) -> WatchRecord {
        let mut head = [0xee; HEAD];
        let length = frame.len().min(HEAD);
        head[..length].copy_from_slice(&frame[..length]);
        let mut record = WatchRecord::default();
        sketch(&mut record, &head, length);
        record
    }

    /// Ethernet with these tags, then IPv4 with `options` words of options, TCP 40000 to 443.
    fn ipv4_frame(tags: &[u8], options: usize, fragment: [u8; 2]) -> Vec<u8> {
        let mut frame = alloc::vec![0; 12];
        frame.extend_from_slice(tags);
        frame.extend_from_slice(&[
            8,
            0,
            0x45 + options as u8,
            0,
            0,
            40,
            0,
            0,
            fragment[0],
            fragment[1],
            64,
            6,
            0,
            0,
        ]);
        frame.extend_from_slice(&[198, 51, 100, 7, 192, 0, 2, 10]);
        frame.extend(core::iter::repeat_n(1, 4 * options));
        frame.extend_from_slice(&[0x9c, 0x40, 1, 0xbb, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn addresses_and_ports_are_read_behind_tags_and_options() {
        let tagged = [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2];
        for (tags, options) in [(&[][..], 0), (&tagged[..4], 0), (&tagged[..], 2), (&tagged[..], 10)] {
            let record = sketched(&ipv4_frame(tags, options, [0x40, 0]));
            assert_eq!((record.source, record.destination), (words("198.51.100.7"), words("192.0.2.10")));
            assert_eq!((record.ports, record.protocol), (ports(40_000, 443), 6));
            assert_eq!(record.flags, SEEN_ADDRESSES | SEEN_PORTS);
        }
        let mut frame = alloc::vec![0; 12];
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        frame.extend_from_slice(&address_bytes("2001:db8::1".parse().unwrap()));
        frame.extend_from_slice(&address_bytes("2001:db8::2".parse().unwrap()));
        frame.extend_from_slice(&[0, 53, 0, 54, 0, 8, 0, 0]);
        let record = sketched(&frame);
        assert_eq!((record.source, record.destination), (words("2001:db8::1"), words("2001:db8::2")));
        assert_eq!((record.ports, record.protocol), (ports(53, 54), 17));
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        let later = sketched(&ipv4_frame(&[], 0, [0, 3]));
        assert_eq!((later.ports, later.flags, later.shape), (0, SEEN_ADDRESSES, Shape::LaterFragment as u8));
        let frame = ipv4_frame(&[], 0, [0, 0]);
        assert_eq!(sketched(&frame[..36]).flags, SEEN_ADDRESSES);
        for length in 0..34 {
            assert_eq!(sketched(&frame[..length]), WatchRecord::default(), "{length}");
        }
        let mut arp = frame;
        arp[13] = 6;
        assert_eq!(sketched(&arp), WatchRecord::default());
    }

    #[test]
    fn what_became_of_a_packet_goes_through_two_words() {
        use crate::datapath::verdict::{Outcome, Verdict};
        let told = |outcome: Outcome| {
            let [what, whither] = outcome.words();
            let egress = if let Verdict::Redirect(egress) = outcome.verdict { egress } else { 0 };
            let mut record = WatchRecord { egress, ..WatchRecord::default() };
            conclude(&mut record, what, whither, 7);
            record
        };
        let forwarded = Outcome::for_service(5, true).to_backend(6).forward(9, 7);
        let record = told(forwarded);
        assert_eq!((record.service, record.backend, record.verdict), (5, 6, VERDICT_FORWARD));
        assert_eq!((record.ingress, record.egress, record.flags), (7, 9, SEEN_OPENING));
        assert_eq!(told(Outcome::for_service(5, true).to_backend(6).forward(7, 7)).egress, 7);
        let record = told(Outcome::refuse(Reason::Malformed));
        assert_eq!((record.service, record.backend, record.verdict), (NO_INDEX, NO_INDEX, VERDICT_DROP));
        assert_eq!((record.reason, record.egress, record.flags), (Reason::Malformed as u32, 0, 0));
        let record = told(Outcome::answer(Reason::EchoAnswered));
        assert_eq!((record.verdict, record.egress), (VERDICT_ANSWER, 7));
        assert_eq!(told(Outcome::pass(Reason::PassNotVip)).verdict, VERDICT_PASS);
    }
}
