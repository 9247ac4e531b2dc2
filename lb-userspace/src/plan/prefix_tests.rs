use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::datapath::prefix::lookup;
use lb_common::net::{address_bytes, address_words};
use proptest::prelude::*;

use super::*;

fn prefix(text: &str, value: u32) -> Prefix {
    Prefix { prefix: IpPrefix::parse(text).unwrap(), value }
}

fn build(lists: &[&[Prefix]]) -> PrefixTables {
    let mut builder = PrefixBuilder::new();
    for list in lists {
        builder.add(list).unwrap();
    }
    builder.finish()
}

fn find(tables: &PrefixTables, table: u32, address: IpAddr) -> u32 {
    lookup(tables, table, &address_words(&address_bytes(address)))
}

fn look(tables: &PrefixTables, table: u32, address: &str) -> u32 {
    find(tables, table, address.parse().unwrap())
}

/// The longest match by looking at every prefix.
fn naive(prefixes: &[Prefix], address: IpAddr) -> u32 {
    let matching = prefixes.iter().filter(|p| p.prefix.contains(address));
    matching.max_by_key(|p| p.prefix.length()).map_or(0, |p| p.value)
}

/// Addresses at and around both ends of every prefix.
fn telling(prefixes: &[Prefix]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for Prefix { prefix, .. } in prefixes {
        match prefix.address() {
            IpAddr::V4(first) => {
                let first = first.to_bits();
                let last = first | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                let around =
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1), first | ((last - first) / 2)];
                addresses.extend(around.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
            }
            IpAddr::V6(first) => {
                let first = first.to_bits();
                let last = first | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                let around =
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1), first | ((last - first) / 2)];
                let outside_mapped = around.into_iter().filter(|bits| bits >> 32 != 0xffff);
                addresses.extend(outside_mapped.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
            }
        }
    }
    addresses
}

fn unique(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_by_key(|p| p.prefix);
    prefixes.dedup_by_key(|p| p.prefix);
    prefixes
}

/// Prefixes of all lengths, many of them nested: bits are drawn from few patterns.
fn any_prefixes(most: usize) -> impl Strategy<Value = Vec<Prefix>> {
    let v4_bits =
        prop_oneof![any::<u32>(), (0_u32..8).prop_map(|n| 0x0a00_0000 | n << 9 | n), Just(0), Just(u32::MAX)];
    let v6_bits = prop_oneof![
        any::<u128>(),
        (0_u128..8).prop_map(|n| 0x2001_0db8 << 96 | n << 77 | n << 60 | n),
        (0_u128..8).prop_map(|n| 0x2001_0db8 << 96 | n),
        Just(0),
        Just(u128::MAX),
        (0_u128..16).prop_map(|n| 0xffff_0000_0000 | n << 32),
    ];
    let v4 = (v4_bits, 0_u8..=32)
        .prop_map(|(bits, length)| IpPrefix::containing(Ipv4Addr::from_bits(bits).into(), length));
    let v6 = (v6_bits, 0_u8..=128)
        .prop_map(|(bits, length)| IpPrefix::containing(Ipv6Addr::from_bits(bits).into(), length));
    let not_mapped = |p: &IpPrefix| !matches!(p.address(), IpAddr::V6(a) if p.length() >= 96 && a.to_ipv4_mapped().is_some());
    let one = (prop_oneof![v4, v6].prop_filter("mapped", not_mapped), 0_u32..4);
    proptest::collection::vec(one.prop_map(|(prefix, value)| Prefix { prefix, value }), 0..most)
        .prop_map(unique)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_table_finds_the_longest_match(
        lists in proptest::collection::vec(any_prefixes(60), 1..4),
        more in proptest::collection::vec(prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ], 16),
    ) {
        let mut builder = PrefixBuilder::new();
        let ids: Vec<u32> = lists.iter().map(|list| builder.add(list).unwrap()).collect();
        let tables = builder.finish();
        for (list, &id) in lists.iter().zip(&ids) {
            for address in telling(list).into_iter().chain(more.iter().copied()) {
                prop_assert_eq!(find(&tables, id, address), naive(list, address), "{}", address);
            }
        }
    }

    #[test]
    fn order_does_not_matter(list in any_prefixes(40).prop_flat_map(|l| (Just(l.clone()), Just(l).prop_shuffle()))) {
        let (one, other) = list;
        prop_assert_eq!(build(&[&one]), build(&[&other]));
    }

    #[test]
    fn there_are_no_more_nodes_than_estimated(list in any_prefixes(60)) {
        let v4 = list.iter().filter(|p| matches!(p.prefix, IpPrefix::V4(_))).count();
        let tables = build(&[&list]);
        prop_assert!(tables.bytes() <= most_bytes(v4, list.len() - v4), "{}", tables.bytes());
    }
}

