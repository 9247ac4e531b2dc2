use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::super::image::ImageTables;
use super::*;
use lb_common::abi::plan::PoolEntry;
use lb_common::datapath::classify;
use lb_common::datapath::parse::Tuple;
use lb_common::datapath::ports::Tables;
use lb_common::net::{address_bytes, address_words};
use proptest::prelude::*;

const NODE: &str = r#"
[node]
name = "edge"
region = "r0"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
tunnel_source_v6 = "fd00:ff::/64"
[topology.r0]
z0 = ["k0", "k1"]
z1 = ["k0"]
[topology.r1]
z0 = ["k0"]
[client_regions]
inland = ["198.51.100.0/24", "2001:db8:a::/48"]
abroad = ["203.0.113.0/24"]
"#;
const RACKS: [&str; 4] = ["r0/z0/k0", "r0/z0/k1", "r0/z1/k0", "r1/z0/k0"];

/// A service of a random configuration: VIP and port, which sets its pools have, and whether plans differ.
#[derive(Clone, Debug)]
struct RandomService {
    vip: u8,
    port: u16,
    is_udp: bool,
    is_ipv6: bool,
    sets: Vec<BTreeSet<usize>>,
    by_region: bool,
    fail_open: bool,
}

/// Each set goes to the first pool, to the second, or to none.
fn service(sets: usize) -> impl Strategy<Value = RandomService> {
    let pool_of_set = prop::collection::vec(0_usize..3, sets);
    (0_u8..20, 1_u16..4, any::<[bool; 4]>(), pool_of_set).prop_map(
        |(vip, port, [is_udp, is_ipv6, by_region, fail_open], pool_of_set)| {
            let of_pool = |pool| (0..pool_of_set.len()).filter(|&set| pool_of_set[set] == pool).collect();
            let mut sets: Vec<BTreeSet<usize>> = (0..2).map(of_pool).collect();
            sets.retain(|sets| !sets.is_empty());
            if sets.is_empty() {
                sets.push(BTreeSet::from([0]));
            }
            RandomService { vip, port, is_udp, is_ipv6, sets, by_region, fail_open }
        },
    )
}

/// Weights of the backends of each set, and services over these sets.
fn network() -> impl Strategy<Value = (Vec<Vec<u32>>, Vec<RandomService>)> {
    prop::collection::vec(prop::collection::vec(50_u32..100, 1..4), 1..5).prop_flat_map(|sets| {
        let services = prop::collection::vec(service(sets.len()), 1..12);
        (Just(sets), services)
    })
}

impl RandomService {
    fn key(&self) -> (u8, u16, bool, bool) {
        (self.vip, self.port, self.is_udp, self.is_ipv6)
    }

    fn address(&self) -> IpAddr {
        if self.is_ipv6 {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(self.vip)])
        } else {
            IpAddr::from([192, 0, 2, self.vip])
        }
    }

    fn toml(&self, name: &str) -> String {
        let protocol = if self.is_udp { "udp" } else { "tcp" };
        let on_all_down = if self.fail_open { "fail-open" } else { "drop" };
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\non_all_down = \
             \"{on_all_down}\"\n",
            self.address(),
            self.port
        );
        for (pool, sets) in self.sets.iter().enumerate() {
            let sets: Vec<_> = sets.iter().map(|set| format!("s{set}")).collect();
            let _ =
                writeln!(text, "[[service.pool]]\nname = \"p{pool}\"\nsets = {sets:?}\ntable_size = 4093");
        }
        if self.sets.len() == 2 {
            let abroad = if self.by_region { "abroad = [\"p1\"]\n" } else { "" };
            let _ = writeln!(text, "[service.plan]\ndefault = [\"p0\", \"p1\"]\n{abroad}");
        }
        text
    }
}

