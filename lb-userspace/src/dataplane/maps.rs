//! Memory-mapped BPF arrays.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use lb_common::abi::pod::Pod;
use memmap2::{MmapOptions, MmapRaw};

/// The kernel rounds the size of an array's elements up to this.
pub const ELEMENT_ALIGN: usize = 8;

/// A `BPF_F_MMAPABLE` array, mapped shared, read and written element by element.
///
/// The kernel and other processes access the same memory at any time. So it is only ever touched by atomic loads and stores
/// of aligned words, never through references; an element of several words may be read torn between words.
#[derive(Debug)]
pub struct MappedArray<T: Pod> {
    memory: MmapRaw,
    stride: usize,
    length: usize,
    element: PhantomData<T>,
}

impl<T: Pod> MappedArray<T> {
    /// Maps an array of `length` elements of type `T`.
    ///
    /// # Errors
    /// What mmap(2) says: `EPERM` or `EINVAL` when the map is no memory-mappable array of at least that size.
    pub fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::with_stride(map, length, size_of::<T>().next_multiple_of(ELEMENT_ALIGN))
    }

    /// Maps an array whose elements are themselves arrays of `T` without gaps between them: `length` counts `T`s.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn flat(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::with_stride(map, length, size_of::<T>())
    }

    fn with_stride(map: BorrowedFd<'_>, length: usize, stride: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>() >= 2 && size_of::<T>() <= MAX_ELEMENT && size_of::<T>().is_multiple_of(2)) };
        assert!(stride.is_multiple_of(word_size::<T>()), "elements consist of whole words");
        let bytes = (length * stride).max(1);
        let memory = MmapOptions::new().len(bytes).map_raw(map.as_raw_fd())?;
        Ok(Self { memory, stride, length, element: PhantomData })
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Pointer to the word of `bytes` bytes at `offset` of element `index`; `None` when that is not a word of an element.
    fn at(&self, index: usize, offset: usize, bytes: usize) -> Option<*mut u8> {
        if index >= self.length
            || offset + bytes > size_of::<T>()
            || bytes != word_size::<T>()
            || !offset.is_multiple_of(bytes)
        {
            return None;
        }
        let position = index * self.stride + offset;
        debug_assert!(position + bytes <= self.memory.len());
        // SAFETY: `index < length` and `offset + bytes <= size_of::<T>() <= stride`, so the result and `bytes` behind it
        // lie inside the `length * stride` bytes that are mapped for as long as `self` lives.
        Some(unsafe { self.memory.as_mut_ptr().add(position) })
    }

    fn word16(&self, index: usize, offset: usize) -> Option<&AtomicU16> {
        let pointer = self.at(index, offset, 2)?;
        // SAFETY: inside the mapping, which outlives the result; aligned, as the mapping starts a page, stride and offset
        // are multiples of the word; and this process touches this memory by atomic operations only, of one word size for
        // all elements of a map.
        Some(unsafe { AtomicU16::from_ptr(pointer.cast()) })
    }

    fn word32(&self, index: usize, offset: usize) -> Option<&AtomicU32> {
        let pointer = self.at(index, offset, 4)?;
        // SAFETY: as in `word16`.
        Some(unsafe { AtomicU32::from_ptr(pointer.cast()) })
    }

    fn word64(&self, index: usize, offset: usize) -> Option<&AtomicU64> {
        let pointer = self.at(index, offset, 8)?;
        // SAFETY: as in `word16`.
        Some(unsafe { AtomicU64::from_ptr(pointer.cast()) })
    }

    /// A copy of an element; `None` when there is none.
    #[must_use]
    pub fn read(&self, index: usize) -> Option<T> {
        let size = word_size::<T>();
        let mut bytes = [0; MAX_ELEMENT];
        let bytes = &mut bytes[..size_of::<T>()];
        for (word, chunk) in bytes.chunks_exact_mut(size).enumerate() {
            let offset = word * size;
            match size {
                8 => {
                    chunk.copy_from_slice(&self.word64(index, offset)?.load(Ordering::Relaxed).to_ne_bytes());
                }
                4 => {
                    chunk.copy_from_slice(&self.word32(index, offset)?.load(Ordering::Relaxed).to_ne_bytes());
                }
                _ => {
                    chunk.copy_from_slice(&self.word16(index, offset)?.load(Ordering::Relaxed).to_ne_bytes());
                }
            }
        }
        T::from_bytes(bytes)
    }

    /// Overwrites an element word by word; `None`, with nothing written, when there is none.
    pub fn write(&self, index: usize, value: &T) -> Option<()> {
        let size = word_size::<T>();
        for (word, chunk) in value.as_bytes().chunks_exact(size).enumerate() {
            let offset = word * size;
            match size {
                8 => self
                    .word64(index, offset)?
                    .store(u64::from_ne_bytes(chunk.try_into().ok()?), Ordering::Relaxed),
                4 => self
                    .word32(index, offset)?
                    .store(u32::from_ne_bytes(chunk.try_into().ok()?), Ordering::Relaxed),
                _ => self
                    .word16(index, offset)?
                    .store(u16::from_ne_bytes(chunk.try_into().ok()?), Ordering::Relaxed),
            }
        }
        Some(())
    }

    /// Stores one aligned 32-bit word of an element by one instruction, after everything that was written before; `None`
    /// when there is none, or when elements consist of other words.
    pub fn store_u32(&self, index: usize, offset: usize, value: u32) -> Option<()> {
        self.word32(index, offset)?.store(value, Ordering::Release);
        Some(())
    }

    /// Clears bits of one aligned 32-bit word, whatever the rest of it becomes meanwhile; `None` as for
    /// [`store_u32`](Self::store_u32).
    pub fn clear_bits(&self, index: usize, offset: usize, bits: u32) -> Option<()> {
        self.word32(index, offset)?.fetch_and(!bits, Ordering::AcqRel);
        Some(())
    }

    /// Replaces a 16-bit element by what `change` makes of it, unless that is nothing or the element changes meanwhile: then
    /// `change` is asked again. `None` when there is no such element, or when it consists of other words.
    pub fn update_u16(&self, index: usize, change: impl Fn(u16) -> Option<u16>) -> Option<()> {
        // What `change` refuses stays as it is, which is no error.
        let _ = self.word16(index, 0)?.fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
        Some(())
    }

    /// Changes one aligned 32-bit word of an element, atomically towards other writers; `None` as for [`store_u32`](Self::store_u32).
    pub fn update_u32(&self, index: usize, offset: usize, mut change: impl FnMut(u32) -> u32) -> Option<()> {
        let word = self.word32(index, offset)?;
        let update = word.fetch_update(Ordering::Release, Ordering::Relaxed, |value| Some(change(value)));
        update.ok().map(drop)
    }

    /// Loads one aligned 32-bit word of an element; `None` as for [`store_u32`](Self::store_u32).
    #[must_use]
    pub fn load_u32(&self, index: usize, offset: usize) -> Option<u32> {
        Some(self.word32(index, offset)?.load(Ordering::Acquire))
    }

    /// Replaces one aligned 64-bit word of an element by another, if it is still what it was; `None` when there is no such word, or when
    /// elements consist of others.
    pub fn replace_u64(&self, index: usize, offset: usize, (old, new): (u64, u64)) -> Option<bool> {
        let word = self.word64(index, offset)?;
        Some(word.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_ok())
    }

    /// Writes elements from 0 on; `None` when there are more values than elements.
    pub fn fill(&self, values: &[T]) -> Option<()> {
        if values.len() > self.length {
            return None;
        }
        values.iter().enumerate().try_for_each(|(index, value)| self.write(index, value))
    }

    /// Copies of the first `count` elements, or of all if there are fewer.
    #[must_use]
    pub fn read_all(&self, count: usize) -> Vec<T> {
        (0..count.min(self.length)).filter_map(|index| self.read(index)).collect()
    }
}

