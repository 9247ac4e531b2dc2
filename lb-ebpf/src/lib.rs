//! What the XDP programs share: the maps, and the ports over which [`lb_common::datapath`] sees packets and maps. Nothing is
//! decided here.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg(target_arch = "bpf")]
// One instruction that Rust has no way to express on this target: see `advance_arrival`.
#![feature(asm_experimental_arch)]

pub mod agent_maps;
pub mod maps;
pub mod packet;

/// What the kernel reads to decide whether GPL-only helpers may be called.
pub const LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
