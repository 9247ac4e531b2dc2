//! Emptying a hash table of any key size, and overwriting elements of any size, which aya's typed maps cannot.

use nix::libc;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::from_mut,
};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;

/// The attributes of the commands on one element, as in `union bpf_attr` of `linux/bpf.h`.
#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    reserved: u32,
    key: u64,
    next_key: u64,
    flags: u64,
}

/// Removes all entries of a hash table.
pub(super) fn clear(map: BorrowedFd<'_>, key_size: usize) -> io::Result<()> {
    let mut key = vec![0_u8; key_size];
    // Without a key to come after: the first one.
    while call(BPF_MAP_GET_NEXT_KEY, map, 0, key.as_mut_ptr() as u64)? {
        call(BPF_MAP_DELETE_ELEM, map, key.as_mut_ptr() as u64, 0)?;
    }
    Ok(())
}

/// Writes an element. `key` and `value` must have the sizes of the map's.
pub(super) fn put(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    call(BPF_MAP_UPDATE_ELEM, map, key.as_ptr() as u64, value.as_ptr() as u64).map(|_| ())
}

/// Reads an element; zeroes where there is none. `key` and `value` must have the sizes of the map's.
pub(super) fn get(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    call(BPF_MAP_LOOKUP_ELEM, map, key.as_ptr() as u64, value.as_mut_ptr() as u64).map(|_| ())
}

/// `false` if there is no such element.
fn call(command: libc::c_long, map: BorrowedFd<'_>, key: u64, next_key: u64) -> io::Result<bool> {
    let map_fd = u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?;
    let mut attributes = ElementAttributes { map_fd, reserved: 0, key, next_key, flags: 0 };
    // SAFETY: `attributes` has the layout that all four commands expect (a value stands where the next key does) and outlives
    // the call; `key` and `next_key` are 0 or point to as many bytes as the map's keys and values have, which the callers'
    // buffers provide.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, from_mut(&mut attributes), size_of::<ElementAttributes>())
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(true),
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        error => Err(error),
    }
}
