//! Each way to be refused, and what the message says.

use lb_maglev::{Error, MAX_MEMBERS, MAX_SLOTS, Member, TABLE_SIZES, Table, build};

fn member(name: &str, weight: u32, id: u16) -> Member<'_> {
    Member { name, weight, id }
}

fn pool(names: &[String], weight: u32) -> Vec<Member<'_>> {
    names.iter().zip(0..).map(|(name, id)| member(name, weight, id)).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("backend-{i}")).collect()
}

#[test]
fn an_empty_pool() {
    assert_eq!(build(&[], 4093), Err(Error::NoMembers));
}

#[test]
fn more_members_than_ids() {
    let names = names(MAX_MEMBERS + 1);
    assert_eq!(build(&pool(&names, 1), 655_373), Err(Error::TooManyMembers { count: 32768 }));
    assert!(build(&pool(&names[..MAX_MEMBERS], 1), 655_373).is_ok());
}

#[test]
fn sizes_that_are_no_prime_or_out_of_range() {
    let one = [member("a", 1, 0)];
    for slots in [4, 9, 4095, 65536, 65535, 655_371, MAX_SLOTS - 1] {
        assert_eq!(build(&one, slots), Err(Error::SlotsNotPrime { slots }));
    }
    for slots in [0, 1, 2, MAX_SLOTS + 1, u32::MAX] {
        assert_eq!(build(&one, slots), Err(Error::SlotsOutOfRange { slots }));
    }
    for slots in TABLE_SIZES.into_iter().chain([3, 5, MAX_SLOTS]) {
        assert!(build(&one, slots).is_ok(), "{slots}");
    }
}

#[test]
fn bad_members() {
    assert_eq!(build(&[member("a", 0, 0)], 4093), Err(Error::ZeroWeight { name: "a".into() }));
    let twice = [member("a", 1, 0), member("b", 1, 1), member("a", 2, 2)];
    assert_eq!(build(&twice, 4093), Err(Error::DuplicateName { name: "a".into() }));
    assert_eq!(build(&[member("a", 1, 3), member("b", 1, 3)], 4093), Err(Error::DuplicateId { id: 3 }));
    assert_eq!(
        build(&[member("a", 1, 0x8000)], 4093),
        Err(Error::IdTooLarge { name: "a".into(), id: 0x8000 })
    );
    assert!(build(&[member("a", 1, 0x7fff)], 4093).is_ok());
}

fn needed(result: Result<Vec<u16>, Error>) -> Option<u32> {
    match result {
        Err(Error::ShareOff { needed_slots, .. }) => needed_slots,
        other => panic!("expected a refused share, got {other:?}"),
    }
}

#[test]
fn shares_that_are_off_name_the_size_that_would_do() {
    // 1000 equal members in 4093 slots: most get 4, some 5 instead of 4.093, which is 22 % too much.
    let names = names(1000);
    assert_eq!(needed(build(&pool(&names, 5), 4093)), Some(16381));
    assert!(build(&pool(&names, 5), 16381).is_ok());

    let spread = |heavy| [member("light", 1, 0), member("heavy", heavy, 1)];
    assert_eq!(needed(build(&spread(20_000), 4093)), Some(65537));
    assert_eq!(needed(build(&spread(600_000), 65537)), Some(655_373));
    assert_eq!(needed(build(&spread(u32::MAX), 65537)), None);
}

#[test]
fn the_limit_is_ten_percent() {
    // One of 11 slots, for an exact share of 1.110 slots (9.9 % off) and of 1.112 (10.1 % off).
    assert!(build(&[member("light", 100, 0), member("heavy", 891, 1)], 11).is_ok());
    assert!(build(&[member("light", 100, 0), member("heavy", 889, 1)], 11).is_err());
}

#[test]
fn more_members_than_slots() {
    let names = names(5000);
    assert_eq!(needed(build(&pool(&names, 1), 4093)), Some(65537));
}

#[test]
fn a_refusal_leaves_the_table_alone() {
    let mut table = vec![7; 3];
    let result = lb_maglev::TableBuilder::new().build(&[member("a", 0, 0)], 4093, &mut table);
    assert!(result.is_err());
    assert_eq!(table, [7; 3]);
}

#[test]
fn messages_name_the_fault_and_the_remedy() {
    let light = [member("light", 1, 0), member("heavy", 20_000, 1)];
    let message = Table::build(&light, 4093).expect_err("too coarse").to_string();
    assert_eq!(
        message,
        "4093 slots cannot hold these shares: member `light` (weight 1 of 20001 in all) would get 1 instead of 0.204, \
         which is more than 10 % off; use 65537 slots, or bring the weights closer together"
    );
    let message = build(&light, 4095).expect_err("no prime").to_string();
    assert_eq!(
        message,
        "the number of slots must be a prime, and 4095 is not; use one of [4093, 16381, 65537, 655373]"
    );
}
