//! Guarantee 5 as a property of the whole datapath: whatever plans, words, flows, fragments and tables there are, nothing that another
//! region relayed leaves for another region's host again, and nothing of it is passed.

use anyhow::Result;
use lb_common::abi::{admission::Admission, limits::MAX_DOMAINS, pod::Pod as _, service::SERVICE_SPILLS};
use lb_maglev::SLOT_MARK;
use lb_tests::golden::{
    self, action,
    judge::run_pure,
    packets::{ACK, Ipv4, SYN, ethernet, icmp, ipv4, tcp, udp},
};
use lb_userspace::plan::image::{Image, ImageTables};
use proptest::prelude::*;
use std::{fmt::Write as _, net::Ipv4Addr};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Other regions' hosts are in here, backends are not.
const FAR: [u8; 2] = [10, 101];
/// Frames of each history.
const FRAMES: usize = 120;

/// A service over local pools and relays, in an order that is a permutation of both.
#[derive(Clone, Debug)]
struct Setup {
    locals: usize,
    relays: usize,
    order: Vec<usize>,
    fail_open: bool,
    gue: bool,
}

fn setups() -> impl Strategy<Value = Setup> {
    (1_usize..3, 1_usize..4).prop_flat_map(|(locals, relays)| {
        let order = Just((0..locals + relays).collect::<Vec<_>>()).prop_shuffle();
        (order, any::<bool>(), any::<bool>()).prop_map(move |(order, fail_open, gue)| Setup {
            locals,
            relays,
            order,
            fail_open,
            gue,
        })
    })
}

fn image(setup: &Setup) -> Result<Image> {
    let mut text = String::from(
        "[node]\nname = \"n\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\n\
         hash_key = \"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n\
         tunnel_source_v4 = \"10.255.0.0/16\"\nrelay_addresses = [\"10.100.0.1\"]\nrelay_peers = [\"10.254.0.0/16\"]\n\
         [topology.home]\nz = [\"r\"]\n",
    );
    for relay in 0..setup.relays {
        writeln!(text, "[topology.far{relay}]")?;
    }
    for local in 0..setup.locals {
        writeln!(text, "[[set]]\nname = \"s{local}\"\ndomain = \"home\"")?;
        for backend in 1..3 {
            writeln!(
                text,
                "[[set.backend]]\nname = \"b{local}{backend}\"\nrack = \"home/z/r\"\naddress = \"10.1.{local}.{backend}\""
            )?;
        }
    }
    for relay in 0..setup.relays {
        writeln!(text, "[[relay]]\nname = \"far{relay}\"\nregion = \"far{relay}\"")?;
        for host in 1..3 {
            writeln!(text, "[[relay.host]]\nname = \"h{relay}{host}\"\naddress = \"10.101.{relay}.{host}\"")?;
        }
    }
    for (name, protocol) in [("tcp", "tcp"), ("udp", "udp")] {
        writeln!(
            text,
            "[[service]]\nname = \"{name}\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"{protocol}\"\n\
             forwarding = \"{}\"\non_all_down = \"{}\"",
            if setup.gue { "gue" } else { "ipip" },
            if setup.fail_open { "fail-open" } else { "drop" },
        )?;
        for local in 0..setup.locals {
            writeln!(
                text,
                "[[service.pool]]\nname = \"p{local}\"\nsets = [\"s{local}\"]\ntable_size = 4093"
            )?;
        }
        for relay in 0..setup.relays {
            let number = setup.locals + relay;
            writeln!(
                text,
                "[[service.pool]]\nname = \"p{number}\"\nrelay = \"far{relay}\"\ntable_size = 4093"
            )?;
        }
        let plan: Vec<_> = setup.order.iter().map(|pool| format!("\"p{pool}\"")).collect();
        writeln!(text, "[service.plan]\ndefault = [{}]", plan.join(", "))?;
    }
    golden::image(&text)
}

/// A packet of some flow to the VIP.
fn packet(kind: u8, flow: u8) -> Vec<u8> {
    let client = Ipv4Addr::new(198, 51, 100, flow);
    let port = 40_000 + u16::from(flow);
    let fragment = |fragment, payload: &[u8]| {
        Ipv4 { fragment, id: flow.into(), ..Ipv4::default() }.packet(client, VIP, 17, payload)
    };
    match kind % 8 {
        0 => ipv4(client, VIP, 6, &tcp(port, 80, SYN, &[])),
        7 => ipv4(client, VIP, 6, &tcp(port, 81, SYN, &[])),
        1 | 2 => ipv4(client, VIP, 6, &tcp(port, 80, ACK, b"x")),
        3 => ipv4(client, VIP, 17, &udp(port, 80, b"x")),
        4 => fragment(0x2000, &udp(port, 80, b"12345678")),
        5 => fragment(0x0002, b"12345678"),
        _ => {
            let quoted = ipv4(VIP, client, 6, &tcp(80, port, ACK, &[]));
            ipv4(Ipv4Addr::new(203, 0, 113, 1), VIP, 1, &icmp(3, 1, &[&[0; 4], &quoted[..]].concat()))
        }
    }
}

