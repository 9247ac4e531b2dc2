//! A frame in the driver's memory. The only pointer arithmetic on packets.

use crate::maps::{self, Maps, hand_over, take_over};
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, xdp_md},
    helpers::generated::{bpf_fib_lookup, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use core::{hint::black_box, mem::MaybeUninit};
use lb_common::{
    abi::reason::Reason,
    datapath::{
        admit, fragment,
        ports::{FibAnswer, FibLookup, Packet, Tables},
        too_big::{self, TooBig},
        unusual::{self, Unusual},
        verdict::Outcome,
    },
    net::ethernet,
};

/// The frame that an XDP program was called for.
pub struct Frame<'a>(pub &'a XdpContext);

/// Largest variable offset that is looked at. No frame is as long, and the verifier takes none whose end might lie beyond 64 Ki.
const FAR_END: usize = 0x3fff;

/// Bytes in memory that words can be read from.
#[repr(C, align(8))]
struct Words<const N: usize>(MaybeUninit<[u8; N]>);

/// Copies `N` bytes in the widest words that fit, where a byte-aligned `memcpy` would become single-byte accesses.
///
/// # Safety
/// `N` bytes can be read from `from` and written to `to`. Neither needs to be aligned: BPF's loads and stores are a byte
/// sequence away from the hardware's, and the verifier refuses the program on machines that could not do them unaligned.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const u8, to: *mut u8) {
    let mut at = 0;
    macro_rules! run {
        ($($word:ty),*) => {$(
            while at + size_of::<$word>() <= N {
                // SAFETY: `at + size_of::<$word>() <= N`, within what the caller vouches for on both sides.
                unsafe { *to.add(at).cast::<$word>() = *from.add(at).cast::<$word>() };
                at += size_of::<$word>();
            }
        )*};
    }
    run!(u32, u16, u8);
}

impl Frame<'_> {
    /// Reads `N` bytes from address `start` if they lie before the frame's end.
    #[inline(always)]
    fn load<const N: usize>(&self, start: usize) -> Option<[u8; N]> {
        if start + N > self.0.data_end() {
            return None;
        }
        let mut words = Words::<N>(MaybeUninit::uninit());
        // SAFETY: `start` is the frame's first byte or behind it, and the comparison above shows that `N` bytes from there
        // lie inside the frame (the verifier checks the same). `words` has room for `N` bytes, all of which are written
        // before they are read.
        unsafe {
            copy::<N>(start as *const u8, words.0.as_mut_ptr().cast());
            Some(words.0.assume_init())
        }
    }

    /// Writes `N` bytes to address `start` if they lie before the frame's end.
    #[inline(always)]
    fn store<const N: usize>(&mut self, start: usize, bytes: &[u8; N]) -> Option<()> {
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: as in `load`, in the other direction; a frame and the stack do not overlap.
        unsafe { copy::<N>(bytes.as_ptr(), start as *mut u8) };
        Some(())
    }

    /// [`store`](Self::store) for words, which stay in registers.
    #[inline(always)]
    fn store_words<const N: usize>(&mut self, start: usize, words: &[u32; N]) -> Option<()> {
        if start + size_of::<[u32; N]>() > self.0.data_end() {
            return None;
        }
        // SAFETY: the comparison above shows that all words lie inside the frame. Alignment: see `copy`.
        unsafe {
            for (i, word) in words.iter().enumerate() {
                *(start as *mut u32).add(i) = *word;
            }
        }
        Some(())
    }

    /// The address at a variable offset. The optimiser must not see where it comes from: it would check one register
    /// against the end of the frame and then access through another, which the verifier cannot follow.
    #[inline(always)]
    fn far(&self, at: usize) -> Option<usize> {
        let at = black_box(at);
        if at > FAR_END {
            return None;
        }
        Some(black_box(self.0.data() + at))
    }
}

/// [`unusual::sort_out`] as a global function, which the verifier checks once: a word of [`Unusual::word`], and the packet handed
/// over if it belongs to a flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_sort_out(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    handed_over(unusual::begin(&mut Frame(&ctx), &Maps))
}

/// [`fragment::follow`] as a global function, for the packet that was handed over last. Called behind [`weir_sort_out`] and not
/// in it: the stack is short.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_follow() -> u64 {
    match take_over() {
        Some(transport) => handed_over(fragment::follow(&Maps, &transport)),
        None => NOT_HANDED_OVER.word(),
    }
}

#[inline(always)]
fn handed_over(sorted: Unusual) -> u64 {
    if let Unusual::Transport(transport) = &sorted
        && hand_over(transport).is_none()
    {
        return NOT_HANDED_OVER.word();
    }
    sorted.word()
}

/// [`admit::is_frame_blocked`] as a global function: 1 if it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_blocked(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    admit::is_frame_blocked(&Frame(&ctx), &Maps) as u32
}

/// [`too_big::answer_ipv4`] as a global function: the number of a reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_too_big_v4(ctx: *mut xdp_md, request: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    too_big::answer_ipv4(&mut Frame(&ctx), &Maps, &TooBig::from_word(request)) as u32
}

