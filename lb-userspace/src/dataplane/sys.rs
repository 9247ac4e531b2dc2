//! The bpf(2) calls that aya lacks or hides.
//!
//! aya's `attach` falls back to netlink when the kernel refuses a link, which leaves a program that no pin holds; so links
//! are created here. Structures follow `union bpf_attr` and `struct bpf_link_info` of `linux/bpf.h`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
/// `enum bpf_attach_type`: BPF_XDP.
const BPF_XDP: u32 = 37;
/// `enum bpf_link_type`: BPF_LINK_TYPE_XDP.
const BPF_LINK_TYPE_XDP: u32 = 6;
/// `BPF_F_REPLACE`: the program that is there must be the expected one.
const BPF_F_REPLACE: u32 = 1 << 2;
/// `XDP_FLAGS_SKB_MODE` of `linux/if_link.h`.
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `BPF_FS_MAGIC` of `linux/magic.h`.
pub(super) const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A structure that is handed to bpf(2).
///
/// # Safety
/// `repr(C)`, without padding, and of the layout that the command it is used with expects.
unsafe trait Attributes {}

#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}
// SAFETY: the fields `pathname`, `bpf_fd`, `file_flags` of the OBJ_* commands; 16 bytes, all in fields.
unsafe impl Attributes for PinAttributes {}

#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}
// SAFETY: the structure `info` of OBJ_GET_INFO_BY_FD; 16 bytes, all in fields.
unsafe impl Attributes for InfoAttributes {}

#[repr(C)]
struct LinkAttributes {
    fd: u32,
    target: u32,
    third: u32,
    fourth: u32,
}
// SAFETY: LINK_CREATE's (prog_fd, target_ifindex, attach_type, flags), LINK_UPDATE's (link_fd, new_prog_fd, flags,
// old_prog_fd) and, with zeroes behind it, LINK_DETACH's (link_fd); 16 bytes, all in fields.
unsafe impl Attributes for LinkAttributes {}

#[repr(C)]
struct ElementAttributes {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: the structure of the MAP_*_ELEM commands and of MAP_GET_NEXT_KEY, whose implicit padding behind the descriptor is a
// field here; 32 bytes, all in fields.
unsafe impl Attributes for ElementAttributes {}

#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}
// SAFETY: the structure `batch`; 56 bytes, all in fields.
unsafe impl Attributes for BatchAttributes {}

/// The beginning of `struct bpf_link_info`.
#[repr(C, align(8))]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    reserved: u32,
    /// Of the union: `xdp.ifindex`.
    ifindex: u32,
    rest: [u32; 11],
}

/// What the kernel says of an XDP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Id of the program that it runs.
    pub(super) program_id: u32,
    /// The interface, or 0 when that is gone.
    pub(super) ifindex: u32,
}

fn bpf<A: Attributes>(command: libc::c_long, attributes: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the pointer is to `size_of::<A>()` initialised bytes without padding that live through the call, and the
    // trait's contract says that they have the command's layout. Pointers inside them are to memory of the callers'
    // that lives through the call as well.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the commands that this is called for return a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Pins an object.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(BPF_OBJ_PIN, &mut PinAttributes { path: path.as_ptr() as u64, fd: number(fd), flags: 0 }).map(drop)
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    owned(bpf(BPF_OBJ_GET, &mut PinAttributes { path: path.as_ptr() as u64, fd: 0, flags: 0 })?)
}

/// Opens a pinned program; an error when what is pinned there is something else.
///
/// Only the descriptor's name in /proc tells: asked for its information, a map answers with a map's, which reads as a
/// program's.
pub(super) fn open_program(path: &Path) -> io::Result<OwnedFd> {
    let fd = open_pin(path)?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    if name == Path::new("anon_inode:bpf-prog") {
        return Ok(fd);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no BPF program"))
}

/// Attaches an XDP program to an interface. `flags` is one of `XDP_FLAGS_*_MODE`.
pub(super) fn create_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes =
        LinkAttributes { fd: number(program), target: ifindex, third: BPF_XDP, fourth: flags };
    owned(bpf(BPF_LINK_CREATE, &mut attributes)?)
}

