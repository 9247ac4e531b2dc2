//! The flow hash and what is derived from it.
//!
//! A flow's hash is NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: "UMAC", CRYPTO 1999) over the 5-tuple's 32-bit
//! words, then a keyed finaliser. NH is almost universal: without the key nobody can construct tuples that collide more
//! often than chance, which is what keeps a client from aiming at one backend. It is not a cryptographic hash: whoever
//! can watch where many chosen flows go may in time infer key material. BPF has no 128-bit product, so NH's 32 x 32 -> 64
//! is also the widest multiply there is.

use super::parse::Tuple;
use crate::{abi::root::FlowHashKey, net::AddressWords};

/// A bijective finaliser: every input bit changes every output bit with a probability near one half (the `mix13`
/// variant of the murmur3 finaliser by D. Stafford).
#[must_use]
#[inline(always)]
pub const fn finish(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Expands the fleet-wide secret to the keys of the flow hash.
#[must_use]
pub const fn expand_key(secret: &[u8; 32]) -> FlowHashKey {
    let mut state = [0_u64; 4];
    let mut i = 0;
    while i < 32 {
        state[i / 8] |= (secret[i] as u64) << (8 * (i % 8));
        i += 1;
    }
    let mut words = [0; 10];
    let mut i = 0;
    while i < 10 {
        words[i] = stream(&state, i as u64) as u32;
        i += 1;
    }
    FlowHashKey { words, finish: stream(&state, 10) }
}

/// Word `i` of a stream that depends on all of `state`.
const fn stream(state: &[u64; 4], i: u64) -> u64 {
    let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut k = 0;
    while k < 4 {
        x = finish(x ^ state[k]).wrapping_add(0x9e37_79b9_7f4a_7c15);
        k += 1;
    }
    x
}

#[inline(always)]
const fn product(a: u32, ka: u32, b: u32, kb: u32) -> u64 {
    (a.wrapping_add(ka) as u64).wrapping_mul(b.wrapping_add(kb) as u64)
}

/// The keyed 64-bit hash of a 5-tuple. Bytes are taken in little-endian words on every host that Weir runs on, so that a
/// fleet agrees.
#[must_use]
#[inline(always)]
pub fn flow_hash(key: &FlowHashKey, tuple: &Tuple) -> u64 {
    let k = &key.words;
    let (s, d) = (&tuple.source, &tuple.destination);
    let mut sum = product(s[3], k[0], tuple.ports, k[1]);
    sum = sum.wrapping_add(product(d[3], k[2], tuple.protocol as u32, k[3]));
    if tuple.is_ipv6 {
        sum = sum.wrapping_add(product(s[0], k[4], s[1], k[5]));
        sum = sum.wrapping_add(product(s[2], k[6], d[2], k[7]));
        sum = sum.wrapping_add(product(d[0], k[8], d[1], k[9]));
    }
    finish(sum.wrapping_add(key.finish))
}

/// The hash for probe `i` of a flow; probe 0 is the flow's hash itself.
#[must_use]
#[inline(always)]
pub const fn probe_hash(h: u64, i: u32) -> u64 {
    if i == 0 { h } else { finish(h ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
}

/// A byte, 0 to 255, that is independent of `h`'s slot and of the byte for any other `subject`. A flow belongs to a share if its
/// byte is less than [`share_limit`]: raising a share only adds flows, lowering it only removes some.
#[must_use]
#[inline(always)]
pub const fn share_byte(h: u64, subject: u32) -> u32 {
    (finish(h.rotate_left(32) ^ (subject as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)) >> 56) as u32
}

/// The byte by which domains judge a flow: one for all of them, so that a flow that a shifted zone sends away is sent away
/// by every backend of the zone, and the zone keeps exactly its share.
#[must_use]
#[inline(always)]
pub const fn domain_byte(h: u64) -> u32 {
    share_byte(h, 0xd0_3a11)
}

/// The byte by which pools judge a flow.
#[must_use]
#[inline(always)]
pub const fn pool_byte(h: u64) -> u32 {
    share_byte(h, 0x0b_0017)
}

/// The bytes by which the steps of a plan, the first one lowest, judge whether a flow that their pool's first slot refuses goes on
/// at once. One for each step: who leaves one pool is no likelier to leave the next.
#[must_use]
#[inline(always)]
pub const fn leave_bytes(h: u64) -> u64 {
    finish(h.rotate_left(16) ^ 0x8ebc_6af0_9c88_c6e3)
}

/// What a flow's byte must be less than to belong to a share: 0 for none, 256 for all (255).
#[must_use]
#[inline(always)]
pub const fn share_limit(share: u8) -> u32 {
    share as u32 + ((share as u32 + 1) >> 8)
}

/// The second, independent hash that a plan's shares are compared with.
#[must_use]
#[inline(always)]
pub const fn spill_hash(h: u64) -> u16 {
    (finish(h ^ 0xa076_1d64_78bd_642f) >> 48) as u16
}

/// The hash by which the service index finds a service. `port` in network order, as a word whose upper half is zero; `prefix` as in
/// [`ServiceKey`](crate::abi::service::ServiceKey).
#[must_use]
#[inline(always)]
pub const fn service_hash(seed: u64, address: &AddressWords, port: u32, protocol: u8, prefix: u8) -> u64 {
    let high = address[0] as u64 | (address[1] as u64) << 32;
    let low = address[2] as u64 | (address[3] as u64) << 32;
    let rest = port as u64 | (protocol as u64) << 16 | (prefix as u64) << 24;
    finish(seed ^ low.wrapping_add(high.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ rest)
}