/// Largest element that is read and written whole, in bytes.
const MAX_ELEMENT: usize = 256;

/// Size of the words by which elements of type `T` are accessed, always the same ones for one type: 64 bits for what consists
/// of such (counters, which must not be read torn), 16 for table slots, 32 for all else.
const fn word_size<T>() -> usize {
    match align_of::<T>() {
        8 => 8,
        2 => 2,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{counter::Counter, plan::PoolEntry};
    use std::os::fd::AsFd;

    /// A file behaves as a map does: shared memory behind a descriptor.
    fn memory(bytes: u64) -> std::fs::File {
        let name = c"weir-maps-test";
        let fd = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::empty()).unwrap();
        let file = std::fs::File::from(fd);
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn elements_are_read_as_written_and_nothing_outside() {
        let file = memory(4096);
        let array = MappedArray::<PoolEntry>::new(file.as_fd(), 3).unwrap();
        let value = PoolEntry { table_base: 1, table_slots: 2, admission: 3, flags: 4, pool: 5 };
        array.write(2, &value).unwrap();
        assert_eq!(array.read(2), Some(value));
        assert_eq!(array.read(1), Some(PoolEntry::zeroed()));
        assert_eq!(array.read(3), None);
        assert_eq!(array.write(3, &value), None);
        assert_eq!(array.fill(&[value; 4]), None);
    }

    #[test]
    fn two_mappings_of_one_map_see_each_other() {
        let file = memory(4096);
        let writer = MappedArray::<u16>::flat(file.as_fd(), 2048).unwrap();
        let reader = MappedArray::<u16>::flat(file.as_fd(), 2048).unwrap();
        writer.write(2047, &0xbeef).unwrap();
        assert_eq!(reader.read(2047), Some(0xbeef));
    }

    #[test]
    fn a_word_store_changes_one_word_and_refuses_what_is_not_inside() {
        let file = memory(4096);
        let array = MappedArray::<PoolEntry>::new(file.as_fd(), 2).unwrap();
        array.store_u32(1, 4, 7).unwrap();
        assert_eq!(array.read(1), Some(PoolEntry { table_slots: 7, ..PoolEntry::zeroed() }));
        assert_eq!(array.load_u32(1, 4), Some(7));
        assert_eq!(array.store_u32(1, 6, 7), None, "not aligned");
        assert_eq!(array.store_u32(1, 16, 7), None, "behind the element");
        assert_eq!(array.store_u32(2, 0, 7), None, "behind the array");
        let counters = MappedArray::<Counter>::new(file.as_fd(), 2).unwrap();
        assert_eq!(counters.store_u32(1, 0, 7), None, "a counter consists of 64-bit words");
    }
}