/// Replaces a link's program atomically.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkAttributes { fd: number(link), target: number(program), third: 0, fourth: 0 };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

/// Replaces a link's program atomically, if it is the one that is expected; an error of kind `PermissionDenied` if it is another.
pub(super) fn exchange_link(
    link: BorrowedFd<'_>,
    expected: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut attributes = LinkAttributes {
        fd: number(link),
        target: number(program),
        third: BPF_F_REPLACE,
        fourth: number(expected),
    };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

/// Detaches a link from its interface, whoever else holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkAttributes { fd: number(link), target: 0, third: 0, fourth: 0 }).map(drop)
}

/// What a link runs, and where; `EINVAL` when the descriptor is not of an XDP link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let length = size_of::<RawLinkInfo>() as u32;
    let mut attributes =
        InfoAttributes { fd: number(link), length, info: std::ptr::from_mut(&mut info) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    if info.kind != BPF_LINK_TYPE_XDP {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(LinkInfo { program_id: info.program_id, ifindex: info.ifindex })
}

/// Writes an element of a map whose keys have `K` and whose values have `V` bytes. `only_new` leaves one that is there: an
/// error of kind `AlreadyExists` then.
pub(super) fn insert<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
    key: &[u8; K],
    value: &[u8; V],
    only_new: bool,
) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map: number(map),
        reserved: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: u64::from(only_new),
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Removes an element of a map whose keys have `K` bytes; an error of kind `NotFound` when there is none.
pub(super) fn remove<const K: usize>(map: BorrowedFd<'_>, key: &[u8; K]) -> io::Result<()> {
    let mut attributes =
        ElementAttributes { map: number(map), reserved: 0, key: key.as_ptr() as u64, value: 0, flags: 0 };
    bpf(BPF_MAP_DELETE_ELEM, &mut attributes).map(drop)
}

/// The key behind `key`, or the first one; `None` when there is none.
pub(super) fn next_key<const K: usize>(
    map: BorrowedFd<'_>,
    key: Option<&[u8; K]>,
) -> io::Result<Option<[u8; K]>> {
    let mut next = [0; K];
    let mut attributes = ElementAttributes {
        map: number(map),
        reserved: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_GET_NEXT_KEY, &mut attributes) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a batch of lookups in a hash goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch(u32);

impl Batch {
    /// As a number that may be kept and brought back. One that no batch ever began with finds some other place, or the end.
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    /// See [`number`](Self::number).
    pub(super) const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// Copies a batch of elements of a hash; the first without `from`. Returns how many, and where the next batch begins, if there
/// is one. An error `ENOSPC` when the elements of one bucket do not fit; `EINVAL` before kernel 5.6.
pub(super) fn look_up_batch<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
    from: Option<Batch>,
    keys: &mut [[u8; K]],
    values: &mut [[u8; V]],
) -> io::Result<(usize, Option<Batch>)> {
    let begin = from.map(|Batch(position)| position);
    let mut end = 0_u32;
    let mut attributes = BatchAttributes {
        in_batch: begin.as_ref().map_or(0, |begin| std::ptr::from_ref(begin) as u64),
        out_batch: std::ptr::from_mut(&mut end) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: number(map),
        element_flags: 0,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
        Ok(_) => Ok((attributes.count as usize, Some(Batch(end)))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attributes.count as usize, None)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_linux_bpf_h() {
        assert_eq!(size_of::<PinAttributes>(), 16);
        assert_eq!(size_of::<InfoAttributes>(), 16);
        assert_eq!(size_of::<LinkAttributes>(), 16);
        assert_eq!(size_of::<ElementAttributes>(), 32);
        assert_eq!(size_of::<BatchAttributes>(), 56);
        assert_eq!(std::mem::offset_of!(RawLinkInfo, ifindex), 16);
    }
}
