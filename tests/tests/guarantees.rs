//! The guarantees about placement (DESIGN, section 3), as properties of the pure code over random topologies and histories.

use lb_common::{
    abi::{
        admission::Admission,
        limits::MAX_PLAN_STEPS,
        plan::{PLAN_PANIC, POOL_RELAY},
        service::{SERVICE_SPILLS, SERVICE_STEERED},
    },
    datapath::{
        hash::flow_hash,
        parse::{Shape as PacketShape, Transport, Tuple},
        ports::Tables as _,
        steer::{self, Origin},
        trace::Silent,
    },
    net::{mapped_words, protocol},
};
use lb_userspace::{
    config::Config,
    plan::{
        compile::compile,
        image::{Image, ImageTables},
    },
};
use proptest::prelude::*;
use std::fmt::Write as _;

/// Flows that each property looks at.
const FLOWS: u32 = 300;

/// A topology: backends per rack, racks per zone, zones per region.
type Shape = Vec<Vec<Vec<u8>>>;

fn shapes() -> impl Strategy<Value = Shape> {
    let rack = 1_u8..4;
    let zone = prop::collection::vec(rack, 1..4);
    let region = prop::collection::vec(zone, 1..4);
    prop::collection::vec(region, 1..4)
}

/// A configuration of that shape: a set and a pool for each region, one service, and a plan that goes through the regions
/// in order.
fn configuration(shape: &Shape, on_all_down: &str) -> String {
    let mut text = String::from(
        "[node]\nname = \"n\"\nregion = \"a0\"\ninterfaces = [\"eth0\"]\n\
         hash_key = \"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n\
         tunnel_source_v4 = \"10.255.0.0/16\"\ntunnel_source_v6 = \"fd00:ff::/64\"\n",
    );
    let mut sets = String::new();
    for (r, zones) in shape.iter().enumerate() {
        let _ = writeln!(text, "[topology.a{r}]");
        let _ = writeln!(sets, "[[set]]\nname = \"s{r}\"\ndomain = \"a{r}\"");
        for (z, racks) in zones.iter().enumerate() {
            let names: Vec<_> = (0..racks.len()).map(|k| format!("\"k{k}\"")).collect();
            let _ = writeln!(text, "z{z} = [{}]", names.join(", "));
            for (k, backends) in racks.iter().enumerate() {
                for b in 0..*backends {
                    let _ = writeln!(
                        sets,
                        "[[set.backend]]\nname = \"a{r}z{z}k{k}b{b}\"\nrack = \"a{r}/z{z}/k{k}\"\n\
                         address = \"10.{r}.{}.{b}\"\nweight = {}",
                        16 * z + k,
                        50 + 50 * u32::from(b)
                    );
                }
            }
        }
    }
    text += &sets;
    let _ = writeln!(
        text,
        "[[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
         on_all_down = \"{on_all_down}\""
    );
    for r in 0..shape.len() {
        let _ = writeln!(text, "[[service.pool]]\nname = \"p{r}\"\nsets = [\"s{r}\"]\ntable_size = 4093");
    }
    let pools: Vec<_> = (0..shape.len()).map(|r| format!("\"p{r}\"")).collect();
    let _ = writeln!(text, "[service.plan]\ndefault = [{}]", pools.join(", "));
    text
}

fn image(shape: &Shape, on_all_down: &str) -> Image {
    let text = configuration(shape, on_all_down);
    let config = Config::parse(&text, "property.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    compile(&config).expect("a valid configuration compiles")
}

fn transport(flow: u32, opening: bool) -> Transport {
    Transport {
        tuple: Tuple {
            source: mapped_words((0x0a00_0000_u32 + flow * 7919).to_be()),
            destination: mapped_words(u32::from_ne_bytes([192, 0, 2, 1])),
            ports: u32::from_ne_bytes([(flow >> 8) as u8, flow as u8, 0, 80]),
            protocol: protocol::TCP,
            is_ipv6: false,
        },
        opening,
        traffic_class: 0,
        ip_length: 60,
        ip_at: 14,
        closing: false,
        payload_at: 34,
        shape: PacketShape::Whole,
        fragment: 0,
    }
}

/// Where one packet of a flow goes.
fn place(tables: &ImageTables, flow: u32, opening: bool, origin: Origin) -> Option<u32> {
    let transport = transport(flow, opening);
    let h = flow_hash(&tables.root()?.hash_key, &transport.tuple);
    let service = tables.service(0)?;
    steer::place(tables, service, &transport, h, origin, &mut Silent).ok().map(|p| p.backend)
}

fn place_all(tables: &ImageTables, opening: bool) -> Vec<Option<u32>> {
    (0..FLOWS).map(|flow| place(tables, flow, opening, Origin::Client)).collect()
}

/// Something with an admission word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Backend(usize),
    Domain(usize),
}

