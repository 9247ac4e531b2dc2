//! The targets' bodies.

use super::Input;
use crate::golden::{
    self, Change, INGRESS, action,
    agent::{AgentFixture, AgentKernel},
    judge::{check_counters, difference, run_pure},
    kernel::{EDGE, EDGE_AND_RELAY, Kernel, Ran},
};
use lb_common::{
    abi::{
        admission::Admission,
        counter::Counter,
        guard::{ALL, SCOPE_ALL},
        reason::Reason,
        root::FEATURE_EMERGENCY,
        service::SERVICE_STICKY_UDP,
    },
    datapath::{buffer::Buffer, flow::FlowTable, parse},
    net::ethernet,
};
use lb_userspace::{
    config::IpPrefix,
    dataplane::object::EDGE_PROGRAM,
    plan::{
        guard::Blocked,
        image::{Image, ImageTables},
    },
};
use std::{cell::OnceCell, hint::black_box};

/// Flows that the flow table of the XDP program holds: more than an input has frames.
const FLOW_ENTRIES: u32 = 1024;
/// Shortest frame that the kernel takes for a test run.
const SHORTEST: usize = ethernet::LENGTH;
/// `::ffff:0:0/96`, in which IPv4 addresses stand.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The service `quic` is in transition, as `many` and `many-udp` are by [`Change::Before`].
const QUIC_IN_TRANSITION: Change = Change::Image(|image| {
    let service = image.names.services.iter().position(|name| name == "quic").expect("the fixture has it");
    (image.services[service].previous_base, image.services[service].previous_plans) = (1, 1);
});

/// Every emergency switch is on: a prefix is blocked, and new flows of a service and of a class are shed, all of them.
const EMERGENCY: Change = Change::Image(|image| {
    image.root.features |= FEATURE_EMERGENCY;
    image.guards.node.shed = [0, 0, ALL, 0];
    image.guards.node.shed_until = u32::MAX;
    image.guards.node.blocks_until = u32::MAX;
    let prefix = IpPrefix::parse("203.0.113.0/24").expect("a prefix");
    image.guards.blocked.push(Blocked { prefix, scope: SCOPE_ALL, until: u32::MAX });
});

/// States of the fixture's data plane.
const STATES: [&[Change]; 8] = [
    &[],
    &[Change::Domain("west/w1/r2", Admission::new(100, 200))],
    &[Change::Domain("west/w1", Admission::CLOSED)],
    &[Change::Backend("v4", Admission::new(0, 255)), Change::Egress("v6", 7)],
    &[Change::Domain("west", Admission::CLOSED)],
    &[Change::Egress("v4", 0), Change::Domain("west/w2", Admission::new(0, 255))],
    &[
        Change::Marked("many/west"),
        Change::Marked("many-udp/west"),
        Change::Marked("quic/west"),
        Change::Before("many", "many/east"),
        Change::Before("many-udp", "many/east"),
        QUIC_IN_TRANSITION,
        Change::ServiceFlags("many-udp", SERVICE_STICKY_UDP),
        Change::Domain("west/w1/r2", Admission::new(0, 255)),
    ],
    &[EMERGENCY, Change::Domain("west/w1", Admission::new(0, 255))],
];

thread_local! {
    static IMAGES: Vec<Image> = STATES.iter().map(|changes| image(changes)).collect();
    static KERNELS: [OnceCell<Kernel>; STATES.len()] = const { [const { OnceCell::new() }; STATES.len()] };
    static AGENTS: [AgentFixture; 2] = agents();
    static OTHER_PORT: AgentFixture = { let [open, _] = agents(); open.with_gue_port(5555) };
    static AGENT_KERNELS: [OnceCell<AgentKernel>; 2] = const { [const { OnceCell::new() }; 2] };
}

fn image(changes: &[Change]) -> Image {
    let mut image = golden::fixture().expect("the fixture is valid");
    // What is limited in time depends on how fast inputs follow each other.
    image.root.answers_per_second = u32::MAX;
    image.root.flow_inserts_per_second = u32::MAX;
    for change in changes {
        change.apply(&mut image).expect("the fixture has what the states change");
    }
    image
}

