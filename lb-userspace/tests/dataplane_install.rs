//! Installing, adopting, replacing and detaching the data plane, in the kernel. Needs root.

#[path = "dataplane_install/live.rs"]
mod live;
mod namespace;

use std::fs;
use std::os::fd::AsRawFd;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use lb_common::abi::admission::Admission;
use lb_common::abi::flow::{FlowEntry, FlowKey};
use lb_common::abi::pod::Pod;
use lb_userspace::config::Config;
use lb_userspace::dataplane::loader::Prepared;
use lb_userspace::dataplane::netlink::{Interface, Netlink};
use lb_userspace::dataplane::object::{AGENT, AGENT_PROGRAM};
use lb_userspace::dataplane::writer::NextHop;
use lb_userspace::dataplane::{DataPlane, DataPlaneError, ErrorClass, Options, Start, detach};
use lb_userspace::plan::compile::compile;
use lb_userspace::plan::ids::BackendIndex;
use namespace::{Namespace, eventually, names, run, with_namespace};

const HOP: NextHop = NextHop {
    ifindex: 1,
    destination: [2, 0, 0, 0, 0, 2],
    source: [2, 0, 0, 0, 0, 1],
    mtu: 1600,
    on_link: true,
    vlan: None,
};

fn try_install(config: &Config) -> Result<DataPlane, DataPlaneError> {
    DataPlane::install(&compile(config).unwrap(), &Options::new(config))
}

/// Installs. A lock that was just let go of may for a moment still be held by a process that another test's thread is
/// about to start, between its fork and its exec.
fn install(config: &Config) -> Result<DataPlane, DataPlaneError> {
    let mut result = try_install(config);
    eventually("the lock is free", || {
        if matches!(result, Err(DataPlaneError::InUse { .. })) {
            result = try_install(config);
        }
        !matches!(result, Err(DataPlaneError::InUse { .. }))
    });
    result
}

fn refused(config: &Config) -> DataPlaneError {
    match install(config) {
        Ok(dataplane) => panic!("installed: {:?}", dataplane.start()),
        Err(error) => error,
    }
}

fn interface(name: &str) -> Interface {
    let all = Netlink::new().unwrap().interfaces().unwrap();
    all.into_iter().find(|interface| interface.name == name).unwrap()
}

/// Id of the XDP program on an interface.
fn program(name: &str) -> Option<u32> {
    interface(name).xdp.and_then(|(id, _)| id)
}

fn unchanged(namespace: &Namespace) -> Config {
    namespace.config(|text| text)
}

#[test]
fn a_fresh_start_attaches_and_pins() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let dataplane = install(&unchanged(namespace)).unwrap();
        assert_eq!(dataplane.start(), Start::Fresh);
        assert!(matches!(interface("e0").xdp, Some((Some(_), true))), "native");
        let pins = namespace.bpffs.join("v3");
        assert_eq!(names(&pins), ["current", "links"]);
        assert_eq!(names(&pins.join("links")), ["e0"]);
        assert_eq!(names(&pins.join("current")).len(), 28, "27 maps and the program");
        drop(dataplane);
        assert!(program("e0").is_some(), "forwarding outlives the daemon");
    });
}

#[test]
fn the_same_image_is_adopted_with_all_its_words() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let config = unchanged(namespace);
        let first = install(&config).unwrap();
        let id = program("e0");
        first.admission_writer().store_backend(BackendIndex(1), Admission::CLOSED).unwrap();
        first.admission_writer().store_array(0, Admission::new(3, 4)).unwrap();
        first.next_hop_writer().write(BackendIndex(2), &HOP).unwrap();
        let error = try_install(&config).unwrap_err();
        assert!(matches!(error, DataPlaneError::InUse { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::RefusedByState);
        drop(first);

        let second = install(&config).unwrap();
        assert_eq!(second.start(), Start::Adopted { program_replaced: false });
        assert_eq!(program("e0"), id, "the program was not touched");
        assert_eq!(second.admission_writer().load_backend(BackendIndex(1)), Some(Admission::CLOSED));
        assert_eq!(second.admission_writer().load_backend(BackendIndex(0)), Some(Admission::OPEN));
        assert_eq!(second.admission_writer().load_array(0), Some(Admission::new(3, 4)));
        assert_eq!(second.next_hop_writer().read(BackendIndex(2)), Some(HOP));
        assert_eq!(second.next_hop_writer().read(BackendIndex(1)), None);
    });
}

