//! What stands in the place of the edge's program while somebody watches: the same datapath over the same maps, between two functions that
//! copy what came and tell what became of it. Nothing of it is in the edge's own program.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use core::hint::black_box;

    use aya_ebpf::{
        bindings::{
            BPF_RB_NO_WAKEUP,
            xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
            xdp_md,
        },
        helpers::{
            bpf_get_smp_processor_id, bpf_ktime_get_ns,
            generated::{bpf_redirect, bpf_ringbuf_output, bpf_xdp_load_bytes},
        },
        macros::{map, xdp},
        maps::{Array, PerCpuArray, ProgramArray, RingBuf},
        programs::XdpContext,
    };
    use lb_common::{
        abi::{
            guard::UNTIL_SHIFT,
            limits::{MAX_WATCHERS, WATCH_RING_BYTES},
            next::{NEXT_ARRIVE, NEXT_PROGRAMS, NEXT_RELAY},
            reason::Reason,
            watch::{
                FRAME_ROOM, MAX_SNAP, SEEN_BY_ID, SEEN_RELAYED, SEEN_REMEMBERED, WALKED, WatchControl,
                WatchFilter, WatchLost, WatchRecord,
            },
        },
        datapath::{
            self,
            filter::Allowance,
            ports::{Clock, Packet},
            relay,
            steer::Walked,
            trace::{Step, Trace},
            verdict::{self, Outcome, Verdict},
            watch::{self, HEAD},
        },
    };
    use lb_ebpf::{
        LICENSE,
        maps::{Maps, NEXT, forget_handed_over, handed_over},
        packet::Frame,
    };

    /// `BPF_F_MMAPABLE`.
    const MMAPABLE: u32 = 1 << 10;
    /// Room for both frames, and for an offset that is only known to be below 2,048.
    const FRAMES: usize = 3_584;

    #[map]
    static WATCH: Array<WatchControl> = Array::with_max_entries(1, MMAPABLE);
    #[map]
    static WATCH_FILTERS: Array<WatchFilter> = Array::with_max_entries(MAX_WATCHERS as u32, MMAPABLE);
    /// As many elements as there are CPUs; the daemon says.
    #[map]
    static WATCH_LOST: Array<WatchLost> = Array::with_max_entries(1, MMAPABLE);
    /// What goes on behind [`weir_watched`], where relays are configured: as `NEXT` for the edge.
    #[map]
    static WATCH_NEXT: ProgramArray = ProgramArray::with_max_entries(NEXT_PROGRAMS, 0);
    #[map]
    static WATCH_RING: RingBuf = RingBuf::with_byte_size(WATCH_RING_BYTES, 0);
    #[map]
    static WATCH_STATE: PerCpuArray<State> = PerCpuArray::with_max_entries(1, 0);
    #[map]
    static WATCH_TOLD: PerCpuArray<Told> = PerCpuArray::with_max_entries(1, 0);

    /// What goes into the ring buffer, as far as it is used.
    #[repr(C, align(8))]
    struct Told {
        record: WatchRecord,
        frames: [u8; FRAMES],
    }

    /// What a CPU keeps between a packet's arrival and its end.
    #[repr(C, align(8))]
    struct State {
        head: [u8; HEAD],
        /// Bytes of `head` that are the packet's; 0 for a packet that nobody wants to see.
        length: u64,
        /// The packet's random number.
        drawn: u32,
        reserved: u32,
        /// What became of the packet: [`Outcome::words`].
        what: u64,
        whither: u64,
        /// What may still be told.
        allowance: Allowance,
    }

    const _: () =
        assert!(size_of::<Told>() == size_of::<WatchRecord>() + FRAMES && FRAMES >= 2047 + MAX_SNAP);
    const _: () = assert!(FRAMES >= 2 * FRAME_ROOM);

    fn state() -> Option<&'static mut State> {
        // SAFETY: a live element of this CPU, on which no second XDP program interrupts this one. Each function here takes it once.
        unsafe { WATCH_STATE.get_ptr_mut(0)?.as_mut() }
    }

    fn told() -> Option<&'static mut Told> {
        // SAFETY: as in `state`.
        unsafe { WATCH_TOLD.get_ptr_mut(0)?.as_mut() }
    }

    /// Keeps what only the datapath knows while it decides.
    ///
    /// `CONCLUDES` says whether it keeps what becomes of the packet before that is counted, or whoever asked for it does so at the end: either
    /// takes less stack in one of the programs, and both have none to spare.
    struct Notes<const CONCLUDES: bool>;

    impl<const CONCLUDES: bool> Trace for Notes<CONCLUDES> {
        #[inline(always)]
        fn step(&mut self, _: Step) {}

        #[inline(always)]
        fn placed(&mut self, walked: Walked) {
            weir_note(walked.0 | WALKED);
        }

        #[inline(always)]
        fn concluded(&mut self, outcome: &Outcome) {
            if CONCLUDES {
                conclude(outcome);
            }
        }

        #[inline(always)]
        fn remembered(&mut self) {
            weir_note(SEEN_REMEMBERED as u64);
        }

        #[inline(always)]
        fn by_connection_id(&mut self) {
            weir_note(SEEN_BY_ID as u64);
        }
    }

    /// Keeps a note: what placed the packet, with [`WALKED`], or some of `SEEN_*`. A function of its own, because the one that it is called
    /// from has no stack left.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_note(note: u64) -> u32 {
        let Some(told) = told() else { return 0 };
        if note & WALKED != 0 {
            told.record.walked = note;
        } else {
            told.record.flags |= note as u8;
        }
        0
    }

    #[xdp]
    fn weir_watched(ctx: XdpContext) -> u32 {
        weir_arrived(ctx.ctx);
        let outcome = datapath::process_first(&mut Frame(&ctx), &Maps, &mut Notes::<false>);
        if outcome.verdict == Verdict::Arrival {
            // SAFETY: nothing here is to be dropped.
            unsafe { WATCH_NEXT.tail_call(&ctx, NEXT_ARRIVE) };
            // The array is emptied when the daemon goes; the edge's own is not.
            // SAFETY: as above.
            unsafe { NEXT.tail_call(&ctx, NEXT_ARRIVE) };
            let outcome = Outcome::pass(Reason::PassNotVip);
            return finish_early(&ctx, &outcome);
        }
        conclude(&outcome);
        finish(&ctx, &outcome)
    }

    /// In the place of the edge's `weir_arrive`.
    #[xdp]
    fn weir_watched_arrive(ctx: XdpContext) -> u32 {
        if let Some(outcome) = relay::arrive(&mut Frame(&ctx), &Maps) {
            conclude(&outcome);
            return finish(&ctx, &outcome);
        }
        // SAFETY: nothing here is to be dropped.
        unsafe { WATCH_NEXT.tail_call(&ctx, NEXT_RELAY) };
        // SAFETY: as above.
        unsafe { NEXT.tail_call(&ctx, NEXT_RELAY) };
        finish_early(&ctx, &Outcome::refuse(Reason::Inconsistent))
    }

    /// In the place of the edge's `weir_relay`.
    #[xdp]
    fn weir_watched_relay(ctx: XdpContext) -> u32 {
        weir_unwrapped(ctx.ctx);
        let outcome = datapath::process_relayed(&mut Frame(&ctx), &Maps, &mut Notes::<true>);
        finish(&ctx, &outcome)
    }

    /// Counts, tells and does what becomes of a frame for which the program to go on to is missing.
    #[inline(always)]
    fn finish_early(ctx: &XdpContext, outcome: &Outcome) -> u32 {
        conclude(outcome);
        verdict::count(&Maps, outcome, Frame(ctx).length());
        finish(ctx, outcome)
    }

    /// Does what becomes of a frame, and tells of it.
    #[inline(always)]
    fn finish(ctx: &XdpContext, outcome: &Outcome) -> u32 {
        let action = match outcome.verdict {
            Verdict::Pass | Verdict::Arrival => XDP_PASS,
            Verdict::Drop => XDP_DROP,
            Verdict::Tx => XDP_TX,
            Verdict::Redirect(ifindex) => {
                // Here and not with the rest: where there is none, there is no such number either, and the verifier knows.
                weir_redirected(ifindex);
                // SAFETY: a helper call without pointers; its value is the action to return.
                unsafe { bpf_redirect(ifindex, 0) as u32 }
            }
        };
        weir_left(ctx.ctx);
        action
    }

    #[inline(always)]
    fn conclude(outcome: &Outcome) {
        let [what, whither] = outcome.words();
        weir_concluded(what, whither);
    }

    /// Keeps what becomes of the packet.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_concluded(what: u64, whither: u64) -> u32 {
        if let Some(state) = state() {
            state.what = what;
            state.whither = whither;
        }
        0
    }

    /// Keeps the interface that the frame leaves by.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_redirected(ifindex: u32) -> u32 {
        if let Some(told) = told() {
            told.record.egress = ifindex;
        }
        0
    }

    /// Copies the first `length` bytes of the frame to `to`. Not more than `room` bytes, which must be there.
    #[inline(always)]
    fn copy(ctx: *mut xdp_md, to: *mut u8, length: u64, room: u64) -> Option<()> {
        // One register for check and use, whatever the optimiser knows.
        let length = black_box(length);
        if length == 0 || length > room {
            return None;
        }
        // SAFETY: the caller vouches for `room` bytes behind `to`, which outlive the call; the helper checks the frame.
        let result = unsafe { bpf_xdp_load_bytes(ctx, 0, to.cast(), length as u32) };
        (result == 0).then_some(())
    }

    /// Copies the beginning of a frame that came, if somebody wants to see it.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_arrived(ctx: *mut xdp_md) -> u32 {
        let (Some(state), Some(control)) = (state(), WATCH.get(0)) else { return 0 };
        state.length = 0;
        if control.until <= (Maps.now_ns() >> UNTIL_SHIFT) as u32 {
            return 0;
        }
        let drawn = Maps.random();
        if drawn > control.sample {
            return 0;
        }
        let Some(told) = told() else { return 0 };
        let length = Frame(&XdpContext::new(ctx)).length() as u64;
        let stride = (control.snap as u64).next_multiple_of(8);
        told.record.walked = 0;
        told.record.flags = 0;
        told.record.egress = 0;
        told.record.arrived_length = length as u32;
        told.record.arrived_captured = 0;
        told.record.stride = if stride <= FRAME_ROOM as u64 { stride as u32 } else { 0 };
        let captured = if length < control.snap as u64 { length } else { control.snap as u64 };
        if captured != 0 && copy(ctx, told.frames.as_mut_ptr(), captured, MAX_SNAP as u64).is_some() {
            told.record.arrived_captured = captured as u32;
        }
        let head = if length < HEAD as u64 { length } else { HEAD as u64 };
        if copy(ctx, state.head.as_mut_ptr(), head, HEAD as u64).is_none() {
            return 0;
        }
        forget_handed_over();
        // SAFETY: reads a clock; no pointer is involved.
        told.record.arrived_ns = unsafe { bpf_ktime_get_ns() };
        state.drawn = drawn;
        state.length = head;
        0
    }

    /// Reads addresses and ports anew, of a frame that came out of its tunnel.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_unwrapped(ctx: *mut xdp_md) -> u32 {
        let (Some(state), Some(told)) = (state(), told()) else { return 0 };
        if state.length == 0 {
            return 0;
        }
        let length = Frame(&XdpContext::new(ctx)).length() as u64;
        let head = if length < HEAD as u64 { length } else { HEAD as u64 };
        if copy(ctx, state.head.as_mut_ptr(), head, HEAD as u64).is_none() {
            return 0;
        }
        forget_handed_over();
        told.record.flags = SEEN_RELAYED;
        state.length = head;
        0
    }

    /// Tells what became of the frame, if somebody wants to see that.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_left(ctx: *mut xdp_md) -> u32 {
        let (Some(state), Some(told)) = (state(), told()) else { return 0 };
        if state.length == 0 {
            return 0;
        }
        let context = XdpContext::new(ctx);
        let frame = Frame(&context);
        let record = &mut told.record;
        record.source = [0; 4];
        record.destination = [0; 4];
        record.ports = 0;
        record.protocol = 0;
        record.shape = 0;
        match handed_over() {
            Some(words) if words[10] as u8 != 0 => watch::from_transport(record, words),
            _ => watch::sketch(record, &state.head, state.length as usize),
        }
        watch::conclude(record, state.what, state.whither, frame.ingress_ifindex());
        record.left_length = 0;
        record.left_captured = 0;
        record.watchers = watchers(state.drawn);
        if record.watchers == 0 {
            return 0;
        }
        let per_second = WATCH.get(0).map_or(0, |control| control.per_second);
        if !state.allowance.spend(Maps.now_ns(), per_second) {
            return weir_lost(record.watchers);
        }
        if record.egress != 0 {
            record.left_length = frame.length() as u32;
        }
        // SAFETY: reads the number of the CPU that the program runs on; no pointer is involved.
        record.cpu = unsafe { bpf_get_smp_processor_id() };
        weir_tell(ctx)
    }

    /// The watchers who want to see the packet, one bit each.
    #[inline(always)]
    fn watchers(drawn: u32) -> u32 {
        let Some(control) = WATCH.get(0) else { return 0 };
        let active = control.active;
        let mut watchers = 0;
        let mut i = 0;
        while i < MAX_WATCHERS as u32 {
            if active >> i & 1 != 0 {
                watchers |= weir_wants(i, drawn) << i;
            }
            i += 1;
        }
        watchers
    }

    /// 1 if a watcher wants to see the packet.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_wants(watcher: u32, drawn: u32) -> u32 {
        match (told(), WATCH_FILTERS.get(watcher)) {
            (Some(told), Some(filter)) => watch::matches(filter, &told.record, drawn) as u32,
            _ => 0,
        }
    }

    /// Puts this CPU's record into the ring buffer, the frame that leaves behind it.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_tell(ctx: *mut xdp_md) -> u32 {
        let Some(told) = told() else { return 0 };
        let stride = black_box(told.record.stride as u64);
        if stride > FRAME_ROOM as u64 {
            return 0;
        }
        let left = told.record.left_length as u64;
        let captured = if left < stride { left } else { stride };
        let captured = if captured < MAX_SNAP as u64 { captured } else { MAX_SNAP as u64 };
        if captured != 0 {
            // SAFETY: `stride` is less than 2,048, so `MAX_SNAP` bytes behind it lie inside `frames`.
            let to = unsafe { told.frames.as_mut_ptr().add(stride as usize) };
            if copy(ctx, to, captured, MAX_SNAP as u64).is_some() {
                told.record.left_captured = captured as u32;
            }
        }
        let length = black_box(size_of::<WatchRecord>() as u64 + 2 * stride);
        if length > size_of::<Told>() as u64 {
            return 0;
        }
        let watchers = told.record.watchers;
        let from = core::ptr::from_mut(told);
        // The daemon looks by itself, often enough.
        let flags = BPF_RB_NO_WAKEUP as u64;
        // SAFETY: `length` bytes are inside the element; the map is a ring buffer.
        let result = unsafe {
            bpf_ringbuf_output((&raw const WATCH_RING).cast_mut().cast(), from.cast(), length, flags)
        };
        if result == 0 { 0 } else { weir_lost(watchers) }
    }

    /// Counts a record that these watchers do not get.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn weir_lost(watchers: u32) -> u32 {
        // SAFETY: reads the number of the CPU that the program runs on; no pointer is involved.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let Some(lost) = WATCH_LOST.get_ptr_mut(cpu) else { return 0 };
        let mut i = 0;
        while i < MAX_WATCHERS {
            // SAFETY: a live element of the array, which belongs to this CPU; user space only reads.
            unsafe { (*lost).records[i] += (watchers >> i & 1) as u64 };
            i += 1;
        }
        0
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
