//! Tells the service manager, if there is one, how things stand (`sd_notify(3)`).

use std::time::Duration;

use super::clock::monotonic_ns;

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
    send("WATCHDOG=1");
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
    if let Err(error) = notify(&path, state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

fn notify(path: &std::ffi::OsStr, state: &str) -> std::io::Result<()> {
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
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