/// A key and an entry of the flow table, as bytes.
fn flow(port: u16, backend: u32) -> ([u8; 40], [u8; 8]) {
    let key = FlowKey { source_port: port.to_be_bytes(), protocol: 6, ..FlowKey::zeroed() };
    let entry = FlowEntry { backend, seen: 7 };
    (key.as_bytes().try_into().unwrap(), entry.as_bytes().try_into().unwrap())
}

/// The pinned flow table.
fn flow_table(namespace: &Namespace) -> HashMap<MapData, [u8; 40], [u8; 8]> {
    let data = MapData::from_pin(namespace.bpffs.join("v3/current/FLOWS")).unwrap();
    Map::LruHashMap(data).try_into().unwrap()
}

#[test]
fn another_image_replaces_the_generation_and_hands_flows_and_counters_on() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        drop(install(&unchanged(namespace)).unwrap());
        let id = program("e0");
        let map = |name: &str| MapInfo::from_pin(namespace.bpffs.join("v3/current").join(name)).unwrap().id();
        let shared = ["FLOWS", "OPENINGS", "FLOW_FILTER", "COUNTERS"];
        let before = shared.map(map);
        let (key, entry) = flow(1, 3);
        flow_table(namespace).insert(key, entry, 0).unwrap();
        let other_port = namespace.config(|text| text.replace("port = 80", "port = 81"));
        let second = install(&other_port).unwrap();
        assert_eq!(second.start(), Start::Replaced);
        assert_ne!(program("e0"), id);
        assert!(program("e0").is_some());
        assert_eq!(shared.map(map), before);
        assert_eq!((second.report().leaving_services, second.report().leaving_backends), (1, 0));
        let ids = second.ids().clone();
        drop(second);

        let other_backend = namespace.config(|text| text.replace("10.1.0.12", "10.1.0.13"));
        let third = install(&other_backend).unwrap();
        assert_eq!(third.start(), Start::Replaced);
        assert_eq!(shared.map(map), before);
        assert_eq!(third.report().leaving_backends, 1);
        let moved: Vec<_> = (0..4)
            .filter(|&at| third.ids().backends()[at] != ids.backends()[at])
            .map(|at| third.ids().backends()[at])
            .collect();
        assert_eq!(moved, [BackendIndex(4)], "one new endpoint, the others keep their indices");
        let ids = third.ids().clone();
        drop(third);
        let again = install(&other_backend).unwrap();
        assert_eq!(again.start(), Start::Adopted { program_replaced: false });
        assert_eq!(*again.ids(), ids, "found again from what is pinned");
        drop(again);

        // Another size: the entries are copied.
        let resized = namespace.config(|text| {
            text.replace("10.1.0.12", "10.1.0.13").replace("region =", "flow_entries = 2048\nregion =")
        });
        assert_eq!(install(&resized).unwrap().start(), Start::Replaced);
        assert_ne!(map("FLOWS"), before[0]);
        assert_eq!(map("OPENINGS"), before[1]);
        assert_eq!(flow_table(namespace).get(&key, 0).unwrap(), entry);
        assert_eq!(names(&namespace.bpffs.join("v3")), ["current", "links"], "nothing is left over");
    });
}

#[test]
fn counters_go_on_when_their_room_grows() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let first = install(&unchanged(namespace)).unwrap();
        let before = first.counters().read();
        drop(first);
        let count = |port: u16| namespace.in_peer(|| send_syn(port));
        run("ip addr add 10.1.0.1/24 dev e0");
        namespace.run("ip addr add 10.1.0.2/24 dev p0");
        namespace.run("ip route add 192.0.2.10/32 via 10.1.0.1");
        let first = install(&unchanged(namespace)).unwrap();
        (50_000..50_010).for_each(count);
        let counted = || first.counters().read().services[0].dropped;
        // Without next hops they are dropped, which counts as well.
        eventually("they are counted", || counted() >= before.services[0].dropped + 10);
        let total = counted();
        drop(first);
        // More services than the counters have room for.
        let many = namespace.config(|text| {
            let more: String = (0..80)
                .map(|port| {
                    format!(
                        "\n[[service]]\nname = \"more{port}\"\naddress = \"192.0.2.10\"\nport = {}\nprotocol = \"tcp\"\n\
                         [[service.pool]]\nname = \"p\"\nsets = [\"web-w1\"]\ntable_size = 4093\n",
                        1000 + port
                    )
                })
                .collect();
            text + &more
        });
        let second = install(&many).unwrap();
        assert_eq!(second.start(), Start::Replaced);
        let web = many.find_service("web").unwrap().index();
        assert!(second.counters().read().services[web].dropped >= total);
    });
}