fn pick(image: &Image, index: prop::sample::Index) -> Cell {
    let backends = image.backends.len();
    match index.index(backends + image.names.domains.len()) {
        i if i < backends => Cell::Backend(i),
        i => Cell::Domain(i - backends),
    }
}

fn set(tables: &mut ImageTables, cell: Cell, word: Admission) {
    match cell {
        Cell::Backend(index) => tables.set_backend_admission(index, word),
        Cell::Domain(index) => tables.set_admission(index, word),
    }
}

fn is_within(image: &Image, backend: u32, cell: Cell) -> bool {
    let entry = &image.backends[backend as usize];
    match cell {
        Cell::Backend(index) => index == backend as usize,
        Cell::Domain(index) => [entry.rack, entry.zone, entry.region].contains(&(index as u16)),
    }
}

/// Failed, drained, or shifted to a share.
fn words() -> impl Strategy<Value = Admission> {
    prop_oneof![
        Just(Admission::CLOSED),
        Just(Admission::new(0, 255)),
        (1_u8..255).prop_map(|share| Admission::new(share, 255)),
    ]
}

/// What steers the one plan: shares, who goes on, whether health is believed.
#[derive(Clone, Copy, Debug)]
struct Steered {
    shares: [u16; MAX_PLAN_STEPS],
    leaves: [u8; MAX_PLAN_STEPS],
    panic: bool,
}

fn steered() -> impl Strategy<Value = Steered> {
    (any::<[u16; MAX_PLAN_STEPS]>(), any::<[u8; MAX_PLAN_STEPS]>(), any::<bool>()).prop_map(
        |(mut shares, leaves, panic)| {
            shares.sort_unstable();
            Steered { shares, leaves, panic }
        },
    )
}

fn steer(tables: &mut ImageTables, steered: &Steered) {
    let image = tables.image_mut();
    image.services[0].flags |= SERVICE_SPILLS | SERVICE_STEERED;
    let plan = &mut image.plans[0];
    (plan.shares, plan.leaves) = (steered.shares, steered.leaves);
    plan.eased = if steered.panic { PLAN_PANIC } else { 0 };
}

/// The step of the plan whose pool has a backend: pools are regions, in the order of the plan.
fn step(image: &Image, backend: u32) -> u8 {
    image.names.backends[backend as usize].as_bytes()[1] - b'0'
}

