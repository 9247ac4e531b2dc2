//! The edge's datapath inside a wrapper that makes `BPF_PROG_TEST_RUN` with many repeats mean something: a repeat gets the
//! packet as the last one left it, so the wrapper writes the next flow's tuple, and takes off again what was put on.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        helpers::generated::bpf_xdp_adjust_head,
        macros::{map, xdp},
        maps::Array,
        programs::XdpContext,
    };
    use lb_common::{
        abi::bench::{BENCH_IPV6, BENCH_SPREAD, BenchRoot, spread},
        datapath::{self, ports::Packet, trace::Silent, verdict::Verdict},
        net::{ethernet, ipv4, ipv6},
    };
    use lb_ebpf::{LICENSE, maps::Maps, packet::Frame};

    #[map]
    static BENCH: Array<BenchRoot> = Array::with_max_entries(1, 0);

    /// The whole datapath.
    #[xdp]
    fn weir_bench(ctx: XdpContext) -> u32 {
        measure(&ctx, |frame| datapath::process_first(frame, &Maps, &mut Silent).verdict)
    }

    /// Nothing inside the wrapper: what is subtracted.
    #[xdp]
    fn weir_bench_empty(ctx: XdpContext) -> u32 {
        measure(&ctx, |_| Verdict::Pass)
    }

    #[inline(always)]
    fn measure(ctx: &XdpContext, body: impl Fn(&mut Frame<'_>) -> Verdict) -> u32 {
        let Some(bench) = BENCH.get_ptr_mut(0) else { return XDP_DROP };
        // SAFETY: a live element of the array; test runs do not run side by side.
        let bench = unsafe { &mut *bench };
        let mut frame = Frame(ctx);
        if write_tuple(&mut frame, bench).is_none() {
            return XDP_DROP;
        }
        let grown = match body(&mut frame) {
            Verdict::Tx => bench.outer_length as i32,
            Verdict::Pass => 0,
            Verdict::Drop | Verdict::Redirect(_) | Verdict::Arrival => {
                bench.unexpected += 1;
                return XDP_DROP;
            }
        };
        // SAFETY: the context is the one that the kernel called the program with; the helper checks the room. It is called
        // also for nothing, so that its cost is in what is subtracted.
        unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) };
        let header = bench.ethernet;
        match frame.write(0, &header) {
            Some(()) if grown != 0 => XDP_TX,
            Some(()) => XDP_PASS,
            None => XDP_DROP,
        }
    }

    /// Writes the next flow's client address and port.
    #[inline(always)]
    fn write_tuple(frame: &mut Frame<'_>, bench: &mut BenchRoot) -> Option<()> {
        let flow = bench.next & bench.flow_mask;
        bench.next = bench.next.wrapping_add(1);
        // An odd factor visits every flow once a round, in an order that no prefetcher follows.
        let mixed = flow.wrapping_mul(0x9e37_79b1) & bench.flow_mask;
        let port = ((mixed >> 16) as u16 ^ 0x8000 ^ mixed as u16).to_be_bytes();
        let is_spread = bench.flags & BENCH_SPREAD != 0;
        if bench.flags & BENCH_IPV6 == 0 {
            let client = if is_spread { spread(flow) } else { 0x0a00_0000 | mixed };
            frame.write(ethernet::LENGTH + 12, &client.to_be_bytes())?;
            frame.write(ethernet::LENGTH + ipv4::LENGTH, &port)
        } else {
            if is_spread {
                frame.write(ethernet::LENGTH + 10, &spread(flow).to_be_bytes())?;
            } else {
                frame.write(ethernet::LENGTH + 20, &mixed.to_be_bytes())?;
            }
            frame.write(ethernet::LENGTH + ipv6::LENGTH, &port)
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