#[test]
fn the_links_of_another_version_are_taken_over_without_a_gap() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let config = unchanged(namespace);
        drop(install(&config).unwrap());
        let (own, other) = (namespace.bpffs.join("v3"), namespace.bpffs.join("v1"));
        let link = || FdLink::from(PinnedLink::from_pin(own.join("links/e0")).unwrap()).info().unwrap().id();
        let (link_before, program_before) = (link(), program("e0"));
        // As if another version had put it there.
        let as_another = || {
            fs::rename(&own, &other).unwrap();
            for map in ["FLOWS", "POOLS"] {
                fs::remove_file(other.join("current").join(map)).unwrap();
            }
        };
        as_another();
        let daemon = fs::File::open(&other).unwrap();
        daemon.lock().unwrap();
        assert!(matches!(try_install(&config).unwrap_err(), DataPlaneError::InUse { .. }), "its daemon runs");
        assert_eq!(program("e0"), program_before);
        drop(daemon);
        let second = install(&config).unwrap();
        assert_eq!(second.start(), Start::TakenOver { version: 1 });
        assert_eq!(link(), link_before);
        assert!(program("e0").is_some() && program("e0") != program_before);
        assert_eq!(names(&namespace.bpffs), ["v3"]);
        drop(second);

        // A crash after the links were switched and before they were moved.
        let program_before = program("e0");
        fs::create_dir_all(other.join("links")).unwrap();
        fs::rename(own.join("links/e0"), other.join("links/e0")).unwrap();
        fs::rename(own.join("current"), own.join("next")).unwrap();
        let third = install(&config).unwrap();
        assert_eq!(third.start(), Start::Adopted { program_replaced: false });
        assert_eq!((link(), program("e0")), (link_before, program_before));
        assert_eq!(names(&namespace.bpffs), ["v3"]);
    });
}

#[test]
fn another_program_is_replaced_over_the_same_maps() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let config = unchanged(namespace);
        let first = install(&config).unwrap();
        first.admission_writer().store_backend(BackendIndex(0), Admission::CLOSED).unwrap();
        drop(first);
        // As if another binary had installed it: its program is not the one that this binary carries.
        let pin = namespace.bpffs.join("v3/current/program");
        fs::remove_file(&pin).unwrap();
        let mut other = Ebpf::load(AGENT).unwrap();
        let other: &mut Xdp = other.program_mut(AGENT_PROGRAM).unwrap().try_into().unwrap();
        other.load().unwrap();
        other.pin(&pin).unwrap();
        let id = program("e0");
        let second = install(&config).unwrap();
        assert_eq!(second.start(), Start::Adopted { program_replaced: true });
        assert_eq!(second.admission_writer().load_backend(BackendIndex(0)), Some(Admission::CLOSED));
        assert_ne!(program("e0"), id);
        drop(second);
        let id = program("e0");
        assert_eq!(install(&config).unwrap().start(), Start::Adopted { program_replaced: false });
        assert_eq!(program("e0"), id);
    });
}

