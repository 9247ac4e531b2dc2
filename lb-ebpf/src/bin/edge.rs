//! The edge host's XDP programs: `weir_edge` meets every frame, the other two what may have been relayed from another region.
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
        abi::{
            next::{NEXT_ARRIVE, NEXT_RELAY},
            reason::Reason,
        },
        datapath::{
            self,
            ports::Packet as _,
            relay,
            trace::Silent,
            verdict::{self, Outcome, Verdict},
        },
    };
    use lb_ebpf::{
        LICENSE,
        maps::{Maps, NEXT},
        packet::Frame,
    };

    #[xdp]
    fn weir_edge(ctx: XdpContext) -> u32 {
        let outcome = datapath::process_first(&mut Frame(&ctx), &Maps, &mut Silent);
        if outcome.reason as u32 == Reason::Inconsistent as u32 {
            report(&ctx);
        }
        finish(&ctx, &outcome)
    }

    /// A frame that [`weir_edge`] found to be for no VIP.
    #[xdp]
    fn weir_arrive(ctx: XdpContext) -> u32 {
        if let Some(outcome) = relay::arrive(&mut Frame(&ctx), &Maps) {
            return finish(&ctx, &outcome);
        }
        // SAFETY: nothing here is to be dropped.
        unsafe { NEXT.tail_call(&ctx, NEXT_RELAY) };
        count_missing(&ctx, &Outcome::refuse(Reason::Inconsistent));
        XDP_DROP
    }

    /// A frame that another region relayed, out of its tunnel.
    #[xdp]
    fn weir_relay(ctx: XdpContext) -> u32 {
        let outcome = datapath::process_relayed(&mut Frame(&ctx), &Maps, &mut Silent);
        finish(&ctx, &outcome)
    }

    #[inline(always)]
    fn finish(ctx: &XdpContext, outcome: &Outcome) -> u32 {
        match outcome.verdict {
            Verdict::Pass => XDP_PASS,
            Verdict::Drop => XDP_DROP,
            Verdict::Tx => XDP_TX,
            // SAFETY: a helper call without pointers; its value is the action to return.
            Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
            Verdict::Arrival => {
                // SAFETY: nothing here is to be dropped.
                unsafe { NEXT.tail_call(ctx, NEXT_ARRIVE) };
                // Nobody is there: this host's own traffic goes on all the same.
                count_missing(ctx, &Outcome::pass(Reason::PassNotVip));
                XDP_PASS
            }
        }
    }

    /// Counts a frame for which the program to go on to is missing. The daemon loads it wherever it is needed.
    #[inline(always)]
    fn count_missing(ctx: &XdpContext, outcome: &Outcome) {
        verdict::count(&Maps, outcome, Frame(ctx).length());
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
