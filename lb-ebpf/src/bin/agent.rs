//! The XDP program of `weir agent`, on backends.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        macros::xdp,
        programs::XdpContext,
    };
    use lb_common::datapath::{agent, verdict::Verdict};
    use lb_ebpf::{LICENSE, agent_maps::AgentMaps, packet::Frame};

    #[xdp]
    fn weir_agent(ctx: XdpContext) -> u32 {
        match agent::process(&mut Frame(&ctx), &AgentMaps) {
            Verdict::Pass => XDP_PASS,
            Verdict::Tx => XDP_TX,
            Verdict::Drop | Verdict::Redirect(_) | Verdict::Arrival => XDP_DROP,
        }
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static _LICENSE: [u8; LICENSE.len()] = LICENSE;

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
