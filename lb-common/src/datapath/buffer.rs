//! A frame in ordinary memory, with headroom as a driver leaves it.

use super::ports::Packet;
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
}

impl Buffer {
    /// A frame that arrived on an interface.
    #[must_use]
    pub fn new(frame: &[u8], ingress_ifindex: u32) -> Self {
        let mut bytes = alloc::vec![0; HEADROOM];
        bytes.extend_from_slice(frame);
        Self { bytes, start: HEADROOM, ingress_ifindex }
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
}