/// The tables of a random configuration, in the given order or turned around.
fn toml(sets: &[Vec<u32>], services: &[RandomService], reversed: bool) -> String {
    let mut parts = Vec::new();
    for (s, weights) in sets.iter().enumerate() {
        let rack = RACKS[s % RACKS.len()];
        let mut backends: Vec<_> = weights.iter().enumerate().collect();
        if reversed {
            backends.reverse();
        }
        let mut text = format!("[[set]]\nname = \"s{s}\"\ndomain = \"{rack}\"\nchecks = []\n");
        for (b, weight) in backends {
            let address =
                if s % 2 == 0 { format!("10.1.{s}.{}", b + 1) } else { format!("fd00:1:{s}::{}", b + 1) };
            let _ = writeln!(
                text,
                "[[set.backend]]\nname = \"b{s}x{b}\"\nrack = \"{rack}\"\naddress = \"{address}\"\nweight = {weight}"
            );
        }
        parts.push(text);
    }
    parts.extend(services.iter().enumerate().map(|(i, service)| service.toml(&format!("v{i}"))));
    if reversed {
        parts.reverse();
    }
    format!("{NODE}{}", parts.concat())
}

fn parse(text: &str) -> Config {
    Config::parse(text, "random.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn tuple(source: SocketAddr, destination: SocketAddr, protocol: u8) -> Tuple {
    let [a, b] = source.port().to_be_bytes();
    let [c, d] = destination.port().to_be_bytes();
    Tuple {
        source: address_words(&address_bytes(source.ip())),
        destination: address_words(&address_bytes(destination.ip())),
        ports: u32::from_ne_bytes([a, b, c, d]),
        protocol,
        is_ipv6: destination.is_ipv6(),
    }
}

fn members_in_table(image: &Image, pool: &PoolEntry) -> BTreeSet<u16> {
    let base = pool.table_base as usize;
    image.slots[base..base + pool.table_slots as usize].iter().copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_service_is_found_and_every_member_has_slots((sets, mut services) in network()) {
        let mut seen = BTreeSet::new();
        services.retain(|service| seen.insert(service.key()));
        let config = parse(&toml(&sets, &services, false));
        let image = compile(&config).unwrap();
        let tables = ImageTables::new(image.clone());
        let root = tables.root().unwrap();
        let mut base = 0;
        for (index, service) in config.services.iter().enumerate() {
            let client = SocketAddr::from(([198, 51, 100, 7], 40_000));
            let protocol = keys::protocol_number(service.protocol);
            let at = |port| tuple(client, SocketAddr::new(service.vip.address(), port), protocol);
            let (found, entry) = classify::service(&tables, root, &at(service.ports.first())).unwrap();
            prop_assert_eq!(found as usize, index);
            prop_assert_eq!(entry.first, image.pools[base + service.plans[0][0].index()]);
            prop_assert!(classify::service(&tables, root, &at(9999)).is_none());
            prop_assert!(classify::is_vip(&tables, &address_words(&address_bytes(service.vip.address()))));
            for (p, pool) in service.pools.iter().enumerate() {
                let expected: BTreeSet<_> = config.members(pool).iter().map(|id| id.index() as u16).collect();
                prop_assert_eq!(members_in_table(&image, &image.pools[base + p]), expected);
            }
            let regions = entry.flags & SERVICE_MULTI_PLAN != 0;
            prop_assert_eq!(entry.plans as usize, if regions { config.client_regions.len() } else { 1 });
            for (region, plan) in service.plans.iter().enumerate() {
                let compiled = &image.plans[entry.plan_base as usize + if regions { region } else { 0 }];
                prop_assert_eq!(compiled.steps as usize, plan.len());
                for (step, pool) in plan.iter().enumerate() {
                    prop_assert_eq!(compiled.pools[step] as usize, base + pool.index());
                }
                prop_assert_eq!(compiled.first, image.pools[compiled.pools[0] as usize]);
            }
            base += service.pools.len();
        }
        prop_assert_eq!(image.pools.len(), base);
    }

    #[test]
    fn the_order_of_the_file_changes_nothing((sets, mut services) in network()) {
        let mut seen = BTreeSet::new();
        services.retain(|service| seen.insert(service.key()));
        let image = compile(&parse(&toml(&sets, &services, false))).unwrap();
        let reversed = compile(&parse(&toml(&sets, &services, true))).unwrap();
        prop_assert_eq!(image, reversed);
    }
}

#[test]
fn what_is_relayed_is_marked_in_its_pool_and_in_its_backends() {
    let text = "[node]\nname = \"e\"\nregion = \"west\"\ninterfaces = [\"eth0\"]\ntunnel_source_v4 = \"10.255.0.0/16\"\n\
        hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n\
        [topology.west]\nw1 = [\"r1\"]\n[topology.east]\n\
        [[relay]]\nname = \"far\"\nregion = \"east\"\nchecks = []\n[[relay.host]]\nname = \"edge-e1\"\naddress = \"10.0.9.2\"\n\
        [[set]]\nname = \"s\"\ndomain = \"west/w1\"\nchecks = []\n\
        [[set.backend]]\nname = \"b\"\nrack = \"west/w1/r1\"\naddress = \"10.1.0.1\"\n\
        [[service]]\nname = \"web\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n\
        [[service.pool]]\nname = \"own\"\nsets = [\"s\"]\n[[service.pool]]\nname = \"there\"\nrelay = \"far\"\n\
        [service.plan]\ndefault = [\"own\", \"there\"]\n";
    let image = compile(&parse(text)).unwrap();
    let pool = |name: &str| image.names.pools.iter().position(|known| known == name).unwrap();
    for (pool, is_relay) in [(pool("web/own"), false), (pool("web/there"), true)] {
        assert_eq!(image.pools[pool].flags & POOL_RELAY != 0, is_relay, "{}", image.names.pools[pool]);
    }
    for (name, entry) in image.names.backends.iter().zip(&image.backends) {
        assert_eq!(entry.flags & BACKEND_RELAY != 0, name == "edge-e1", "{name}");
    }
}

fn small() -> Config {
    let service = RandomService {
        vip: 10,
        port: 80,
        is_udp: false,
        is_ipv6: false,
        sets: vec![BTreeSet::from([0]), BTreeSet::from([1])],
        by_region: true,
        fail_open: false,
    };
    let twin = RandomService { vip: 11, sets: vec![BTreeSet::from([0, 1])], ..service.clone() };
    parse(&toml(&[vec![50, 50], vec![50]], &[service, twin], false))
}

#[test]
fn pools_with_the_same_members_share_a_table() {
    let mut config = small();
    config.services[1].pools[0].sets = config.services[0].pools[1].sets.clone();
    let image = compile(&config).unwrap();
    assert_eq!(image.pools[1].table_base, image.pools[2].table_base);
    assert_ne!(image.pools[1].admission, image.pools[2].admission);
    assert_eq!(image.slots.len(), 2 * 4093);
}

#[test]
fn the_digest_covers_the_configuration_and_not_what_the_daemon_changes() {
    let config = small();
    let image = compile(&config).unwrap();
    assert_eq!(image.root.config_digest, image.digest);
    let mut tables = ImageTables::new(image.clone());
    tables.set_next_hops(3, [1; 6], [2; 6], 1500);
    tables.set_backend_admission(0, Admission::CLOSED);
    tables.set_admission(0, Admission::CLOSED);
    assert_eq!(tables.image().compute_digest(), image.digest);
    let mut other = config.clone();
    other.backends[0].weight += 1;
    assert_ne!(compile(&other).unwrap().digest, image.digest);
    let mut other = config;
    other.topology.domains[0].path.push('x');
    assert_ne!(
        compile(&other).unwrap().digest,
        image.digest,
        "words of a renamed domain are not to be adopted"
    );
}

#[test]
fn backends_are_reached_by_the_family_of_their_address() {
    let image = compile(&small()).unwrap();
    let [v4, _, v6] = image.backends[..] else { panic!("{:?}", image.names.backends) };
    assert!(!v4.is_outer_ipv6() && v6.is_outer_ipv6());
    assert_eq!(v4.outer_destination[..5], [10, 1, 0, 1, 0]);
    assert_eq!(image.root.outer_source_v4, [10, 255, 0, 0]);
    assert_eq!(image.root.outer_source_v6[..4], [0xfd, 0, 0, 0xff]);
    assert_eq!((v4.ifindex, v4.mtu), (0, 0));
    let domain = |index: u16| image.names.domains[index as usize].as_str();
    assert_eq!([v4.rack, v4.zone, v4.region].map(domain), ["r0/z0/k0", "r0/z0", "r0"]);
}

#[test]
fn entropy_has_the_low_bits_of_the_tunnel_source() {
    let root = compile(&small()).unwrap().root;
    assert_eq!(root.entropy_mask_v4, [0, 0, 0xff, 0xff]);
    assert_eq!(root.entropy_mask_v6, [0xff; 4]);
    assert_eq!(entropy_mask(0, 16), [0; 4]);
    assert_eq!(entropy_mask(3, 16), [0, 0, 0, 7]);
    assert_eq!(entropy_mask(24, 16), [0, 0, 0xff, 0xff]);
}

#[test]
fn the_longest_prefix_decides_the_client_region_as_in_the_configuration() {
    let mut config = small();
    let prefixes = ["0.0.0.0/0", "198.51.100.128/25", "2001:db8:a:1::/64"];
    config.client_regions[1].prefixes.extend(prefixes.map(|text| IpPrefix::parse(text).unwrap()));
    let tables = ImageTables::new(compile(&config).unwrap());
    for text in [
        "198.51.100.7",
        "198.51.100.200",
        "203.0.113.9",
        "1.2.3.4",
        "2001:db8:a::1",
        "2001:db8:a:1::1",
        "::1",
    ] {
        let address: IpAddr = text.parse().unwrap();
        let expected = config.client_region_of(address).index() as u32;
        assert_eq!(tables.client_region(&address_words(&address_bytes(address))), expected, "{text}");
    }
}

#[test]
fn an_ipv6_prefix_that_holds_the_mapped_addresses_does_not_catch_ipv4_clients() {
    let mut config = small();
    config.client_regions[1].prefixes.push(IpPrefix::parse("::/0").unwrap());
    let tables = ImageTables::new(compile(&config).unwrap());
    let region = |text: &str| tables.client_region(&address_words(&address_bytes(text.parse().unwrap())));
    assert_eq!(region("1.2.3.4"), 0);
    assert_eq!(region("2001:db8:ffff::1"), 1);
}

#[test]
fn what_the_data_plane_cannot_hold_is_refused_by_name() {
    let mut config = small();
    config.client_regions[1].prefixes.push(IpPrefix::parse("::ffff:1.2.3.0/120").unwrap());
    let error = compile(&config).unwrap_err().to_string();
    assert!(error.contains("write it as an IPv4 prefix"), "{error}");

    let mut config = small();
    config.services[1].vip = config.services[0].vip;
    let error = compile(&config).unwrap_err().to_string();
    assert!(error.contains("`v0` and `v1`"), "{error}");

    let mut config = small();
    config.backends[0].weight = 65_535;
    config.backends[1].weight = 1;
    let error = compile(&config).unwrap_err().to_string();
    assert!(error.contains("service `v0`") && error.contains("slots"), "{error}");
}

/// Many services over sets of their own.
fn wide(services: std::ops::Range<usize>, changed: Option<usize>) -> Config {
    let mut text = NODE.to_owned();
    for s in services {
        let weight = if changed == Some(s) { 70 } else { 100 };
        let _ = writeln!(
            text,
            "[[set]]\nname = \"s{s:03}\"\ndomain = \"r0/z0\"\n\
             [[set.backend]]\nname = \"b{s:03}x0\"\nrack = \"r0/z0/k0\"\naddress = \"10.1.{s}.1\"\nweight = {weight}\n\
             [[set.backend]]\nname = \"b{s:03}x1\"\nrack = \"r0/z0/k0\"\naddress = \"10.1.{s}.2\"\n\
             [[service]]\nname = \"v{s:03}\"\naddress = \"192.0.2.1\"\nport = {}\nprotocol = \"tcp\"\n\
             [[service.pool]]\nname = \"p\"\nsets = [\"s{s:03}\"]\ntable_size = 4093",
            80 + s
        );
    }
    parse(&text)
}

#[test]
fn a_change_of_one_pool_builds_one_table() {
    let mut tables = TableCache::default();
    let first = compile_with(&wide(0..100, None), &mut tables).unwrap();
    assert_eq!(tables.built(), 100);
    assert_eq!(compile_with(&wide(0..100, None), &mut tables).unwrap(), first);
    assert_eq!(tables.built(), 100);
    let changed = wide(0..100, Some(42));
    assert_eq!(compile_with(&changed, &mut tables).unwrap(), compile(&changed).unwrap());
    assert_eq!(tables.built(), 101);
    // All backends have other ids when the first ones go; the tables are the same.
    let fewer = wide(1..100, None);
    assert_eq!(compile_with(&fewer, &mut tables).unwrap(), compile(&fewer).unwrap());
    assert_eq!(tables.built(), 101);
}