/// Back to everything, with the mark that flows may live elsewhere.
const RESTORED: Admission = Admission::new(255, 255);

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Guarantee 2: when something fails, drains, is shifted or returns, no new flow of any other backend moves, and after
    /// the return every flow is where it was.
    #[test]
    fn no_collateral(shape in shapes(), earlier: Vec<(prop::sample::Index, bool)>, index: prop::sample::Index, word in words()) {
        let image = image(&shape, "drop");
        let mut tables = ImageTables::new(image.clone());
        for (index, down) in earlier.iter().take(4) {
            set(&mut tables, pick(&image, *index), if *down { Admission::CLOSED } else { RESTORED });
        }
        let cell = pick(&image, index);
        set(&mut tables, cell, RESTORED);
        let before = place_all(&tables, true);
        set(&mut tables, cell, word);
        let during = place_all(&tables, true);
        set(&mut tables, cell, RESTORED);
        let after = place_all(&tables, true);
        prop_assert_eq!(&before, &after, "return restores the placement");
        for (flow, (before, during)) in before.iter().zip(&during).enumerate() {
            let affected = before.is_some_and(|b| is_within(&image, b, cell));
            if !affected {
                prop_assert_eq!(before, during, "flow {} moved though its backend is not in {:?}", flow, cell);
            }
            if word.new_share() == 0 {
                prop_assert!(during.is_none_or(|b| !is_within(&image, b, cell)), "flow {} in what admits none", flow);
            }
        }
    }

    /// Guarantee 2 for a shift: raising the share only brings flows in, lowering it only sends flows out.
    #[test]
    fn a_shift_is_monotonic(shape in shapes(), index: prop::sample::Index, low: u8, high: u8) {
        let (low, high) = (low.min(high), low.max(high));
        let image = image(&shape, "drop");
        let cell = pick(&image, index);
        let mut tables = ImageTables::new(image.clone());
        set(&mut tables, cell, Admission::new(low, 255));
        let few = place_all(&tables, true);
        set(&mut tables, cell, Admission::new(high, 255));
        let many = place_all(&tables, true);
        for (few, many) in few.iter().zip(&many) {
            if few.is_some_and(|b| is_within(&image, b, cell)) {
                prop_assert_eq!(few, many);
            }
        }
    }

    /// Guarantee 3: where a new flow goes depends on the words as they are, not on the order in which they came to be so, nor
    /// on the packets that were seen on the way.
    #[test]
    fn order_does_not_matter(shape in shapes(), history: Vec<(prop::sample::Index, u8, u8)>, shuffle: u64) {
        let image = image(&shape, "drop");
        let mut one = ImageTables::new(image.clone());
        let mut last: Vec<(Cell, Admission)> = Vec::new();
        for (index, new, old) in history.iter().take(12) {
            let (cell, word) = (pick(&image, *index), Admission::new(*new, *old));
            set(&mut one, cell, word);
            last.retain(|(c, _)| *c != cell);
            last.push((cell, word));
            let _ = place_all(&one, true);
            let _ = place_all(&one, false);
        }
        last.sort_by_key(|(cell, _)| match cell {
            Cell::Backend(i) => (*i as u64).wrapping_mul(shuffle | 1),
            Cell::Domain(i) => (*i as u64 + 1000).wrapping_mul(shuffle | 1),
        });
        let mut other = ImageTables::new(image);
        for (cell, word) in last {
            set(&mut other, cell, word);
        }
        prop_assert_eq!(place_all(&one, true), place_all(&other, true));
    }

    /// Guarantee 4, as far as the flow table goes: a TCP flow keeps its backend through drains and returns of anything, as
    /// long as that backend admits established flows.
    #[test]
    fn established_flows_survive_drains(shape in shapes(), history: Vec<(prop::sample::Index, bool)>) {
        let image = image(&shape, "drop");
        let mut tables = ImageTables::new(image.clone());
        let mut opened: Vec<(u32, u32)> = Vec::new();
        for (round, (index, drain)) in history.iter().take(8).enumerate() {
            let word = if *drain { Admission::new(0, 255) } else { RESTORED };
            set(&mut tables, pick(&image, *index), word);
            for flow in (0..40).map(|i| round as u32 * 40 + i) {
                if let Some(backend) = place(&tables, flow, true, Origin::Client) {
                    opened.push((flow, backend));
                }
            }
            for (flow, backend) in &opened {
                prop_assert_eq!(place(&tables, *flow, false, Origin::Client), Some(*backend), "flow {}", flow);
            }
        }
    }

    /// Guarantee 5 (structure): what came from another region never goes to a pool of another region's hosts, whatever is
    /// down, and whatever a client's flow with the same tuple left in the flow table.
    #[test]
    fn a_relayed_packet_never_crosses_again(
        shape in shapes(),
        relays: u8,
        down: Vec<prop::sample::Index>,
        fail_open: bool,
    ) {
        let mut image = image(&shape, if fail_open { "fail-open" } else { "drop" });
        for pool in 0..image.pools.len() {
            if relays >> pool & 1 != 0 {
                image.pools[pool].flags |= POOL_RELAY;
            }
        }
        image.services[0].first = image.pools[0];
        for plan in &mut image.plans {
            plan.first = image.pools[usize::from(plan.pools[0])];
        }
        let mut tables = ImageTables::new(image.clone());
        for index in down.iter().take(6) {
            set(&mut tables, pick(&image, *index), Admission::new(0, 255));
        }
        for flow in 0..FLOWS {
            let _ = place(&tables, flow, true, Origin::Client);
            for opening in [true, false] {
                if let Some(backend) = place(&tables, flow, opening, Origin::Relay) {
                    let region = image.names.backends[backend as usize].as_bytes()[1] - b'0';
                    prop_assert!(relays >> region & 1 == 0, "flow {} was relayed on to region {}", flow, region);
                }
            }
        }
    }

    /// Raising a share of those who go on, or of those who start behind a step, moves flows only outward; who goes on is only
    /// who finds its home shut, so that no flow of a member that is well moves because others failed (guarantee 2).
    #[test]
    fn steering_moves_flows_only_outward(
        shape in shapes(),
        down: Vec<prop::sample::Index>,
        steered in steered(),
        at in 0..MAX_PLAN_STEPS,
        more: u8,
        less: u16,
    ) {
        let steered = Steered { panic: false, ..steered };
        let image = image(&shape, "drop");
        let mut tables = ImageTables::new(image.clone());
        steer(&mut tables, &steered);
        let well = place_all(&tables, true);
        for index in down.iter().take(4) {
            set(&mut tables, pick(&image, *index), Admission::CLOSED);
        }
        let before = place_all(&tables, true);
        let is_open = |backend: u32| down.iter().take(4).all(|index| !is_within(&image, backend, pick(&image, *index)));
        for (flow, (well, before)) in well.iter().zip(&before).enumerate() {
            if well.is_some_and(is_open) {
                prop_assert_eq!(well, before, "flow {} left a home that admits it", flow);
            }
        }
        let mut nobody_leaves = steered;
        nobody_leaves.leaves.fill(0);
        steer(&mut tables, &nobody_leaves);
        let possible = place_all(&tables, true);
        let mut leaving = steered;
        leaving.leaves[at] = leaving.leaves[at].max(more);
        steer(&mut tables, &leaving);
        let after = place_all(&tables, true);
        for (flow, (before, after)) in before.iter().zip(&after).enumerate() {
            let (Some(before), Some(after)) = (before, after) else {
                prop_assert_eq!(before, after, "flow {}", flow);
                continue;
            };
            let only_pool = step(&image, *before) as usize == at && before != after;
            prop_assert!(before == after || only_pool, "flow {} left step {} for {}", flow, step(&image, *before), step(&image, *after));
        }
        prop_assert!(possible.iter().zip(&after).all(|(possible, after)| possible.is_some() == after.is_some()), "nobody is refused for it");
        for index in down.iter().take(4) {
            set(&mut tables, pick(&image, *index), RESTORED);
        }
        prop_assert_eq!(&well, &place_all(&tables, true), "what returns has its flows again");
        let mut spilling = leaving;
        for share in &mut spilling.shares[..=at] {
            *share = (*share).min(less);
        }
        steer(&mut tables, &spilling);
        for (flow, (before, after)) in well.iter().zip(place_all(&tables, true)).enumerate() {
            let (Some(before), Some(after)) = (*before, after) else { panic!("flow {flow} is refused") };
            prop_assert!(before == after || step(&image, after) > step(&image, before), "flow {} came inward", flow);
        }
    }

    /// Panic and everything else that steers sends no flow to what an operator took out, nor out of its plan (guarantee 6), and gives
    /// every flow a place that health alone would refuse.
    #[test]
    fn panic_heeds_operators_and_stays_in_the_plan(
        shape in shapes(),
        steered in steered(),
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..6),
        fail_open: bool,
        opening: bool,
        allowed in 1..4_u32,
    ) {
        let mut image = image(&shape, if fail_open { "fail-open" } else { "drop" });
        image.plans[0].steps = image.plans[0].steps.min(allowed);
        let steps = image.plans[0].steps;
        let mut tables = ImageTables::new(image.clone());
        steer(&mut tables, &steered);
        let cells: Vec<_> = words.iter().map(|(index, held)| (pick(&image, *index), *held)).collect();
        for &(cell, held) in &cells {
            // The last word about a cell counts; an operator's outranks.
            let by_operator = held || cells.iter().any(|&(other, held)| other == cell && held);
            set(&mut tables, cell, if by_operator { Admission::CLOSED.held() } else { Admission::CLOSED });
        }
        let is_held = |backend: u32| cells.iter().any(|&(cell, held)| held && is_within(&image, backend, cell));
        let in_plan = |backend: u32| u32::from(step(&image, backend)) < steps;
        let left = (0..image.backends.len() as u32).any(|backend| in_plan(backend) && !is_held(backend));
        for (flow, backend) in place_all(&tables, opening).into_iter().enumerate() {
            if let Some(backend) = backend {
                prop_assert!(!is_held(backend), "flow {} goes to what an operator took out", flow);
                prop_assert!(in_plan(backend), "flow {} leaves its plan", flow);
            }
            prop_assert!(backend.is_some() || !steered.panic || !left, "flow {} is refused in panic", flow);
        }
    }

    /// Fail-open gives every flow a place unless an operator took everything out, and never one that an operator took out.
    #[test]
    fn fail_open_heeds_operators(shape in shapes(), index: prop::sample::Index) {
        let image = image(&shape, "fail-open");
        let mut tables = ImageTables::new(image.clone());
        for domain in 0..image.names.domains.len() {
            set(&mut tables, Cell::Domain(domain), Admission::CLOSED);
        }
        let cell = pick(&image, index);
        set(&mut tables, cell, Admission::CLOSED.held());
        for backend in place_all(&tables, true).into_iter().flatten() {
            prop_assert!(!is_within(&image, backend, cell));
        }
    }
}

