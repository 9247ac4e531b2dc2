//! Tells the service manager, if there is one, how things stand (`sd_notify(3)`).

use std::time::Duration;

use super::clock::monotonic_ns;

/// How long a message waits for room. A service manager that does not read must not hold the daemon up.
const PATIENCE: Duration = Duration::from_millis(500);

/// Everything is in place.
pub(super) fn ready() {
    send("READY=1");
}

/// A reload begins; [`ready`] ends it. For `Type=notify-reload` systemd wants to know when it began.
pub(super) fn reloading() {
    send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1_000));
}

/// The daemon is about to end.
pub(super) fn stopping() {
    send("STOPPING=1");
}

/// The daemon is alive; see [`watchdog_period`].
pub(super) fn alive() {
    // Where there is no room there are unread ones.
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let _ = notify(&path, "WATCHDOG=1", None);
}

/// Within which time the service manager wants to hear [`alive`], if it does (`sd_watchdog_enabled(3)`).
pub(super) fn watchdog_period() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let period = number("WATCHDOG_USEC").filter(|&period| period > 0 && for_us)?;
    Some(Duration::from_micros(period))
}

fn send(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = notify(&path, state, Some(PATIENCE)) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Sends a message; where there is no room for it, waits so long, or not at all.
fn notify(path: &std::ffi::OsStr, state: &str, patience: Option<Duration>) -> std::io::Result<()> {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(patience.is_none())?;
    socket.set_write_timeout(patience)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, os::unix::net::UnixDatagram};

    use super::*;

    #[test]
    fn a_service_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let full = (0..100_000).find_map(|_| notify(path.as_os_str(), "WATCHDOG=1", None).err());
        assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);
        let late = notify(path.as_os_str(), "READY=1", Some(Duration::from_millis(10))).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::WouldBlock);
        manager.recv(&mut [0; 64]).unwrap();
        notify(path.as_os_str(), "READY=1", Some(PATIENCE)).unwrap();
    }
}
