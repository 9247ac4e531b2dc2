//! A record of the data plane in words: names by the generation that it came from.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use lb_common::{
    abi::{
        reason::Reason,
        watch::{
            NO_INDEX, SEEN_ADDRESSES, SEEN_BY_ID, SEEN_OPENING, SEEN_PORTS, SEEN_RELAYED, SEEN_REMEMBERED,
            VERDICT_ANSWER, VERDICT_DROP, VERDICT_FORWARD, WALKED, WatchRecord,
        },
    },
    datapath::{
        parse::Shape,
        ports::Tables,
        steer::{How, Walked},
    },
    net::{AddressWords, protocol, words_address},
};

use crate::{
    api::types::{FlowUse, PacketShape, PlacedBy, VerdictKind, WatchedPacket},
    config::{Config, Service},
    dataplane::live::Observation,
    plan::ids::{BackendIndex, Ids, ServiceIndex},
    runtime::clock::monotonic_ns,
};

/// What a generation's numbers mean.
pub(super) struct Names {
    config: Arc<Config>,
    ids: Arc<Ids>,
    /// For client regions, which do not change within a generation.
    tables: Observation,
    interfaces: HashMap<u32, String>,
}

impl Names {
    pub(super) fn new(config: Arc<Config>, ids: Arc<Ids>, tables: Observation) -> Self {
        Self { config, ids, tables, interfaces: HashMap::new() }
    }