/// A dead rack's flows spread over all survivors, not over one neighbour: no survivor gets more than twice its part of what
/// the rack left (DESIGN, section 5, measured 1.015 on average).
#[test]
fn a_dead_racks_load_spreads_over_all_survivors() {
    let shape = vec![vec![vec![3, 3, 3], vec![3, 3, 3]]];
    let image = image(&shape, "drop");
    let mut tables = ImageTables::new(image.clone());
    let flows = 60_000;
    let count = |tables: &ImageTables| {
        let mut counts = vec![0_u32; image.backends.len()];
        for flow in 0..flows {
            counts[place(tables, flow, true, Origin::Client).expect("placed") as usize] += 1;
        }
        counts
    };
    let before = count(&tables);
    let rack = image.names.domains.iter().position(|d| d == "a0/z0/k0").expect("rack");
    set(&mut tables, Cell::Domain(rack), Admission::CLOSED);
    let after = count(&tables);
    let left: u32 = (0..before.len())
        .filter(|&b| is_within(&image, b as u32, Cell::Domain(rack)))
        .map(|b| before[b])
        .sum();
    let survivors: u32 = flows - left;
    for backend in (0..before.len()).filter(|&b| !is_within(&image, b as u32, Cell::Domain(rack))) {
        let gained = f64::from(after[backend] - before[backend]);
        let fair = f64::from(left) * f64::from(before[backend]) / f64::from(survivors);
        assert!((0.75..1.33).contains(&(gained / fair)), "backend {backend}: {gained} of {fair}");
    }
}

/// A flow is not refused for bad luck: with nine racks of ten down, 16 probes alone would miss the tenth for one flow in five.
#[test]
fn no_flow_is_refused_while_a_member_is_left() {
    let image = image(&vec![vec![vec![2; 10]]], "drop");
    let mut tables = ImageTables::new(image.clone());
    for rack in 1..10 {
        let path = format!("a0/z0/k{rack}");
        let index = image.names.domains.iter().position(|d| *d == path).expect("rack");
        set(&mut tables, Cell::Domain(index), Admission::CLOSED);
    }
    for flow in 0..20_000 {
        assert!(place(&tables, flow, true, Origin::Client).is_some(), "flow {flow} was refused");
    }
}
