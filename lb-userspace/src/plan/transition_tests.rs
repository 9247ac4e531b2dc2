use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::compile::compile;
use super::*;
use crate::config::Config;
use lb_common::abi::{
    backend::BACKEND_LEAVING,
    service::{SERVICE_LEAVING, SERVICE_STICKY_UDP},
};
use lb_maglev::member_id;
use proptest::prelude::*;

const NODE: &str = r#"
[node]
name = "edge"
region = "r0"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.r0]
z0 = ["k0", "k1"]
z1 = ["k0", "k1"]
[client_regions]
inland = ["198.51.100.0/24"]
"#;
const SERVICES: usize = 3;
const REGIONS: u32 = 2;

/// What a random configuration has.
#[derive(Clone, Debug, PartialEq)]
struct Scene {
    /// Weight and rack of each backend of both sets; none if it is not there. The first of each set always is.
    backends: [[Option<(u32, u8)>; 4]; 2],
    /// Each service: whether it is there, its table size, which set comes first, whether plans differ.
    services: [(bool, bool, bool, bool); SERVICES],
}

fn scene() -> impl Strategy<Value = Scene> {
    let backend = prop::option::weighted(0.8, (prop::sample::select(vec![100_u32, 70]), 0_u8..2));
    let service = (
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
    );
    let backends = prop::array::uniform2(prop::array::uniform4(backend));
    (backends, prop::array::uniform3(service)).prop_map(|(mut backends, mut services)| {
        for set in &mut backends {
            set[0].get_or_insert((100, 0));
        }
        services[0].0 = true;
        Scene { backends, services }
    })
}

fn config(scene: &Scene) -> Config {
    config_of(scene, NODE)
}

fn config_of(scene: &Scene, node: &str) -> Config {
    let mut text = node.to_owned();
    for (s, set) in scene.backends.iter().enumerate() {
        let _ = writeln!(text, "[[set]]\nname = \"s{s}\"\ndomain = \"r0/z{s}\"\nchecks = []");
        for (b, backend) in set.iter().enumerate() {
            let Some((weight, rack)) = backend else { continue };
            let _ = writeln!(
                text,
                "[[set.backend]]\nname = \"b{s}x{b}\"\nrack = \"r0/z{s}/k{rack}\"\naddress = \"10.1.{s}.{}\"\nweight = {weight}",
                b + 1
            );
        }
    }
    for (v, (there, large, turned, by_region)) in scene.services.iter().enumerate() {
        if !there {
            continue;
        }
        let size = if *large { 16381 } else { 4093 };
        let _ = writeln!(
            text,
            "[[service]]\nname = \"v{v}\"\naddress = \"192.0.2.1\"\nport = {}\nprotocol = \"tcp\"",
            80 + v
        );
        for s in 0..2 {
            let _ =
                writeln!(text, "[[service.pool]]\nname = \"p{s}\"\nsets = [\"s{s}\"]\ntable_size = {size}");
        }
        let (first, second) = if *turned { ("p1", "p0") } else { ("p0", "p1") };
        let _ = writeln!(text, "[service.plan]\ndefault = [\"{first}\", \"{second}\"]");
        if *by_region {
            let _ = writeln!(text, "inland = [\"{second}\", \"{first}\"]");
        }
    }
    Config::parse(&text, "random.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn image(scene: &Scene) -> Image {
    compile(&config(scene)).unwrap()
}

fn endpoints(running: &Running) -> BTreeMap<u32, Endpoint> {
    let all = running.backends.iter().enumerate();
    all.filter_map(|(at, entry)| Some((at as u32, Endpoint::of(entry)?))).collect()
}

/// Whether the transition that runs is taken along when the service changes again.
fn is_composable(running: &Running, service: &ServiceEntry) -> bool {
    (0..regions(service)).all(|region| !home(running, service, region).1)
}

fn hashes() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(any::<u64>(), 300)
}

