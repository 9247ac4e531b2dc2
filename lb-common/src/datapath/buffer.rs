//! A frame in ordinary memory, with headroom as a driver leaves it.

use super::ports::{FibAnswer, FibLookup, Packet};
use crate::net::ethernet;
use alloc::vec::Vec;

/// Room before the frame that a driver leaves (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: usize = 256;

/// A frame that [`process`](super::process) can be tried on without a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    ingress_ifindex: u32,
    fib: Option<FibLookup>,
}

impl Buffer {
    /// A frame that arrived on an interface.
    #[must_use]
    pub fn new(frame: &[u8], ingress_ifindex: u32) -> Self {
        let mut bytes = alloc::vec![0; HEADROOM];
        bytes.extend_from_slice(frame);
        Self { bytes, start: HEADROOM, ingress_ifindex, fib: None }
    }

    /// The same, with what the kernel's routing and neighbour tables say about every destination.
    #[must_use]
    pub fn with_fib(self, fib: FibLookup) -> Self {
        Self { fib: Some(fib), ..self }
    }

    /// The same with less room before the frame, in bytes.
    #[must_use]
    pub fn with_headroom(mut self, room: usize) -> Self {
        let spare = self.start.saturating_sub(room);
        self.bytes.drain(..spare);
        self.start -= spare;
        self
    }

    /// The frame as it now is.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Packet for Buffer {
    fn length(&self) -> usize {
        self.frame().len()
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.frame().get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()> {
        let start = self.start.checked_add(at)?;
        self.bytes.get_mut(start..start.checked_add(N)?)?.copy_from_slice(bytes);
        Some(())
    }

    fn read_far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.read(at)
    }

    fn write_far<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()> {
        self.write(at, bytes)
    }

    fn push_front<const N: usize>(
        &mut self,
        by: usize,
        ethernet: &[u8; ethernet::LENGTH],
        header: &[u32; N],
    ) -> Option<()> {
        self.start = self.start.checked_sub(by)?;
        self.write(0, ethernet)?;
        for (i, word) in header.iter().enumerate() {
            self.write(ethernet::LENGTH + 4 * i, &word.to_ne_bytes())?;
        }
        Some(())
    }

    fn pop_front<const N: usize>(&mut self, by: usize, bytes: &[u8; N]) -> Option<()> {
        // As the kernel has it: an Ethernet header must remain.
        if self.length() < by + ethernet::LENGTH {
            return None;
        }
        self.start += by;
        self.write(0, bytes)
    }

    fn resize_front(&mut self, by: i32) -> Option<()> {
        let start = self.start.checked_add_signed(isize::try_from(by).ok()?.checked_neg()?)?;
        if start + ethernet::LENGTH > self.bytes.len() {
            return None;
        }
        self.start = start;
        Some(())
    }

    fn write_words<const N: usize>(&mut self, at: usize, words: &[u32; N]) -> Option<()> {
        if at.checked_add(size_of_val(words))? > self.length() {
            return None;
        }
        words.iter().enumerate().try_for_each(|(i, word)| self.write(at + 4 * i, &word.to_ne_bytes()))
    }

    fn write_words_far<const N: usize>(&mut self, at: usize, words: &[u32; N]) -> Option<()> {
        self.write_words(at, words)
    }

    fn truncate(&mut self, length: usize) -> Option<()> {
        // As the kernel has it.
        if length < ethernet::LENGTH || length > self.length() {
            return None;
        }
        self.bytes.truncate(self.start + length);
        Some(())
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    fn fib(&self, fill: impl FnOnce(&mut FibLookup), read: impl FnOnce(FibAnswer, &FibLookup)) {
        let mut lookup = FibLookup::default();
        fill(&mut lookup);
        let Some(fib) = self.fib else { return read(FibAnswer::Unknown, &lookup) };
        // Next hop 0 stands for the destination itself.
        let destination = if fib.destination == [0; 4] { lookup.destination } else { fib.destination };
        let answer = if lookup.length > fib.length { FibAnswer::TooBig } else { FibAnswer::Known };
        read(answer, &FibLookup { family: lookup.family, destination, ..fib });
    }

    fn fib_mtu(&self) -> u16 {
        self.fib.map_or(0, |fib| fib.length)
    }
}
