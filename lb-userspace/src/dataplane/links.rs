//! Attaches programs to interfaces.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::DataPlaneError;
use super::netlink::{Interface, Netlink};
use super::pins::{PinnedLink, Pins, remove_file};
use super::sys;
use crate::config::XdpMode;

/// The interfaces with these names.
///
/// # Errors
/// [`DataPlaneError::NoInterface`] for the first one that does not exist.
pub fn find_interfaces(names: &[String]) -> Result<Vec<Interface>, DataPlaneError> {
    let all = Netlink::new().and_then(|mut netlink| netlink.interfaces()).map_err(DataPlaneError::Netlink)?;
    let find = |name: &String| {
        all.iter().find(|interface| interface.name == *name).cloned().ok_or_else(|| {
            DataPlaneError::NoInterface {
                name: name.clone(),
                existing: all.iter().map(|interface| interface.name.clone()).collect(),
            }
        })
    };
    names.iter().map(find).collect()
}

/// Attaches a program to an interface; it stays attached for as long as the link is open or pinned.
///
/// # Errors
/// Why the interface does not take it.
pub fn attach(
    program: BorrowedFd<'_>,
    interface: &Interface,
    mode: XdpMode,
) -> Result<OwnedFd, DataPlaneError> {
    let flags = match mode {
        XdpMode::Native => sys::XDP_FLAGS_DRV_MODE,
        XdpMode::Generic => sys::XDP_FLAGS_SKB_MODE,
    };
    sys::create_link(program, interface.index, flags).map_err(|error| refusal(interface, mode, error))
}

fn refusal(interface: &Interface, mode: XdpMode, source: io::Error) -> DataPlaneError {
    /// `ENOTSUPP`, which the kernel should not let out but does.
    const ENOTSUPP: i32 = 524;
    let name = interface.name.clone();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            DataPlaneError::NoPrivilege { what: format!("attach a program to interface `{name}`"), source }
        }
        Some(libc::EBUSY | libc::EEXIST) => {
            DataPlaneError::InterfaceBusy { name, program: interface.xdp.and_then(|(program, _)| program) }
        }
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | ENOTSUPP) if mode == XdpMode::Native => {
            DataPlaneError::NativeUnsupported { name, source }
        }
        _ => DataPlaneError::Attach { name, source },
    }
}

/// What is to be done with one interface.
enum Task<'a> {
    /// Its link runs another program.
    Update(&'a PinnedLink),
    /// Its link is in the other mode, which cannot be changed.
    Recreate(&'a PinnedLink, XdpMode),
    /// It has none.
    Create,
    /// All is well.
    Keep,
}

/// Refuses interfaces that run a program of someone else, before anything is built or waited for.
pub(super) fn refuse_busy(pins: &Pins, interfaces: &[Interface]) -> Result<(), DataPlaneError> {
    let pinned = pins.links()?;
    let is_ours = |interface: &Interface| pinned.iter().any(|link| is_of(link, interface));
    match interfaces.iter().find(|interface| interface.xdp.is_some() && !is_ours(interface)) {
        Some(busy) => Err(DataPlaneError::InterfaceBusy {
            name: busy.name.clone(),
            program: busy.xdp.and_then(|(program, _)| program),
        }),
        None => Ok(()),
    }
}

fn is_of(link: &PinnedLink, interface: &Interface) -> bool {
    link.interface == interface.name && link.info.ifindex == interface.index
}

/// Makes every one of `interfaces` run the program with this id, and no other interface.
///
/// New links come first, as only they can fail; so a failure changes nothing.
pub(super) fn ensure(
    pins: &Pins,
    (program, program_id): (BorrowedFd<'_>, u32),
    interfaces: &[Interface],
    mode: XdpMode,
) -> Result<(), DataPlaneError> {
    let pinned = pins.links()?;
    let tasks: Vec<_> =
        interfaces.iter().map(|interface| task(&pinned, interface, mode, program_id)).collect();
    let mut created = Vec::new();
    for (interface, task) in interfaces.iter().zip(&tasks) {
        if matches!(task, Task::Create) {
            created.push((interface, attach(program, interface, mode)?));
        }
    }
    for (interface, task) in interfaces.iter().zip(&tasks) {
        if let Task::Recreate(link, old_mode) = task {
            created.push((interface, recreate(program, interface, link, *old_mode, mode)?));
        }
    }
    for task in &tasks {
        if let Task::Update(link) = task {
            sys::update_link(link.fd.as_fd(), program)
                .map_err(|error| DataPlaneError::io(&link.path, error))?;
        }
    }
    let stays = |link: &PinnedLink| {
        interfaces.iter().zip(&tasks).any(|(interface, task)| {
            interface.name == link.interface && matches!(task, Task::Update(_) | Task::Keep)
        })
    };
    for link in pinned.iter().filter(|link| !stays(link)) {
        remove_link(link)?;
    }
    for (interface, link) in created {
        let path = pins.link_path(&interface.name);
        sys::pin(link.as_fd(), &path).map_err(|error| DataPlaneError::io(&path, error))?;
    }
    Ok(())
}

fn task<'a>(pinned: &'a [PinnedLink], interface: &Interface, mode: XdpMode, program_id: u32) -> Task<'a> {
    let Some(link) = pinned.iter().find(|link| is_of(link, interface)) else {
        return Task::Create;
    };
    match interface.xdp {
        Some((_, native)) if native != (mode == XdpMode::Native) => {
            Task::Recreate(link, if native { XdpMode::Native } else { XdpMode::Generic })
        }
        _ if link.info.program_id != program_id => Task::Update(link),
        _ => Task::Keep,
    }
}

/// Detaches a link and attaches anew in another mode; packets pass unforwarded in between. If that fails, the old mode is
/// taken up again.
fn recreate(
    program: BorrowedFd<'_>,
    interface: &Interface,
    link: &PinnedLink,
    old_mode: XdpMode,
    mode: XdpMode,
) -> Result<OwnedFd, DataPlaneError> {
    remove_link(link)?;
    attach(program, interface, mode).inspect_err(|_| {
        let restored = attach(program, interface, old_mode).and_then(|old| {
            sys::pin(old.as_fd(), &link.path).map_err(|error| DataPlaneError::io(&link.path, error))
        });
        if let Err(error) = restored {
            tracing::error!(interface = interface.name, %error, "the old mode could not be taken up again");
        }
    })
}

fn remove_link(link: &PinnedLink) -> Result<(), DataPlaneError> {
    if link.info.ifindex != 0 {
        sys::detach_link(link.fd.as_fd()).map_err(|error| DataPlaneError::io(&link.path, error))?;
    }
    remove_file(&link.path)
}
