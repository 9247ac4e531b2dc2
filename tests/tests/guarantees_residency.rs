//! Guarantee 6 with relays: whoever may be served by some regions only is served by no other one, whatever is down, spills or panics,
//! however a service fails, and on which side of a relay one looks. And `weir explain` says of each packet what becomes of it.

use anyhow::Result;
use lb_common::{
    abi::{
        admission::Admission,
        limits::{MAX_DOMAINS, MAX_PLAN_STEPS},
        plan::PLAN_PANIC,
        reason::Reason,
        service::{SERVICE_SPILLS, SERVICE_STEERED},
    },
    datapath::{self, buffer::Buffer, trace::Silent, verdict::Verdict},
};
use lb_tests::golden::{
    self, INGRESS,
    packets::{ACK, SYN, ethernet, ipv4, tcp},
};
use lb_userspace::{
    api::types::{ExplainQuery, Explanation, VerdictKind},
    config::{Config, Protocol},
    dataplane::explain::explain,
    plan::{compile::compile, image::ImageTables},
};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Regions: this host's, one whose backends it reaches itself, and two that it relays to.
const REGIONS: [&str; 4] = ["here", "near", "far", "off"];
/// A client of no client region, and of each of two.
const CLIENTS: [[u8; 3]; 3] = [[100, 64, 0], [198, 51, 100], [203, 0, 113]];

/// For each client the regions that may serve it, as bits; none for all of them.
#[derive(Clone, Debug)]
struct Setup {
    residency: [Option<u8>; CLIENTS.len()],
    fail_open: bool,
}

fn setups() -> impl Strategy<Value = Setup> {
    let line = || prop::option::weighted(0.7, 1_u8..16);
    ([line(), line(), line()], any::<bool>())
        .prop_map(|(residency, fail_open)| Setup { residency, fail_open })
}

impl Setup {
    fn text(&self) -> Result<String> {
        let mut text = String::from(
            "[node]\nname = \"n\"\nregion = \"here\"\ninterfaces = [\"eth0\"]\n\
             hash_key = \"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n\
             tunnel_source_v4 = \"10.255.0.0/16\"\nrelay_addresses = [\"10.100.0.1\"]\nrelay_peers = [\"10.254.0.0/16\"]\n\
             [topology.here]\nz = [\"r\"]\n[topology.near]\nz = [\"r\"]\n[topology.far]\n[topology.off]\n\
             [client_regions]\nc1 = [\"198.51.100.0/24\"]\nc2 = [\"203.0.113.0/24\"]\n",
        );
        for (region, name) in (0..).zip(REGIONS) {
            let (kind, of, place) =
                if region < 2 { ("set", "domain", "backend") } else { ("relay", "region", "host") };
            writeln!(text, "[[{kind}]]\nname = \"{name}\"\n{of} = \"{name}\"")?;
            for member in 1..3 {
                writeln!(
                    text,
                    "[[{kind}.{place}]]\nname = \"{name}{member}\"\naddress = \"10.1.{region}.{member}\""
                )?;
                if region < 2 {
                    writeln!(text, "rack = \"{name}/z/r\"")?;
                }
            }
        }
        let all_down = if self.fail_open { "fail-open" } else { "drop" };
        writeln!(
            text,
            "[[service]]\nname = \"s\"\naddress = \"{VIP}\"\nport = 80\nprotocol = \"tcp\"\non_all_down = \"{all_down}\"\n\
             [service.residency]"
        )?;
        for (name, bits) in ["default", "c1", "c2"].into_iter().zip(self.residency) {
            let Some(bits) = bits else { continue };
            let names = REGIONS.iter().enumerate().filter(|(at, _)| bits >> at & 1 != 0);
            let names: Vec<_> = names.map(|(_, name)| format!("\"{name}\"")).collect();
            writeln!(text, "{name} = [{}]", names.join(", "))?;
        }
        for (region, name) in REGIONS.into_iter().enumerate() {
            let members =
                if region < 2 { format!("sets = [\"{name}\"]") } else { format!("relay = \"{name}\"") };
            writeln!(text, "[[service.pool]]\nname = \"{name}\"\n{members}\ntable_size = 4093")?;
        }
        Ok(text)
    }

    /// The regions that may serve a client: those of its own line, else those of the default one.
    fn allowed(&self, client: usize) -> BTreeSet<&'static str> {
        let bits = self.residency[client].or(self.residency[0]).unwrap_or(u8::MAX);
        (0..REGIONS.len()).filter(|at| bits >> at & 1 != 0).map(|at| REGIONS[at]).collect()
    }
}

/// Something that happens to the data plane.
fn change(tables: &mut ImageTables, what: u8, index: prop::sample::Index, new: u8, old: u8) {
    let word = match what & 3 {
        0 => Admission::CLOSED,
        1 => Admission::CLOSED.held(),
        2 => Admission::new(0, 255),
        _ => Admission::new(new, old),
    };
    let (backends, domains, pools) =
        (tables.image().backends.len(), tables.image().names.domains.len(), tables.image().pools.len());
    match what >> 2 & 3 {
        0 => tables.set_backend_admission(index.index(backends), word),
        1 => tables.set_admission(index.index(domains), word),
        2 => tables.set_admission(MAX_DOMAINS + index.index(pools), word),
        _ => {
            let image = tables.image_mut();
            image.services.iter_mut().for_each(|service| service.flags |= SERVICE_SPILLS | SERVICE_STEERED);
            for plan in &mut image.plans {
                plan.shares = std::array::from_fn(|step| u16::from(new) << 8 << step.min(1));
                plan.leaves = [old; MAX_PLAN_STEPS];
                plan.eased = if what & 16 != 0 { PLAN_PANIC } else { 0 };
            }
        }
    }
}