/// What the data plane does with an untracked established packet in `old` it does in `new`.
fn homes_stay(old: &Running, new: &Running, hashes: &[u64]) -> Result<(), TestCaseError> {
    for (at, service) in old.services.iter().enumerate() {
        let Some(now) = new.services.get(at) else { continue };
        if Front::of(service) != Front::of(now)
            || Front::of(service).is_none()
            || !is_composable(old, service)
        {
            continue;
        }
        let index = ServiceIndex(at as u32);
        for &h in hashes {
            for region in 0..REGIONS {
                let regions = (region, region);
                prop_assert_eq!(
                    untracked(new, index, regions, h),
                    untracked(old, index, regions, h),
                    "service {}, region {}, h {:x}",
                    at,
                    region,
                    h
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn untracked_flows_stay_at_home_over_any_chain_of_changes(
        scenes in prop::collection::vec((scene(), any::<bool>()), 2..6),
        hashes in hashes(),
    ) {
        let first = image(&scenes[0].0);
        let mut running = Running::of(&first);
        for (scene, over) in &scenes[1..] {
            if *over {
                running.services.iter_mut().for_each(|service| service.previous_base = 0);
            }
            let (next, report) = succeed(image(scene), &running, &Unneeded::default()).unwrap();
            let next = Running::of(&next);
            homes_stay(&running, &next, &hashes)?;
            prop_assert_eq!(report.services > 0, next.services.iter().any(|s| {
                s.previous_base != 0 && s.flags & SERVICE_LEAVING == 0
            }));
            running = next;
        }
    }

    #[test]
    fn indices_stay_and_are_found_again(scenes in prop::collection::vec(scene(), 2..6)) {
        let mut running = Running::of(&image(&scenes[0]));
        for scene in &scenes[1..] {
            let compiled = image(scene);
            let (next, _) = succeed(compiled.clone(), &running, &Unneeded::default()).unwrap();
            let after = Running::of(&next);
            let (before, now) = (endpoints(&running), endpoints(&after));
            prop_assert!(before.iter().all(|(at, endpoint)| now.get(at) == Some(endpoint)), "{before:?} {now:?}");
            prop_assert_eq!(recover(&compiled, &after), Some(next.ids.clone()));
            for (id, &at) in next.ids.backends().iter().enumerate() {
                prop_assert_eq!(Endpoint::of(&next.backends[at.position()]), Endpoint::of(&compiled.backends[id]));
                prop_assert_eq!(next.backends[at.position()].flags & BACKEND_LEAVING, 0);
            }
            for (at, entry) in next.backends.iter().enumerate() {
                let known = next.ids.backend_id(BackendIndex(at as u32)).is_some();
                prop_assert_eq!(known, entry.flags & BACKEND_LEAVING == 0 && Endpoint::of(entry).is_some());
            }
            // New flows go where a fresh start would send them, by endpoint.
            for (id, &at) in next.ids.services().iter().enumerate() {
                for region in 0..compiled.services[id].plans {
                    let of = |image: &Image, service: usize, slot: u32| {
                        let service = image.services[service];
                        let pool = image.plans[(service.plan_base + region) as usize].first;
                        let member = member_id(image.slots[(pool.table_base + slot) as usize]);
                        Endpoint::of(&image.backends[usize::from(member)])
                    };
                    let slots = compiled.services[id].first.table_slots;
                    for slot in (0..slots).step_by(97) {
                        prop_assert_eq!(of(&next, at.position(), slot), of(&compiled, id, slot));
                    }
                }
            }
            running = after;
        }
    }

    #[test]
    fn what_nobody_needs_goes_and_its_index_is_used_again(a in scene(), b in scene()) {
        let (mut a, mut b) = (a, b);
        a.backends[0][3] = Some((100, 0));
        b.backends[0][3] = None;
        let first = Running::of(&image(&a));
        let (second, _) = succeed(image(&b), &first, &Unneeded::default()).unwrap();
        let gone: Vec<_> = (0..second.backends.len())
            .filter(|&at| second.backends[at].flags & BACKEND_LEAVING != 0)
            .map(|at| BackendIndex(at as u32))
            .collect();
        prop_assert!(!gone.is_empty());
        let unneeded = Unneeded { backends: gone.iter().copied().collect(), services: BTreeSet::new() };
        let mut running = Running::of(&second);
        running.services.iter_mut().for_each(|service| service.previous_base = 0);
        let (third, report) = succeed(image(&b), &running, &unneeded).unwrap();
        prop_assert_eq!(report.leaving_backends, 0);
        // A new endpoint takes the lowest gap, but not in the generation in which the old one goes.
        let (fourth, _) = succeed(image(&a), &Running::of(&third), &Unneeded::default()).unwrap();
        prop_assert_eq!(fourth.backends.len(), second.backends.len());
    }
}

fn plain() -> Scene {
    let service = (true, false, false, false);
    Scene {
        backends: [[Some((100, 0)), Some((100, 1)), Some((100, 0)), None]; 2],
        services: [service; SERVICES],
    }
}

#[test]
fn clients_of_another_region_than_before_are_found_by_the_regions_of_before() {
    let mut scene = plain();
    scene.services[0].3 = true;
    let running = Running::of(&image(&scene));
    // A region more, whose name comes first: all regions get another number.
    let node = NODE.replace("inland =", "here = [\"203.0.113.0/24\"]\ninland =");
    let (next, report) =
        succeed(compile(&config_of(&scene, &node)).unwrap(), &running, &Unneeded::default()).unwrap();
    assert_eq!(report.services, 1, "only one service tells client regions apart");
    let new = Running::of(&next);
    assert_ne!(new.root.previous_clients, new.root.clients);
    let find = |running: &Running, table: u32, address: [u8; 4]| {
        let address = lb_common::net::address_words(&lb_common::net::address_bytes(address.into()));
        lb_common::datapath::prefix::lookup(&running.prefix, table, &address)
    };
    for address in [[198, 51, 100, 7], [203, 0, 113, 7], [192, 0, 2, 7]] {
        let before = find(&running, running.root.clients, address);
        assert_eq!(find(&new, new.root.previous_clients, address), before, "{address:?}");
        let now = find(&new, new.root.clients, address);
        for h in (0..1000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let service = ServiceIndex(0);
            assert_eq!(
                untracked(&new, service, (now, before), h),
                untracked(&running, service, (before, before), h),
                "{address:?}"
            );
        }
    }
}

#[test]
fn the_same_configuration_marks_nothing() {
    let running = Running::of(&image(&plain()));
    let (next, report) = succeed(image(&plain()), &running, &Unneeded::default()).unwrap();
    assert_eq!(report, Report::default());
    assert_eq!(next.slots, running.slots);
    assert!(next.previous.is_empty());
}

#[test]
fn only_what_moved_is_marked_and_marks_outlive_the_transition() {
    let running = Running::of(&image(&plain()));
    let mut scene = plain();
    scene.backends[0][3] = Some((100, 1));
    let (next, report) = succeed(image(&scene), &running, &Unneeded::default()).unwrap();
    assert_eq!((report.services, report.leaving_backends), (3, 0));
    // A quarter of one table of four members, which all three services share, and a little for the chain of moves.
    assert!((1000..1400).contains(&report.marked), "{report:?}");
    let mut over = Running::of(&next);
    over.services.iter_mut().for_each(|service| service.previous_base = 0);
    let (after, again) = succeed(image(&scene), &over, &Unneeded::default()).unwrap();
    assert_eq!((again.services, again.marked), (0, report.marked));
    assert!(after.previous.is_empty());
}

#[test]
fn a_leaving_service_keeps_its_home_and_is_found_by_its_key() {
    let running = Running::of(&image(&plain()));
    let mut scene = plain();
    scene.services[1].0 = false;
    let (next, report) = succeed(image(&scene), &running, &Unneeded::default()).unwrap();
    assert_eq!((report.services, report.leaving_services), (0, 1));
    let at = next.services.iter().position(|s| s.flags & SERVICE_LEAVING != 0).unwrap();
    assert_eq!(next.services[at].port, 81_u16.to_be_bytes());
    let found = next.buckets.iter().any(|bucket| {
        bucket.tags.iter().zip(bucket.services).any(|(tag, service)| *tag != 0 && service as usize == at)
    });
    assert!(found);
    let new = Running::of(&next);
    for h in (0..1000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        let service = ServiceIndex(at as u32);
        assert_eq!(untracked(&new, service, (0, 0), h), untracked(&running, service, (0, 0), h));
    }
}

#[test]
fn words_go_on_and_what_is_not_clean_stays_so() {
    let compiled = image(&plain());
    let mut running = Running::of(&compiled);
    let config = config(&plain());
    let at = |path: &str| config.topology.find(path).unwrap().index();
    running.backends[0].admission = Admission::new(0, 255).held();
    running.admission[at("r0/z1")] = Admission::new(0, 0);
    running.admission[at("r0/z0/k1")] = Admission::new(255, 255);
    // b0x1 moves away from rack k1, whose word is open but was not always.
    let mut scene = plain();
    scene.backends[0][1] = Some((100, 0));
    scene.backends[1][2] = None;
    let (next, _) = succeed(image(&scene), &running, &Unneeded::default()).unwrap();
    assert_eq!(next.backends[0].admission, Admission::new(0, 255).held());
    assert_eq!(next.admission[at("r0/z1")], Admission::new(0, 0));
    assert_eq!(
        next.backends[1].admission,
        Admission::new(255, 255),
        "its own word bears what the rack's did"
    );
    assert_eq!(next.backends[2].admission, Admission::OPEN);
    let left = next.backends[5];
    assert_ne!(left.flags & BACKEND_LEAVING, 0);
    assert_eq!(usize::from(left.zone), at("r0/z1"), "it still goes down with its zone");
}

#[test]
fn a_domain_that_left_with_its_backends_leaves_its_word_to_them() {
    let mut running = Running::of(&image(&plain()));
    let zone = running.backends[3].zone;
    running.admission[usize::from(zone)] = Admission::new(0, 0).held();
    let mut text = plain();
    text.services = [(true, false, false, false); SERVICES];
    // Every backend of the second set is another one now.
    let mut other = image(&text);
    for entry in &mut other.backends[3..] {
        entry.outer_destination[0] = 11;
    }
    let (next, report) = succeed(other, &running, &Unneeded::default()).unwrap();
    assert_eq!(report.leaving_backends, 3);
    for left in &next.backends[3..6] {
        assert_eq!(left.admission, Admission::new(0, 0).held());
        assert_eq!(next.admission[usize::from(left.zone)], Admission::OPEN);
    }
}

#[test]
fn too_many_backends_are_refused_with_what_to_wait_for() {
    let compiled = image(&plain());
    let mut running = Running::of(&compiled);
    let mut entry = running.backends[0];
    for n in running.backends.len()..MAX_BACKENDS {
        entry.outer_destination[..4].copy_from_slice(&(0x0b00_0000 + n as u32).to_be_bytes());
        running.backends.push(entry);
    }
    let mut other = compiled;
    other.backends[0].outer_destination[0] = 12;
    let error = succeed(other, &running, &Unneeded::default()).unwrap_err().to_string();
    assert!(error.contains("32767") && error.contains("weir status"), "{error}");
}

#[test]
fn what_a_service_makes_of_udp_is_changed_by_a_reload() {
    let config = |udp: &str| {
        let text = format!(
            "{NODE}[[set]]\nname = \"s\"\ndomain = \"r0/z0\"\n[[set.backend]]\nname = \"b\"\nrack = \"r0/z0/k0\"\n\
             address = \"10.1.0.1\"\n[[service]]\nname = \"v\"\naddress = \"192.0.2.1\"\nport = 53\nprotocol = \"udp\"\n\
             {udp}[[service.pool]]\nname = \"p\"\nsets = [\"s\"]\n"
        );
        Config::parse(&text, "udp.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
    };
    let words = ["", "udp = \"stick\"\n", "udp = \"move\"\n"];
    let images = words.map(|udp| compile(&config(udp)).unwrap());
    let sticky = |service: &ServiceEntry| service.flags & SERVICE_STICKY_UDP != 0;
    assert_eq!(images.each_ref().map(|image| sticky(&image.services[0])), [false, true, false]);
    assert_eq!((images[0].digest == images[1].digest, images[0].digest == images[2].digest), (false, true));
    let [plain, stick, _] = images;
    for (before, after) in [(&plain, &stick), (&stick, &plain)] {
        let (next, report) = succeed(after.clone(), &Running::of(before), &Unneeded::default()).unwrap();
        assert_eq!(sticky(&next.services[0]), sticky(&after.services[0]));
        assert_eq!((report.services, report.leaving_services), (0, 0), "no home moves");
    }
    let changed =
        super::super::difference::differences(&config(words[0]), &config(words[1])).services.changed;
    assert_eq!(changed, ["v"]);
}