    /// The packet of a record, without its bytes. `offset_ns` leads from the monotonic clock to the time of day.
    pub(super) fn packet(&mut self, record: &WatchRecord, offset_ns: i128) -> WatchedPacket {
        let has = |flag: u8| record.flags & flag != 0;
        let [a, b, c, d] = record.ports.to_ne_bytes();
        let (source_port, destination_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let service = known(record.service).and_then(|index| self.ids.service_id(ServiceIndex(index)));
        let service = service.map(|id| self.config[id].clone());
        let region = known(record.service).map(|_| self.tables.client_region(&record.source) as usize);
        let how = placement(record);
        let time = jiff::Timestamp::from_nanosecond(i128::from(record.arrived_ns) + offset_ns);
        WatchedPacket {
            time: time.unwrap_or_default(),
            arrived_ns: record.arrived_ns,
            interface: self.interface(record.ingress),
            length: record.arrived_length,
            src: has(SEEN_ADDRESSES).then(|| address(&record.source)),
            src_port: has(SEEN_PORTS).then_some(source_port),
            dst: has(SEEN_ADDRESSES).then(|| address(&record.destination)),
            dst_port: has(SEEN_PORTS).then_some(destination_port),
            protocol: has(SEEN_ADDRESSES).then(|| protocol_name(record.protocol)),
            shape: shape(record.shape),
            opening: has(SEEN_OPENING),
            relayed: has(SEEN_RELAYED),
            client_region: region
                .and_then(|region| self.config.client_regions.get(region))
                .map(|region| region.name.clone()),
            step: how.place.map(|(step, _)| step),
            pool: how.place.and_then(|(step, _)| pool(service.as_ref()?, region?, step as usize)),
            probes: how.place.map(|(_, probes)| probes),
            placed_by: how.by,
            flow_table: how.flows,
            backend: known(record.backend).map(|index| self.backend(index)),
            service: known(record.service)
                .map(|index| service.map_or_else(|| format!("service {index}"), |service| service.name)),
            verdict: match record.verdict {
                VERDICT_DROP => VerdictKind::Drop,
                VERDICT_ANSWER => VerdictKind::Answer,
                VERDICT_FORWARD => VerdictKind::Forward,
                _ => VerdictKind::Pass,
            },
            reason: Reason::from_number(record.reason).name().to_owned(),
            egress: (record.egress != 0).then(|| self.interface(record.egress)),
            egress_length: (record.egress != 0).then_some(record.left_length),
            arrived: None,
            left: None,
        }
    }

    /// Name of a backend; one that left the configuration has none any more.
    fn backend(&self, index: u32) -> String {
        let id = self.ids.backend_id(BackendIndex(index));
        id.map_or_else(|| format!("backend {index}"), |id| self.config[id].name.clone())
    }

    fn interface(&mut self, index: u32) -> String {
        let name = self.interfaces.entry(index).or_insert_with(|| {
            nix::net::if_::if_indextoname(index)
                .map_or_else(|_| format!("interface {index}"), |name| name.to_string_lossy().into_owned())
        });
        name.clone()
    }
}

/// What leads from the monotonic clock to the time of day, now.
pub(super) fn clock_offset_ns() -> i128 {
    jiff::Timestamp::now().as_nanosecond() - i128::from(monotonic_ns())
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What gave a packet its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Placed {
    by: Option<PlacedBy>,
    /// Step of the plan, and slots that were tried there.
    place: Option<(u32, u32)>,
    flows: FlowUse,
}

fn placement(record: &WatchRecord) -> Placed {
    let flows = if record.flags & SEEN_REMEMBERED != 0 { FlowUse::Written } else { FlowUse::Unused };
    let by = |by| Placed { by: Some(by), place: None, flows };
    if record.backend == NO_INDEX {
        return Placed { by: None, place: None, flows };
    }
    if record.flags & SEEN_BY_ID != 0 {
        return by(PlacedBy::ConnectionId);
    }
    if record.shape == Shape::LaterFragment as u8 {
        return by(PlacedBy::FirstFragment);
    }
    if record.walked & WALKED == 0 {
        return Placed { place: Some((0, 1)), ..by(PlacedBy::Home) };
    }
    let walked = Walked(record.walked & !WALKED);
    if walked.is_known() {
        let (by, flows) = match walked.how() {
            How::Flows => (PlacedBy::FlowTable, FlowUse::Hit),
            How::Openings => (PlacedBy::FlowTable, FlowUse::Moved),
            How::OldHome => (PlacedBy::OldHome, FlowUse::Written),
            How::OldHomeLimited => (PlacedBy::OldHome, FlowUse::Limited),
        };
        return Placed { by: Some(by), place: None, flows };
    }
    let by_walk = if walked.is_fail_open() {
        PlacedBy::FailOpen
    } else if walked.is_home() {
        PlacedBy::Home
    } else {
        PlacedBy::Probing
    };
    Placed { place: Some((walked.step(), walked.probes())), ..by(by_walk) }
}

fn pool(service: &Service, region: usize, step: usize) -> Option<String> {
    let plan = service.plans.get(region).or_else(|| service.plans.first())?;
    plan.get(step).map(|&pool| service[pool].name.clone())
}

fn known(index: u32) -> Option<u32> {
    (index != NO_INDEX).then_some(index)
}

fn address(words: &AddressWords) -> IpAddr {
    Ipv6Addr::from(words_address(words)).to_canonical()
}

fn shape(number: u8) -> PacketShape {
    match number {
        n if n == Shape::FirstFragment as u8 => PacketShape::FirstFragment,
        n if n == Shape::LaterFragment as u8 => PacketShape::LaterFragment,
        n if n == Shape::Error as u8 => PacketShape::IcmpError,
        _ => PacketShape::Whole,
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmp6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_placed_a_packet_is_told_from_its_word() {
        let record = WatchRecord { backend: 3, ..WatchRecord::default() };
        let told = |record: WatchRecord| {
            let Placed { by, place, flows } = placement(&record);
            (by, place, flows)
        };
        let home = (Some(PlacedBy::Home), Some((0, 1)), FlowUse::Unused);
        assert_eq!(told(record), home);
        // At backend 3, round 0, no refusal, the bit for home.
        assert_eq!(told(WatchRecord { walked: WALKED | 1 << 32 | 3, ..record }), home);
        // In the second round over a plan of steps, step 1, two refusals; remembered.
        let walked = WALKED | 3 | 9 << 37 | 2 << 42;
        let probed = WatchRecord { walked, flags: SEEN_REMEMBERED, ..record };
        assert_eq!(told(probed), (Some(PlacedBy::Probing), Some((1, 3)), FlowUse::Written));
        let failed_open = WatchRecord { walked: walked | 1 << 33, ..record };
        assert_eq!(told(failed_open).0, Some(PlacedBy::FailOpen));
        for (how, expected) in [
            (0, (PlacedBy::FlowTable, FlowUse::Hit)),
            (1, (PlacedBy::FlowTable, FlowUse::Moved)),
            (2, (PlacedBy::OldHome, FlowUse::Written)),
            (3, (PlacedBy::OldHome, FlowUse::Limited)),
        ] {
            let (by, place, flows) = told(WatchRecord { walked: WALKED | 3 | 1 << 35 | how << 51, ..record });
            assert_eq!((by, place, flows), (Some(expected.0), None, expected.1));
        }
        let nowhere = (None, None, FlowUse::Unused);
        assert_eq!(told(WatchRecord { backend: NO_INDEX, walked: WALKED | 1 << 34 | 8, ..record }), nowhere);
        let by = |record| told(record).0;
        assert_eq!(by(WatchRecord { flags: SEEN_BY_ID, ..record }), Some(PlacedBy::ConnectionId));
        let later = WatchRecord { shape: Shape::LaterFragment as u8, ..record };
        assert_eq!(by(later), Some(PlacedBy::FirstFragment));
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
    }
}