/// [`too_big::answer_ipv6`] as a global function: the number of a reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn weir_too_big_v6(ctx: *mut xdp_md, request: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    too_big::answer_ipv6(&mut Frame(&ctx), &Maps, &TooBig::from_word(request)) as u32
}

/// What becomes of a packet that could not be handed over, which does not happen: the map has its element.
const NOT_HANDED_OVER: Unusual = Unusual::Done(Outcome::refuse(Reason::Inconsistent));

impl Packet for Frame<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.load(self.0.data() + at)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()> {
        self.store(self.0.data() + at, bytes)
    }

    #[inline(always)]
    fn read_far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.load(self.far(at)?)
    }

    #[inline(always)]
    fn write_far<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()> {
        self.store(self.far(at)?, bytes)
    }

    #[inline(always)]
    fn push_front<const N: usize>(
        &mut self,
        by: usize,
        ethernet: &[u8; ethernet::LENGTH],
        header: &[u32; N],
    ) -> Option<()> {
        // SAFETY: the context is the one that the kernel called the program with; the helper checks the room.
        if unsafe { bpf_xdp_adjust_head(self.0.ctx, -(by as i32)) } != 0 {
            return None;
        }
        let start = self.0.data();
        if start + ethernet::LENGTH + size_of::<[u32; N]>() > self.0.data_end() {
            return None;
        }
        let words = (start + ethernet::LENGTH) as *mut u32;
        // SAFETY: the comparison above shows that both headers lie inside the frame. Alignment: see `copy`.
        unsafe {
            copy::<{ ethernet::LENGTH }>(ethernet.as_ptr(), start as *mut u8);
            for (i, word) in header.iter().enumerate() {
                *words.add(i) = *word;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn pop_front<const N: usize>(&mut self, by: usize, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: as in `push_front`.
        if unsafe { bpf_xdp_adjust_head(self.0.ctx, by as i32) } != 0 {
            return None;
        }
        self.write(0, bytes)
    }

    #[inline(always)]
    fn resize_front(&mut self, by: i32) -> Option<()> {
        // SAFETY: as in `push_front`.
        if unsafe { bpf_xdp_adjust_head(self.0.ctx, -by) } == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn write_words<const N: usize>(&mut self, at: usize, words: &[u32; N]) -> Option<()> {
        self.store_words(self.0.data() + at, words)
    }

    #[inline(always)]
    fn write_words_far<const N: usize>(&mut self, at: usize, words: &[u32; N]) -> Option<()> {
        self.store_words(self.far(at)?, words)
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> Option<()> {
        // The optimiser must not narrow the subtraction of pointers to 32 bits.
        let by = (length as i64 - black_box(self.length() as i64)) as i32;
        // SAFETY: as in `push_front`.
        (unsafe { bpf_xdp_adjust_tail(self.0.ctx, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn sort_out<T: Tables>(&mut self, _: &T) -> Unusual {
        let mut word = weir_sort_out(self.0.ctx);
        if word == Unusual::LATER {
            word = weir_follow();
        }
        match Unusual::done(word) {
            Some(outcome) => Unusual::Done(outcome),
            None => take_over().map_or(NOT_HANDED_OVER, Unusual::Transport),
        }
    }

    #[inline(always)]
    fn is_blocked<T: Tables>(&self, _: &T) -> bool {
        weir_blocked(self.0.ctx) != 0
    }

    #[inline(always)]
    fn answer_too_big<T: Tables>(&mut self, _: &T, request: &TooBig) -> Reason {
        Reason::from_number(if request.is_ipv6 {
            weir_too_big_v6(self.0.ctx, request.word())
        } else {
            weir_too_big_v4(self.0.ctx, request.word())
        })
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn fib(&self, fill: impl FnOnce(&mut FibLookup), read: impl FnOnce(FibAnswer, &FibLookup)) {
        // Not on the stack, of which the functions on the way here leave too little.
        let Some(scratch) = maps::scratch() else { return };
        fill(&mut scratch.fib);
        let size = size_of::<FibLookup>() as i32;
        let pointer = core::ptr::from_mut(&mut scratch.fib);
        // SAFETY: the context is the one that the kernel called the program with; the helper reads and writes `size` bytes, all
        // of which are integers.
        let result = unsafe { bpf_fib_lookup(self.0.ctx.cast(), pointer.cast(), size, 0) };
        let answer = if result == BPF_FIB_LKUP_RET_SUCCESS as i64 {
            FibAnswer::Known
        } else if result == BPF_FIB_LKUP_RET_FRAG_NEEDED as i64 {
            FibAnswer::TooBig
        } else {
            FibAnswer::Unknown
        };
        read(answer, &scratch.fib);
    }

    #[inline(always)]
    fn fib_mtu(&self) -> u16 {
        match maps::scratch() {
            Some(scratch) => scratch.fib.length,
            None => 0,
        }
    }
}
