//! Placement must not change between versions: it would move nearly every flow of every installation.
//! The expected values come from a second implementation, written for this purpose and plain.

use lb_maglev::{Member, build, name_hash, reduce};

/// FNV-1a over the little-endian slots.
fn checksum(slots: &[u16]) -> u64 {
    let bytes = slots.iter().flat_map(|slot| slot.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn table(count: u16, slots: u32) -> Vec<u16> {
    let names: Vec<String> = (0..count).map(|id| format!("west-r{}-b{}", id / 16, id % 16)).collect();
    let members: Vec<_> = (0..count)
        .zip(&names)
        .map(|(id, name)| Member { name, weight: 50 + u32::from(id) % 100, id })
        .collect();
    build(&members, slots).expect("the pool makes a table")
}

#[test]
fn golden_tables() {
    let small = [2, 1, 2, 2, 1, 2, 0, 1, 1, 2, 1, 1, 2, 0, 0, 2, 0, 1, 2, 0, 0, 0, 2, 1, 1, 2, 0, 1, 0];
    assert_eq!(table(3, 29), small);
    assert_eq!(checksum(&table(40, 4093)), 0x15e7_1f94_0650_7e10);
    assert_eq!(checksum(&table(300, 65537)), 0x3466_9bac_6ec3_5f8f);
    assert_eq!(checksum(&table(1000, 655_373)), 0xad55_6ea6_6082_d38c);
}

#[test]
fn golden_hash() {
    assert_eq!(name_hash("west-r1-b1"), 0xfddd_beef_adcd_9aeb);
    assert_eq!(reduce(0x0123_4567_89ab_cdef, 65537), 34953);
}