struct Packet {
    client: usize,
    host: u8,
    opening: bool,
    relayed: bool,
}

impl Packet {
    fn source(&self) -> Ipv4Addr {
        let [a, b, c] = CLIENTS[self.client];
        Ipv4Addr::new(a, b, c, self.host)
    }

    fn frame(&self) -> Vec<u8> {
        let flags = if self.opening { SYN } else { ACK };
        let inner = ipv4(self.source(), VIP, 6, &tcp(40_000, 80, flags, &[]));
        ethernet(0x0800, &if self.relayed { ipv4(PEER, HERE, 4, &inner) } else { inner })
    }

    fn query(&self) -> ExplainQuery {
        ExplainQuery {
            src: SocketAddr::from((self.source(), 40_000)),
            dst: SocketAddr::from((VIP, 80)),
            protocol: Protocol::Tcp,
            opening: self.opening,
            from_relay: self.relayed,
        }
    }
}

/// The region in which a frame's outer destination is.
fn region(frame: &[u8]) -> &'static str {
    REGIONS[usize::from(frame[32])]
}

fn tables(setup: &Setup) -> (Config, ImageTables) {
    let text = setup.text().expect("a String takes all");
    let config = Config::parse(&text, "random.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    let image = golden::with_next_hops(compile(&config).expect("a valid configuration compiles"));
    (config, ImageTables::new(image))
}

fn says(told: &Explanation, text: &str) -> bool {
    told.steps.iter().any(|step| step.text.contains(text))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_widens_residency_on_either_side_of_a_relay(
        setup in setups(),
        changes in prop::collection::vec((any::<u8>(), any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 0..10),
        packets in prop::collection::vec((0..CLIENTS.len(), 1_u8..30, any::<bool>(), any::<bool>()), 100),
    ) {
        let (config, mut tables) = tables(&setup);
        let mut changes = changes.into_iter();
        for (at, (client, host, opening, relayed)) in packets.into_iter().enumerate() {
            if at % 10 == 0 && let Some((what, index, new, old)) = changes.next() {
                change(&mut tables, what, index, new, old);
            }
            let packet = Packet { client, host, opening, relayed };
            let told = explain(&tables, &config, &tables.image().ids.clone(), packet.query());
            let frame = packet.frame();
            let mut buffer = Buffer::new(&frame, INGRESS);
            let outcome = datapath::process(&mut buffer, &tables, &mut Silent);
            prop_assert_eq!(&told.reason, outcome.reason.name(), "{:?}", told);
            let allowed = setup.allowed(client);
            prop_assert!(told.plan.iter().all(|pool| allowed.contains(pool.as_str())), "{:?}", told.plan);
            if outcome.verdict == Verdict::Tx {
                let region = region(buffer.frame());
                prop_assert!(allowed.contains(region), "client {} is served in {}: {:?}", client, region, told.steps);
                prop_assert!(!relayed || ["here", "near"].contains(&region), "crossed again to {}", region);
                let backend = told.backend.as_ref().map(|backend| backend.name.as_str());
                prop_assert!(backend.is_some_and(|name| name.starts_with(region)), "{:?} but {}", backend, region);
            } else {
                let reason = if relayed { Reason::RelayRefused } else { Reason::AllDown };
                prop_assert_eq!(outcome.reason, reason);
            }
            // It says so where a packet passes over what its plan names.
            let names_relay = told.plan.iter().any(|pool| ["far", "off"].contains(&pool.as_str()));
            if relayed && outcome.reason == Reason::RelayRefused {
                prop_assert_eq!(names_relay, says(&told, "its hosts are in another region"), "{:?}", told.steps);
            }
            let is_bound = setup.residency[client].or(setup.residency[0]).is_some();
            prop_assert_eq!(says(&told, "residency: only"), is_bound, "{:?}", told.steps);
        }
    }
}

/// Who goes on at once is told so, once for each pool, and only who does.
#[test]
fn explain_says_who_goes_on_at_once() {
    let setup = Setup { residency: [None; CLIENTS.len()], fail_open: false };
    let (config, mut tables) = tables(&setup);
    let ids = tables.image().ids.clone();
    let down = tables.image().names.backends.iter().position(|name| name == "here1").expect("a backend");
    tables.set_backend_admission(down, Admission::CLOSED);
    let image = tables.image_mut();
    image.services[0].flags |= SERVICE_STEERED;
    image.plans.iter_mut().for_each(|plan| plan.leaves[0] = 128);
    let mut seen = [0; 3];
    for host in 1..200 {
        let packet = Packet { client: 0, host, opening: true, relayed: false };
        let told = explain(&tables, &config, &ids, packet.query());
        let backend = told.backend.as_ref().expect("a backend").name.clone();
        assert_eq!(told.verdict, VerdictKind::Forward);
        let goes_on = told
            .steps
            .iter()
            .filter(|step| step.text.contains("it goes on to the next pool at once"))
            .count();
        let home_is_down = told.steps.iter().any(|step| step.text.contains("home is here1"));
        let expected = match (home_is_down, backend.starts_with("near")) {
            (false, false) => 0,
            (true, false) => 1,
            (true, true) => 2,
            (false, true) => panic!("host {host} left a home that admits it"),
        };
        assert_eq!(goes_on, usize::from(expected == 2), "host {host} to {backend}: {:#?}", told.steps);
        seen[expected] += 1;
    }
    assert!(seen.iter().all(|&count| count > 20), "{seen:?}");
}
