//! The edge host's XDP program.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        helpers::generated::bpf_redirect,
        macros::xdp,
        programs::XdpContext,
    };
    use aya_log_ebpf::error;
    use lb_common::{
        abi::reason::Reason,
        datapath::{self, trace::Silent, verdict::Verdict},
    };
    use lb_ebpf::{LICENSE, maps::Maps, packet::Frame};

    #[xdp]
    fn weir_edge(ctx: XdpContext) -> u32 {
        let outcome = datapath::process(&mut Frame(&ctx), &Maps, &mut Silent);
        if outcome.reason as u32 == Reason::Inconsistent as u32 {
            report(&ctx);
        }
        match outcome.verdict {
            Verdict::Pass => XDP_PASS,
            Verdict::Drop => XDP_DROP,
            Verdict::Tx => XDP_TX,
            // SAFETY: a helper call without pointers; its value is the action to return.
            Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
        }
    }

    /// Tells that the maps contradict each other: a fault of the daemon and not of the packet. The ring buffer bounds how
    /// much of this there can be.
    ///
    /// Which service and backend it was, is not told: keeping them until here takes 16 bytes of stack, and Linux 6.1 then
    /// refuses the program. It counts every frame of a chain of calls in steps of 32 bytes, of which there are 512.
    #[inline(never)]
    fn report(ctx: &XdpContext) {
        error!(ctx, "the maps contradict each other");
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
