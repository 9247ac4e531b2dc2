//! What the kernel says of this host that has no file: for `weir doctor`.

use std::{ffi::CStr, io, mem, os::fd::AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GDRVINFO` and `ETHTOOL_GFLAGS` of linux/ethtool.h.
const GET_DRIVER: u32 = 0x3;
const GET_FLAGS: u32 = 0x25;
/// `ETH_FLAG_LRO` and `ETH_FLAG_RXVLAN`.
const FLAG_LRO: u32 = 1 << 15;
const FLAG_RX_VLAN: u32 = 1 << 8;
/// `STA_UNSYNC` of linux/timex.h.
const UNSYNCHRONISED: libc::c_int = 0x40;

/// What a driver says of its interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Driver {
    /// Its name.
    pub name: String,
    /// Whether it joins packets of a flow before anybody sees them (LRO).
    pub joins: bool,
    /// Whether it takes VLAN tags off before XDP sees them.
    pub takes_tags: bool,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [libc::c_char; 32],
    rest: [u8; 160],
}

/// `struct ethtool_value`.
#[repr(C)]
struct FlagsInfo {
    command: u32,
    data: u32,
}

/// Asks the driver of an interface, in the calling thread's network namespace.
///
/// # Errors
/// What the kernel says.
pub fn driver(interface: &str) -> io::Result<Driver> {
    let mut info = DriverInfo { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
    ethtool(interface, &mut info)?;
    info.driver[31] = 0;
    // SAFETY: the array ends with a zero.
    let name = unsafe { CStr::from_ptr(info.driver.as_ptr()) }.to_string_lossy().into_owned();
    let mut flags = FlagsInfo { command: GET_FLAGS, data: 0 };
    // A driver that has none of these is asked in vain.
    let flags = if ethtool(interface, &mut flags).is_ok() { flags.data } else { 0 };
    Ok(Driver { name, joins: flags & FLAG_LRO != 0, takes_tags: flags & FLAG_RX_VLAN != 0 })
}

/// `T` is the structure of the command in its first field.
fn ethtool<T>(interface: &str, data: &mut T) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeroes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(data).cast();
    // SAFETY: the request and what it points to are live, and of the size that the command in it has.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether something keeps the clock in step (adjtimex(2)).
///
/// # Errors
/// What the kernel says.
pub fn is_clock_synchronised() -> io::Result<bool> {
    // SAFETY: all zeroes are a valid `timex`: nothing is to be changed.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    if unsafe { libc::adjtimex(&raw mut state) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state.status & UNSYNCHRONISED == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(driver("weir-none").is_err());
        assert!(driver("a-name-that-no-interface-has").is_err());
        is_clock_synchronised().unwrap();
    }
}