#[test]
fn interfaces_follow_the_configuration() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        namespace.veth("e1.5", "p1", 1);
        let with = |interfaces: &str, mode: &str| {
            let line = format!("interfaces = {interfaces}\nmode = \"{mode}\"");
            namespace.config(|text| text.replace("interfaces = [\"e0\"]", &line))
        };
        drop(install(&with(r#"["e0"]"#, "native")).unwrap());
        drop(install(&with(r#"["e0", "e1.5"]"#, "native")).unwrap());
        assert!(program("e0").is_some() && program("e0") == program("e1.5"));
        drop(install(&with(r#"["e1.5"]"#, "native")).unwrap());
        assert_eq!(program("e0"), None);
        assert!(program("e1.5").is_some());
        drop(install(&with(r#"["e1.5"]"#, "generic")).unwrap());
        assert!(matches!(interface("e1.5").xdp, Some((Some(_), false))), "generic");
        // The interface is made anew, so its link is void.
        run("ip link del e1.5");
        namespace.veth("e1.5", "p1", 1);
        drop(install(&with(r#"["e1.5"]"#, "generic")).unwrap());
        assert!(program("e1.5").is_some());
        assert_eq!(names(&namespace.bpffs.join("v3/links")), ["e1%2e5"]);
    });
}

#[test]
fn what_cannot_be_done_is_refused_with_a_remedy_and_changes_nothing() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        namespace.veth("e1", "p1", 1);
        let config = unchanged(namespace);

        let missing = namespace.config(|text| text.replace("\"e0\"", "\"e0\", \"e9\""));
        let error = refused(&missing);
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert!(error.to_string().contains("`e9`") && error.to_string().contains("e1"), "{error}");

        let nowhere =
            namespace.config(|text| text.replace(namespace.bpffs.to_str().unwrap(), "/tmp/weir-none"));
        let error = refused(&nowhere);
        assert_eq!(error.class(), ErrorClass::Unsupported);
        assert!(error.to_string().contains("mount -t bpf"), "{error}");

        // Another installation, with pins elsewhere, has e1.
        let elsewhere = namespace.bpffs.with_file_name("other");
        let other = namespace.config(|text| {
            text.replace("\"e0\"", "\"e1\"")
                .replace(namespace.bpffs.to_str().unwrap(), elsewhere.to_str().unwrap())
        });
        let _other = install(&other).unwrap();
        let both = namespace.config(|text| text.replace("\"e0\"", "\"e0\", \"e1\""));
        let error = refused(&both);
        assert!(
            matches!(&error, DataPlaneError::InterfaceBusy { name, program: Some(_) } if name == "e1"),
            "{error}"
        );
        let prepared = Prepared::new(&compile(&both).unwrap(), &Options::new(&both));
        assert!(prepared.is_err(), "refused before anything is built or waited for");
        assert_eq!(program("e0"), None, "the first interface is as before");
        assert_eq!(names(&namespace.bpffs.join("v3")), ["links"]);
        drop(install(&config).unwrap());

        let pins = namespace.bpffs.join("v3/current");
        fs::rename(pins.join("POOLS"), pins.join("POOLZ")).unwrap();
        let error = refused(&config);
        assert!(matches!(&error, DataPlaneError::BadPin { path, .. } if path.ends_with("POOLZ")), "{error}");
        fs::rename(pins.join("POOLZ"), pins.join("PLANS")).unwrap();
        let error = refused(&config);
        assert!(error.to_string().contains("map PLANS"), "{error}");
        assert!(program("e0").is_some(), "what ran goes on running");
        assert_eq!(names(&pins).len(), 27, "nothing was removed");
    });
}

#[test]
fn what_a_crash_leaves_behind_is_settled() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let config = unchanged(namespace);
        let pins = namespace.bpffs.join("v3");
        // While the first generation was being pinned.
        fs::create_dir_all(pins.join("next")).unwrap();
        let first = install(&config).unwrap();
        assert_eq!(first.start(), Start::Fresh);
        first.admission_writer().store_backend(BackendIndex(0), Admission::CLOSED).unwrap();
        drop(first);
        let id = program("e0");

        // After the links were switched, before the folders were; then between the two renames; then before the end.
        for (left, with_old) in [("next", false), ("next", true), ("current", true)] {
            fs::rename(pins.join("current"), pins.join("moving")).unwrap();
            fs::rename(pins.join("moving"), pins.join(left)).unwrap();
            if with_old {
                fs::create_dir(pins.join("old")).unwrap();
            }
            let again = install(&config).unwrap();
            assert_eq!(again.start(), Start::Adopted { program_replaced: false }, "{left} {with_old}");
            assert_eq!(again.admission_writer().load_backend(BackendIndex(0)), Some(Admission::CLOSED));
            assert_eq!(program("e0"), id);
            assert_eq!(names(&pins), ["current", "links"]);
        }

        // While another generation was being pinned: it is dropped.
        fs::create_dir(pins.join("next")).unwrap();
        fs::write(pins.join("next/ROOT"), "").unwrap_err();
        let again = install(&config).unwrap();
        assert_eq!(again.start(), Start::Adopted { program_replaced: false });
        assert_eq!(names(&pins), ["current", "links"]);
    });
}

#[test]
fn detaching_removes_everything_of_any_version() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        let dataplane = install(&unchanged(namespace)).unwrap();
        let error = detach(&namespace.bpffs).unwrap_err();
        assert!(matches!(error, DataPlaneError::InUse { .. }), "{error}");
        drop(dataplane);
        fs::rename(namespace.bpffs.join("v3"), namespace.bpffs.join("v99")).unwrap();
        let mut detached = detach(&namespace.bpffs);
        eventually("the lock is free", || {
            if detached.is_err() {
                detached = detach(&namespace.bpffs);
            }
            detached.is_ok()
        });
        let detached = detached.unwrap();
        assert_eq!(detached.interfaces, ["e0"]);
        assert_eq!(program("e0"), None);
        assert!(!namespace.bpffs.exists());
        assert_eq!(detach(&namespace.bpffs).unwrap(), Default::default(), "nothing to do");
    });
}

/// Sends a TCP SYN from a port of the peer's to the VIP.
fn send_syn(port: u16) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::new(10, 1, 0, 2, port)).unwrap();
    let result = connect(fd.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 10, 80));
    assert_eq!(result, Err(nix::errno::Errno::EINPROGRESS));
}
