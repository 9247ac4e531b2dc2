//! The flow tables seen from the user side: walked whole, copied, thinned out.

use std::io;
use std::os::fd::BorrowedFd;

use lb_common::abi::flow::{FlowEntry, FlowKey};
use lb_common::abi::pod::Pod;

use super::sys;
use super::upkeep::Page;

const KEY: usize = size_of::<FlowKey>();
const VALUE: usize = size_of::<FlowEntry>();
/// Elements that one call copies. A bucket with more, which no hash has, ends the walk with an error.
const BATCH: usize = 4096;
/// Entries of a page at most. More than any bucket has.
const PAGE: usize = 1024;

/// Calls `each` for every entry of a flow table. Entries that come or go meanwhile may be missed, all others come once or, where
/// the kernel has no batches, at least once.
///
/// # Errors
/// What the kernel says.
pub(super) fn walk(map: BorrowedFd<'_>, mut each: impl FnMut(&FlowKey, &FlowEntry)) -> io::Result<()> {
    let mut keys = vec![[0; KEY]; BATCH];
    let mut values = vec![[0; VALUE]; BATCH];
    let mut from = None;
    loop {
        let (count, next) = match sys::look_up_batch(map, from, &mut keys, &mut values) {
            Err(error) if from.is_none() && error.raw_os_error() == Some(libc::EINVAL) => {
                return walk_singly(map, each);
            }
            other => other?,
        };
        for (key, value) in keys.iter().zip(&values).take(count) {
            if let (Some(key), Some(value)) = (FlowKey::from_bytes(key), FlowEntry::from_bytes(value)) {
                each(&key, &value);
            }
        }
        match next {
            Some(_) => from = next,
            None => return Ok(()),
        }
    }
}

/// A page of a flow table: [`PAGE`] entries or some less; the first one without `from`. Entries that come or go between two pages may be
/// missed, all others are in one of them.
///
/// # Errors
/// What the kernel says.
pub(super) fn page(map: BorrowedFd<'_>, from: Option<u32>) -> io::Result<Page> {
    let (mut keys, mut values) = (vec![[0; KEY]; PAGE], vec![[0; VALUE]; PAGE]);
    let (count, next) = sys::look_up_batch(map, from.map(sys::Batch::from_number), &mut keys, &mut values)?;
    let pairs = keys.iter().zip(&values).take(count);
    let read = |(key, value): (&[u8; KEY], &[u8; VALUE])| {
        Some((FlowKey::from_bytes(key)?, FlowEntry::from_bytes(value)?))
    };
    Ok((pairs.filter_map(read).collect(), next.map(sys::Batch::number)))
}

/// Before kernel 5.6: key by key. A key that goes while it is looked at sends the kernel back to the first one, so the walk is
/// bounded by the table's size.
fn walk_singly(map: BorrowedFd<'_>, mut each: impl FnMut(&FlowKey, &FlowEntry)) -> io::Result<()> {
    let info = aya::maps::MapData::from_fd(map.try_clone_to_owned()?).map_err(io::Error::other)?;
    let table = aya::maps::HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(aya::maps::Map::LruHashMap(info))
        .map_err(io::Error::other)?;
    let mut last: Option<[u8; KEY]> = None;
    let most = sys_entries(map)?;
    for _ in 0..most {
        let Some(key) = sys::next_key(map, last.as_ref())? else { return Ok(()) };
        if let (Ok(value), Some(parsed)) = (table.get(&key, 0), FlowKey::from_bytes(&key))
            && let Some(value) = FlowEntry::from_bytes(&value)
        {
            each(&parsed, &value);
        }
        last = Some(key);
    }
    Ok(())
}

fn sys_entries(map: BorrowedFd<'_>) -> io::Result<u32> {
    let data = aya::maps::MapData::from_fd(map.try_clone_to_owned()?).map_err(io::Error::other)?;
    Ok(data.info().map_err(io::Error::other)?.max_entries())
}

/// Copies entries that `to` does not have. Returns how many.
///
/// # Errors
/// What the kernel says.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<u64> {
    let mut copied = 0;
    let mut failed = None;
    walk(from, |key, entry| match insert_new(to, key, entry) {
        Ok(()) => copied += 1,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => failed = Some(error),
    })?;
    failed.map_or(Ok(copied), Err)
}

fn insert_new(map: BorrowedFd<'_>, key: &FlowKey, entry: &FlowEntry) -> io::Result<()> {
    let (key, value) = (bytes::<KEY>(key.as_bytes()), bytes::<VALUE>(entry.as_bytes()));
    sys::insert(map, &key, &value, true)
}

/// Removes an entry; one that is gone already is as good.
///
/// # Errors
/// What the kernel says.
pub(super) fn remove(map: BorrowedFd<'_>, key: &FlowKey) -> io::Result<()> {
    match sys::remove(map, &bytes::<KEY>(key.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn bytes<const N: usize>(slice: &[u8]) -> [u8; N] {
    slice.try_into().expect("the length is that of the type")
}
