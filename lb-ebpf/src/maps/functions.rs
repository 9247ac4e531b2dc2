//! Stages of the datapath as global functions, which the verifier checks once for all callers. Only numbers go in and out; what is
//! more lies in the CPU's scratch.

use lb_common::datapath::{
    admit::{self, Request},
    classify::{self, Lookup},
    fragment, prefix,
    select::{self, Probe, Probed},
    steer::{self, Away, Walked},
    trace::Silent,
};

use super::{Maps, SCRATCH, take_over};

/// What [`weir_away`] was last called for on this CPU.
#[inline(always)]
fn last_request() -> Option<&'static Away> {
    // SAFETY: a live element of this CPU, which is written before `weir_away` is called and not again until the packet's
    // end; see `scratch`.
    Some(unsafe { &(*SCRATCH.get_ptr(0)?).away })
}

/// [`steer::away`] as a global function, which the verifier checks once for all callers. Only numbers go in and out; the
/// input lies in the CPU's scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_away() -> u64 {
    let Some(request) = last_request() else { return Walked::INCONSISTENT.0 };
    steer::away(&Maps, request, &mut Silent).0
}

/// [`steer::settle`] as a global function, for the packet that [`weir_away`] was called for. 1 if it was written down.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_settle(walked: u64) -> u64 {
    match last_request() {
        Some(request) => steer::settle(&Maps, request, Walked(walked), &mut Silent) as u64,
        None => 0,
    }
}

/// [`steer::walk`] as a global function, for the packet that [`weir_away`] was called for: what lies in the scratch needs no
/// room on the stack, of which three functions in a row have little.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_walk() -> u64 {
    let Some(request) = last_request() else { return Walked::INCONSISTENT.0 };
    steer::walk(&Maps, &request.walk(), &mut Silent).0
}

/// [`steer::traits`] as a global function, for the packet that [`weir_away`] was called for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_traits() -> u64 {
    let Some(request) = last_request() else { return 0 };
    steer::traits(&Maps, &request.walk())
}

/// [`select::probe`] as a global function, for the packet that [`weir_away`] was called for. Bit 0 of `flags`: opening; the upper half: [`Probe::eased`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_probe(pool: u32, first: u32, end: u32, flags: u32) -> u64 {
    let Some(&Away { h, .. }) = last_request() else { return Probed::INCONSISTENT };
    let request = Probe { pool, h, first, end, opening: flags & 1 != 0, eased: flags >> 16 };
    select::probe(&Maps, &request, &mut Silent).0
}

/// [`classify::find`] as a global function: the words of the address, then port, protocol and prefix in one. The index plus one,
/// or 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_find(a: u32, b: u32, c: u32, d: u32, rest: u32) -> u32 {
    let (port, protocol, prefix) = (rest & 0xffff, (rest >> 16) as u8, (rest >> 24) as u8);
    let lookup = Lookup { address: [a, b, c, d], port, protocol, prefix };
    classify::find(&Maps, &lookup).map_or(0, |index| index + 1)
}

/// [`classify::wide`] as a global function. The index plus one, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_wide(a: u32, b: u32, c: u32, d: u32, rest: u32) -> u32 {
    classify::wide(&Maps, &[a, b, c, d], rest as u16, (rest >> 16) as u8).map_or(0, |index| index + 1)
}

/// [`fragment::remember`] as a global function, for the packet that was handed over last. 1 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_remember_fragment(backend: u32) -> u32 {
    let Some(transport) = take_over() else { return 1 };
    fragment::remember(&Maps, &transport, backend);
    0
}

/// [`admit::judge`] as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_admit(guard: u32, flags: u32, source_high: u64, source_low: u64) -> u32 {
    let source =
        [source_high as u32, (source_high >> 32) as u32, source_low as u32, (source_low >> 32) as u32];
    admit::judge(&Maps, &Request { guard, flags, source })
}

/// [`prefix::lookup`] as a global function: `a` to `d` are the words of the address.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_prefix(table: u32, a: u32, b: u32, c: u32, d: u32) -> u32 {
    prefix::lookup(&Maps, table, &[a, b, c, d])
}