/// An agent for every backend of the fixture, open to all, and one that takes packets of the fixture's edge only.
fn agents() -> [AgentFixture; 2] {
    let mapped =
        |v4: [u8; 4]| -> [u8; 16] { std::array::from_fn(|i| if i < 12 { MAPPED[i] } else { v4[i - 12] }) };
    let image = image(&[]);
    let addresses: Vec<[u8; 16]> = (image.backends.iter())
        .map(|entry| match (entry.is_outer_ipv6(), entry.outer_destination) {
            (true, address) => address,
            (false, [a, b, c, d, ..]) => mapped([a, b, c, d]),
        })
        .collect();
    let edge = [(mapped(image.root.outer_source_v4), 128), (image.root.outer_source_v6, 128)];
    [AgentFixture::new(&addresses, &[]), AgentFixture::new(&addresses, &edge)]
}

/// Compiles what targets without a kernel run on.
pub(super) fn compile() {
    IMAGES.with(|_| ());
    AGENTS.with(|_| ());
    OTHER_PORT.with(|_| ());
}

/// Loads the edge's program in every state.
pub(super) fn load_edge() {
    (0..STATES.len()).for_each(|state| with_edge(state, |_, _| ()));
}

/// Runs with the edge's program and the image in its maps.
fn with_edge(state: usize, run: impl FnOnce(&Kernel, &Image)) {
    let load =
        |image: &Image| Kernel::load(EDGE, &EDGE_AND_RELAY, image, FLOW_ENTRIES).expect("loading (as root)");
    IMAGES.with(|images| {
        let image = &images[state];
        KERNELS.with(|kernels| run(kernels[state].get_or_init(|| load(image)), image));
    });
}

/// Loads the program of each agent.
pub(super) fn load_agent() {
    AGENTS.with(|agents| (0..agents.len()).for_each(|at| with_agent(at, |_, _| ())));
}

/// Runs with an agent's program and the same in pure code.
fn with_agent(at: usize, run: impl FnOnce(&AgentKernel, &AgentFixture)) {
    AGENTS.with(|agents| {
        let load = || AgentKernel::load(&agents[at]).expect("loading (as root)");
        AGENT_KERNELS.with(|kernels| run(kernels[at].get_or_init(load), &agents[at]));
    });
}

fn state(input: &Input<'_>) -> usize {
    usize::from(input.state) % STATES.len()
}

/// Tells what each frame is. Only that it ends and does not panic can be said of the result here.
pub(super) fn parse(data: &[u8]) {
    for frame in Input::decode(data).frames {
        black_box(parse::parse(&Buffer::new(frame, INGRESS)));
    }
}

/// Runs the frames through the edge's decisions: each is counted once, what is passed is untouched, sound maps are never
/// called inconsistent, and the agent gets out of each forwarded one exactly what came in.
pub(super) fn process(data: &[u8]) {
    let input = Input::decode(data);
    IMAGES.with(|images| {
        let image = &images[state(&input)];
        let tables = ImageTables::new(image.clone());
        for frame in &input.frames {
            let before: Vec<Counter> = (0..image.counter_slots()).map(|slot| tables.counter(slot)).collect();
            let (ran, reason) = run_pure(&tables, frame);
            assert_ne!(reason, Reason::Inconsistent, "of sound maps");
            check_counters(image, frame.len(), reason, |slot| {
                Ok(difference(&tables.counter(slot), &before[slot as usize]))
            })
            .expect("exactly one count");
            if ran.action == action::PASS {
                assert_eq!(ran.frame, *frame, "a frame that is passed stays as it came");
            }
            if reason == Reason::Forwarded {
                arrives(&ran, frame);
            }
        }
    });
}

