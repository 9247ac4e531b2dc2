//! Tells the service manager, if there is one, how things stand (`sd_notify(3)`).

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