#[test]
fn families_do_not_meet() {
    let tables = build(&[&[prefix("::/0", 6), prefix("10.0.0.0/8", 4)]]);
    assert_eq!(look(&tables, 1, "10.1.2.3"), 4);
    assert_eq!(look(&tables, 1, "11.1.2.3"), 0);
    assert_eq!(look(&tables, 1, "::a01:203"), 6);
    assert_eq!(look(&tables, 1, "2001:db8::1"), 6);
    assert_eq!(look(&build(&[&[prefix("0.0.0.0/0", 4)]]), 1, "2001:db8::1"), 0);
}

#[test]
fn a_longer_prefix_may_be_a_hole() {
    let tables = build(&[&[prefix("10.0.0.0/8", 1), prefix("10.1.0.0/16", 0), prefix("10.1.2.3/32", 2)]]);
    let found = ["10.0.0.1", "10.1.0.1", "10.1.2.3", "10.1.2.4"].map(|text| look(&tables, 1, text));
    assert_eq!(found, [1, 0, 2, 0]);
}

#[test]
fn hosts_of_both_families() {
    let list = [prefix("198.51.100.7/32", 1), prefix("2001:db8::7/128", 2), prefix("2001:db8::/32", 3)];
    let tables = build(&[&list]);
    let texts = ["198.51.100.7", "198.51.100.6", "2001:db8::7", "2001:db8::6", "2001:db9::7"];
    assert_eq!(texts.map(|text| look(&tables, 1, text)), [1, 0, 2, 3, 0]);
}

#[test]
fn equal_lists_share_a_table_and_others_do_not() {
    let (one, two) = (prefix("10.0.0.0/8", 1), prefix("10.1.0.0/16", 2));
    let mut builder = PrefixBuilder::new();
    assert_eq!(builder.add(&[one, two]), Ok(1));
    assert_eq!(builder.add(&[one]), Ok(2));
    assert_eq!(builder.add(&[two, one]), Ok(1));
    assert_eq!(builder.add(&[Prefix { value: 3, ..one }]), Ok(3));
    assert_eq!(builder.add(&[]), Ok(NO_TABLE));
    let tables = builder.finish();
    assert_eq!((0..5).map(|table| look(&tables, table, "10.1.2.3")).collect::<Vec<_>>(), [0, 2, 1, 3, 0]);
}

#[test]
fn what_has_no_answer_is_refused() {
    let add = |prefixes: &[Prefix]| PrefixBuilder::new().add(prefixes);
    let twice = prefix("10.0.0.0/8", 1);
    let error = add(&[prefix("10.0.0.0/8", 2), prefix("10.0.0.0/9", 2), twice]);
    assert_eq!(error, Err(PrefixTableError::Duplicate { prefix: twice.prefix }));
    let twice = prefix("2001:db8::/32", 1);
    assert_eq!(add(&[twice, twice]), Err(PrefixTableError::Duplicate { prefix: twice.prefix }));
    let mapped = prefix("::ffff:10.0.0.0/104", 1);
    assert_eq!(add(&[mapped]), Err(PrefixTableError::Mapped { prefix: mapped.prefix }));
    let great = Prefix { value: MAX_PREFIX_VALUE + 1, ..twice };
    assert_eq!(add(&[great]), Err(PrefixTableError::Value { prefix: great.prefix, value: great.value }));
    assert_eq!(add(&[Prefix { value: MAX_PREFIX_VALUE, ..twice }]), Ok(1));
}

#[test]
fn prefixes_that_say_what_a_shorter_one_says_take_no_room() {
    let mut list = vec![prefix("10.0.0.0/8", 1), prefix("11.0.0.0/8", 2)];
    let before = build(&[&list]).nodes.len();
    list.push(prefix("10.1.2.0/24", 1));
    assert_eq!(build(&[&list]).nodes.len(), before);
}

/// The biggest list that is allowed, of lengths as in the Internet's table: within a few seconds even unoptimised.
#[test]
fn a_million_prefixes() {
    let prefixes: Vec<_> = (0..1_u32 << 20)
        .map(|n| {
            let address = IpAddr::from((n.wrapping_mul(0x9e37_79b1) & !0xff).to_be_bytes());
            (IpPrefix::containing(address, if n % 8 == 0 { 20 } else { 24 }), 1 + n % 7)
        })
        .map(|(prefix, value)| Prefix { prefix, value })
        .collect();
    let prefixes = unique(prefixes);
    let tables = build(&[&prefixes]);
    for Prefix { prefix, value } in prefixes.iter().filter(|p| p.prefix.length() == 24).step_by(1009) {
        assert_eq!(find(&tables, 1, prefix.address()), *value, "{prefix}");
    }
    assert!(tables.bytes() <= most_bytes(prefixes.len(), 0));
}