/// What the edge sent out reaches the backend's stack as it came to the edge, but for the Ethernet header.
fn arrives(sent: &Ran, came: &[u8]) {
    // One service of the fixture has another GUE port than the rest.
    let arrived =
        [AGENTS.with(|[open, _]| open.run(&sent.frame)), OTHER_PORT.with(|agent| agent.run(&sent.frame))];
    let refused = arrived.iter().any(|ran| ran.action != action::PASS);
    assert!(!refused, "the agent refuses what the edge sent: {:02x?}", sent.frame);
    let is_whole = |ran: &Ran| {
        let packet = packet_of(&ran.frame);
        !packet.is_empty() && ends_with(came, packet)
    };
    assert!(arrived.iter().any(is_whole), "{came:02x?} arrived as {arrived:02x?}");
}

/// What stands behind a frame's Ethernet header and VLAN tags.
fn packet_of(frame: &[u8]) -> &[u8] {
    let mut at = ethernet::LENGTH;
    while let Some([0x81, 0x00] | [0x88, 0xa8]) =
        frame.get(at - 2..at).and_then(|kind| kind.first_chunk::<2>())
    {
        at += 4;
    }
    frame.get(at..).unwrap_or_default()
}

/// Whether a frame ends with an IP packet, but for its ECN bits and the header checksum over them: what met congestion on the
/// way says so (RFC 6040).
fn ends_with(frame: &[u8], packet: &[u8]) -> bool {
    let Some(start) = frame.len().checked_sub(packet.len()) else { return false };
    let plain = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        match bytes.first().map(|first| first >> 4) {
            Some(4) if bytes.len() >= 20 => {
                bytes[1] &= 0xfc;
                bytes[10..12].fill(0);
            }
            Some(6) if bytes.len() >= 2 => bytes[1] &= 0xcf,
            _ => {}
        }
        bytes
    };
    plain(&frame[start..]) == plain(packet)
}

/// Runs the frames through the agent's decisions: what is handed to the stack is the end of what came.
pub(super) fn agent(data: &[u8]) {
    let input = Input::decode(data);
    AGENTS.with(|agents| {
        for frame in &input.frames {
            let ran = agents[usize::from(input.state) % agents.len()].run(frame);
            if ran.action == action::PASS && ran.frame.len() != frame.len() {
                let packet = packet_of(&ran.frame);
                assert!(ends_with(frame, packet), "{frame:02x?} was decapsulated to {:02x?}", ran.frame);
            } else if ran.action == action::PASS {
                assert_eq!(ran.frame, *frame, "a frame that is passed stays as it came");
            }
        }
    });
}

/// Frames that the kernel takes for a test run.
fn testable<'a>(input: &'a Input<'_>) -> impl Iterator<Item = &'a [u8]> {
    input.frames.iter().copied().filter(|frame| frame.len() >= SHORTEST)
}

/// Runs the frames through the edge's XDP program and through the pure code: actions, frames and flow tables must be equal.
pub(super) fn edge_program(data: &[u8]) {
    let input = Input::decode(data);
    with_edge(state(&input), |kernel, image| {
        kernel.forget().expect("emptying what the program remembers");
        let tables = ImageTables::new(image.clone());
        for frame in testable(&input) {
            let (pure, reason) = run_pure(&tables, frame);
            let ran = kernel.run(EDGE_PROGRAM, frame).expect("a test run");
            assert_eq!(ran, pure, "program and pure code ({reason:?}) differ on {frame:02x?}");
        }
        for table in [FlowTable::Flows, FlowTable::Openings] {
            let entries = kernel.flows(table).expect("reading a table of flows");
            assert_eq!(entries, tables.flows(table).len(), "{table:?}");
        }
    });
}

/// Runs the frames through the agent's XDP program and through the pure code: actions and frames must be equal.
pub(super) fn agent_program(data: &[u8]) {
    let input = Input::decode(data);
    with_agent(usize::from(input.state) % AGENTS.with(|agents| agents.len()), |kernel, agent| {
        for frame in testable(&input) {
            let (pure, ran) = (agent.run(frame), kernel.run(frame).expect("a test run"));
            assert_eq!(ran, pure, "program and pure code differ on {frame:02x?}");
        }
    });
}