/// Something that changes between frames.
fn change(tables: &mut ImageTables, what: u8, index: prop::sample::Index, new: u8, old: u8) {
    let word = match what % 3 {
        0 => Admission::CLOSED,
        1 => Admission::new(0, 255),
        _ => Admission::new(new, old),
    };
    let (backends, domains, pools) =
        (tables.image().backends.len(), tables.image().names.domains.len(), tables.image().pools.len());
    match what / 3 % 6 {
        0 | 1 => tables.set_backend_admission(index.index(backends), word),
        2 => tables.set_admission(index.index(domains), word),
        3 => tables.set_admission(MAX_DOMAINS + index.index(pools), word),
        // As if a change of the configuration had given these slots to other members, who were in any pool before.
        4 => {
            let image = tables.image_mut();
            let before = image.pools[index.index(pools)];
            image.slots.iter_mut().for_each(|slot| *slot |= SLOT_MARK);
            image.previous = vec![before];
            image
                .services
                .iter_mut()
                .for_each(|service| (service.previous_base, service.previous_plans) = (1, 1));
        }
        // Shares that start flows anywhere.
        _ => {
            let image = tables.image_mut();
            image.services.iter_mut().for_each(|service| service.flags |= SERVICE_SPILLS);
            for plan in &mut image.plans {
                plan.shares = std::array::from_fn(|step| u16::from(new) << 4 << step.min(4));
            }
        }
    }
}

/// The outer destination of a frame.
fn outer_destination(frame: &[u8]) -> [u8; 4] {
    frame[30..34].try_into().expect("an IPv4 header")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_relayed_never_leaves_for_another_region(
        setup in setups(),
        changes in prop::collection::vec((any::<u8>(), any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 0..8),
        frames in prop::collection::vec((any::<bool>(), any::<u8>(), 1_u8..20), FRAMES),
    ) {
        let mut tables = ImageTables::new(image(&setup).expect("a valid configuration"));
        let mut changes = changes.into_iter();
        let mut crossed_out = 0;
        for (at, (relayed, kind, flow)) in frames.into_iter().enumerate() {
            if at % (FRAMES / 8) == 0 && let Some((what, index, new, old)) = changes.next() {
                change(&mut tables, what, index, new, old);
            }
            let inner = packet(kind, flow);
            let frame = ethernet(0x0800, &if relayed { ipv4(PEER, HERE, 4, &inner) } else { inner });
            let (ran, reason) = run_pure(&tables, &frame);
            let is_sent = ran.action == action::TX;
            let to_far = is_sent && outer_destination(&ran.frame)[..2] == FAR;
            crossed_out += usize::from(to_far && !relayed);
            prop_assert!(!(to_far && relayed), "kind {} of flow {} crossed again ({reason:?})", kind % 8, flow);
            prop_assert!(!(ran.action == action::PASS && relayed), "kind {} was passed ({reason:?})", kind % 8);
        }
        // Otherwise it shows little.
        if setup.order[0] >= setup.locals && tables.image().admission.iter().all(|word| word.0 == Admission::OPEN.0) {
            prop_assert!(crossed_out > 0, "clients' packets do cross");
        }
    }
}

/// The relay's hosts are told apart by what is in the maps, too: no pool that is a relay has a member that is none.
#[test]
fn every_member_of_a_relay_says_so_itself() -> Result<()> {
    use lb_common::abi::{backend::BACKEND_RELAY, plan::POOL_RELAY};
    let setup = Setup { locals: 2, relays: 3, order: vec![0, 1, 2, 3, 4], fail_open: false, gue: false };
    let image = image(&setup)?;
    for pool in &image.pools {
        let slots = &image.slots[pool.table_base as usize..(pool.table_base + pool.table_slots) as usize];
        for &slot in slots {
            let entry = &image.backends[usize::from(slot)];
            assert_eq!(
                entry.flags & BACKEND_RELAY != 0,
                pool.flags & POOL_RELAY != 0,
                "{:?}",
                entry.as_bytes()
            );
        }
    }
    assert!(image.pools.iter().any(|pool| pool.flags & POOL_RELAY != 0));
    Ok(())
}
