//! The lab's own programs: one that only passes, one pair that cuts a cable at an exact instant, and one that answers heartbeats.
//!
//! A veth only carries `XDP_TX` traffic of its peer while it has an XDP program itself, so every port that faces an
//! edge or a backend needs `weir_pass` or `weir_cut`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{BPF_F_MMAPABLE, TC_ACT_OK, TC_ACT_SHOT, xdp_action},
        helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
        macros::{classifier, map, xdp},
        maps::Array,
        programs::{TcContext, XdpContext},
    };
    use lb_common::{
        abi::{
            ABI_VERSION,
            agent::{AgentAddress, AgentReason, AgentRoot},
            heartbeat,
        },
        datapath::{agent, ports::AgentTables, verdict::Verdict},
    };
    use lb_ebpf::{LICENSE, packet::Frame};

    /// CPUs that count into [`TOWARDS`]; a packet on a higher CPU is forwarded and not counted.
    const CPUS_MAX: u32 = 256;
    const ETHERNET_LEN: usize = 14;
    const ETHERTYPE_OFFSET: usize = 12;
    const ETHERTYPE_IPV4: u16 = 0x0800;
    const ETHERTYPE_IPV6: u16 = 0x86dd;
    const IPV4_PROTOCOL_OFFSET: usize = ETHERNET_LEN + 9;
    const IPV6_NEXT_HEADER_OFFSET: usize = ETHERNET_LEN + 6;
    const PROTOCOL_IPIP: u8 = 4;
    const PROTOCOL_IPV6: u8 = 41;

    /// Tunnelled packets that one CPU was asked to send to the cut group.
    #[repr(C)]
    struct Towards {
        /// CLOCK_MONOTONIC of the last one, in nanoseconds; 0 before the first.
        last_ns: u64,
        /// How many there were.
        packets: u64,
    }

    /// Not 0: the cable of this program instance's group is cut.
    #[map]
    static CUT: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

    /// Indexed by CPU. Counts before the cut is looked at: a packet sent into a cut cable counts as sent.
    #[map]
    static TOWARDS: Array<Towards> = Array::with_max_entries(CPUS_MAX, BPF_F_MMAPABLE);

    /// Passes everything.
    #[xdp]
    fn weir_pass(_ctx: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    /// What comes from the group: passed, or dropped while the cable is cut.
    #[xdp]
    fn weir_cut(_ctx: XdpContext) -> u32 {
        if is_cut() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
    }

    /// What goes to the group: counted if tunnelled; passed, or dropped while the cable is cut.
    #[classifier]
    fn weir_cut_out(ctx: TcContext) -> i32 {
        if is_tunnelled(&ctx) {
            count();
        }
        (if is_cut() { TC_ACT_SHOT } else { TC_ACT_OK }) as i32
    }

    /// Answers every heartbeat, to whatever address it is: stands for thousands of agents.
    #[xdp]
    fn weir_answer(ctx: XdpContext) -> u32 {
        let everyone = Everyone(AgentRoot {
            abi_version: ABI_VERSION,
            flags: 0,
            heartbeat_port: heartbeat::DEFAULT_PORT.to_be_bytes(),
            status: heartbeat::STATUS_OK,
            reserved: 0,
            gue_port: [0; 2],
            reserved2: [0; 50],
        });
        match agent::process(&mut Frame(&ctx), &everyone) {
            Verdict::Tx => xdp_action::XDP_TX,
            Verdict::Pass => xdp_action::XDP_PASS,
            Verdict::Drop | Verdict::Redirect(_) | Verdict::Arrival => xdp_action::XDP_DROP,
        }
    }

    /// An agent with every address.
    struct Everyone(AgentRoot);

    impl AgentTables for Everyone {
        #[inline(always)]
        fn root(&self) -> Option<&AgentRoot> {
            Some(&self.0)
        }

        #[inline(always)]
        fn is_local(&self, _: &AgentAddress) -> bool {
            true
        }

        #[inline(always)]
        fn is_allowed_source(&self, _: &AgentAddress) -> bool {
            true
        }

        #[inline(always)]
        fn count(&self, _: AgentReason, _: u64) {}
    }

    fn is_cut() -> bool {
        CUT.get_ptr(0).is_some_and(|cut| {
            // SAFETY: the pointer comes from a lookup in a preallocated array, whose elements live as long as the
            // program; user space writes the aligned word at any time, hence volatile.
            unsafe { cut.read_volatile() != 0 }
        })
    }

    fn is_tunnelled(ctx: &TcContext) -> bool {
        let protocol_offset = match ctx.load::<u16>(ETHERTYPE_OFFSET).map(u16::from_be) {
            Ok(ETHERTYPE_IPV4) => IPV4_PROTOCOL_OFFSET,
            Ok(ETHERTYPE_IPV6) => IPV6_NEXT_HEADER_OFFSET,
            _ => return false,
        };
        matches!(ctx.load::<u8>(protocol_offset), Ok(PROTOCOL_IPIP | PROTOCOL_IPV6))
    }

    fn count() {
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
        // SAFETY: the helper has no preconditions.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        if let Some(towards) = TOWARDS.get_ptr_mut(cpu) {
            // SAFETY: the element belongs to this CPU alone, and a classifier runs with migration disabled; a reader
            // in user space may see the two words of different packets, which it is told.
            unsafe {
                (*towards).last_ns = now_ns;
                (*towards).packets += 1;
            }
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
