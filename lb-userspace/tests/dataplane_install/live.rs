//! What is read from maps that run: explanations, counters, and how much memory they take.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;
use lb_common::abi::admission::Admission;
use lb_userspace::api::types::{ExplainQuery, StepKind, VerdictKind};
use lb_userspace::config::Protocol;
use lb_userspace::dataplane::explain::explain;
use lb_userspace::dataplane::loader::possible_cpus;
use lb_userspace::dataplane::memory::memory;
use lb_userspace::dataplane::writer::NextHop;
use lb_userspace::plan::compile::compile;
use lb_userspace::plan::ids::BackendIndex;
use lb_userspace::plan::image::ImageTables;

use super::namespace::{eventually, names, run, with_namespace};
use super::{HOP, install, interface, send_syn, unchanged};

#[test]
fn explaining_over_the_live_maps_says_what_the_image_says() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let config = unchanged(namespace);
        let dataplane = install(&config).unwrap();
        for backend in 0..4 {
            dataplane.next_hop_writer().write(BackendIndex(backend), &HOP).unwrap();
        }
        let mut model = ImageTables::new(compile(&config).unwrap());
        model.set_next_hops(HOP.ifindex, HOP.destination, HOP.source, HOP.mtu);
        let untouched = ImageTables::new(compile(&config).unwrap());
        let live = dataplane.live();
        let rack = config.topology.find("west/w1/r1").unwrap().index();
        for word in [Admission::OPEN, Admission::new(0, 255), Admission::CLOSED, Admission::new(128, 255)] {
            dataplane.admission_writer().store_array(rack, word).unwrap();
            model.set_admission(rack, word);
            let observation = live.observe();
            let mut backends = std::collections::BTreeSet::new();
            for port in 1..500 {
                let query = ExplainQuery {
                    src: SocketAddr::from(([198, 51, 100, 7], port)),
                    dst: SocketAddr::from(([192, 0, 2, 10], 80)),
                    protocol: Protocol::Tcp,
                    opening: port % 2 == 0,
                    from_relay: false,
                };
                let explanation = explain(&observation, &config, dataplane.ids(), query);
                // The model remembers what was asked of it, the live maps do not.
                model.take_flows_of(&untouched);
                assert_eq!(explanation, explain(&model, &config, dataplane.ids(), query));
                assert_eq!(explanation.verdict, VerdictKind::Forward);
                assert_eq!(explanation.service.as_deref(), Some("web"));
                assert_eq!(explanation.client_region.as_deref(), Some("west"));
                backends.insert(explanation.backend.unwrap().name);
            }
            assert_eq!(backends.len(), if word == Admission::CLOSED { 2 } else { 4 }, "{word:?}");
        }
    });
}

#[test]
fn packets_are_counted_and_flows_away_from_home_are_seen() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        run("ip addr add 10.1.0.1/24 dev e0");
        namespace.run("ip addr add 10.1.0.2/24 dev p0");
        namespace.run("ip route add 192.0.2.10/32 via 10.1.0.1");
        let config = unchanged(namespace);
        let dataplane = install(&config).unwrap();
        let hop = NextHop { ifindex: interface("e0").index, ..HOP };
        for backend in 0..4 {
            dataplane.next_hop_writer().write(BackendIndex(backend), &hop).unwrap();
        }
        let rack = config.topology.find("west/w1/r1").unwrap().index();
        dataplane.admission_writer().store_array(rack, Admission::CLOSED).unwrap();
        let live = dataplane.live();
        let ports = 40_000..40_020;
        let ask = |port, opening| {
            let query = ExplainQuery {
                src: SocketAddr::from(([10, 1, 0, 2], port)),
                dst: SocketAddr::from(([192, 0, 2, 10], 80)),
                protocol: Protocol::Tcp,
                opening,
                from_relay: false,
            };
            explain(&live.observe(), &config, dataplane.ids(), query)
        };
        let away: Vec<_> = ports
            .clone()
            .filter(|&port| ask(port, true).steps.iter().any(|s| s.kind == StepKind::Remembered))
            .collect();
        assert!((1..20).contains(&away.len()), "some flows are at home in the rack that is gone: {away:?}");
        let in_table = |port| {
            ask(port, false).steps.iter().any(|s| s.kind == StepKind::FlowTable && s.backend.is_some())
        };
        assert!(!ports.clone().any(in_table), "nothing was sent yet, and asking changes nothing");

        let placed: Vec<_> = ports.clone().map(|port| ask(port, true).backend.unwrap().name).collect();
        namespace.in_peer(|| ports.clone().for_each(send_syn));
        // At least: TCP repeats a SYN that nobody answers.
        let is_counted = || dataplane.counters().read().services[0].opening >= 20;
        eventually("every SYN is counted", is_counted);
        // Between two reads a repeated SYN may come.
        eventually("services and backends agree", || {
            let counters = dataplane.counters().read();
            counters.backends.iter().map(|counter| counter.packets).sum::<u64>()
                == counters.services[0].packets
        });
        let counters = dataplane.counters().read();
        assert_eq!((counters.backends[0].packets, counters.backends[1].packets), (0, 0), "the rack is gone");
        assert_eq!(counters.services[0].dropped, 0);

        // The rack is back: those flows stay where they went, as the flow table knows them.
        dataplane.admission_writer().store_array(rack, Admission::new(255, 255)).unwrap();
        for (port, placed) in ports.clone().zip(placed) {
            assert_eq!(in_table(port), away.contains(&port), "{port}");
            assert_eq!(ask(port, false).backend.unwrap().name, placed, "{port}");
        }
    });
}

#[test]
fn maps_take_the_memory_that_was_foretold() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let limits = "limits = { per_source = { v4 = 24, v6 = 56, new_flows_per_second = 9 } }";
        let config = namespace.config(|text| text.replace("protocol =", &format!("{limits}\nprotocol =")));
        let foretold = memory(&config, possible_cpus().unwrap()).unwrap();
        let _dataplane = install(&config).unwrap();
        let folder = namespace.bpffs.join("v3/current");
        let mut total = 0;
        for name in names(&folder).into_iter().filter(|name| name != "program") {
            let map = MapData::from_pin(folder.join(&name)).unwrap();
            let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let info = fs::read_to_string(path).unwrap();
            let locked = info.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
            total += locked.trim().parse::<u64>().unwrap();
        }
        let sum =
            [foretold.tables, foretold.flows, foretold.flow_filter, foretold.prefixes, foretold.counters];
        let rest = [foretold.guards, foretold.entries, foretold.other];
        assert_eq!(foretold.total, sum.iter().chain(&rest).sum::<u64>());
        assert!(foretold.guards > 2 << 20, "two rows of source buckets");
        assert!((foretold.total * 4 / 5..foretold.total * 5 / 4).contains(&total), "{total} of {foretold:?}");
    });
}
