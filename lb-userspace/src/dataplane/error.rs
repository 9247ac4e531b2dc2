//! Why the data plane cannot be put in place, each with its remedy.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::plan::transition::TransitionError;

/// Why the data plane cannot be put in place or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataPlaneError {
    /// The process lacks a capability.
    #[error(
        "no privilege to {what}: {source}; run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
         (and CAP_SYS_RESOURCE before kernel 5.11)"
    )]
    NoPrivilege {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel lacks something.
    #[error(
        "this kernel cannot {what}: {source}; Weir needs Linux 6.12 or later with CONFIG_BPF_SYSCALL and BPF JIT"
    )]
    Unsupported {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface of the configuration does not exist.
    #[error("there is no interface `{name}`; there are: {}; correct node.interfaces, or create it first", existing.join(", "))]
    NoInterface {
        /// The name.
        name: String,
        /// Those that exist.
        existing: Vec<String>,
    },
    /// The driver of an interface cannot run XDP programs.
    #[error(
        "the driver of interface `{name}` cannot run the program in native mode: {source}; lower the interface's MTU and \
         switch LRO off if its driver asks for that, or set mode = \"generic\""
    )]
    NativeUnsupported {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another program has the interface.
    #[error(
        "interface `{name}` already runs another XDP program{}; detach that first (`ip link set dev {name} xdp off`, or \
         its owner's own way)", program.map(|id| format!(" (id {id})")).unwrap_or_default()
    )]
    InterfaceBusy {
        /// The interface.
        name: String,
        /// The other program's id, where the kernel tells it.
        program: Option<u32>,
    },
    /// Attaching failed otherwise.
    #[error("cannot attach to interface `{name}`: {source}")]
    Attach {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path for pins is not on a BPF file system.
    #[error(
        "{} is not on a BPF file system; mount one (`mount -t bpf bpf {}`), or set node.bpffs to a folder of one",
        path.display(), mount.display()
    )]
    NoBpffs {
        /// The path.
        path: PathBuf,
        /// Where one is usually mounted for it.
        mount: PathBuf,
    },
    /// The new configuration does not fit beside the old one.
    #[error("the new configuration cannot follow the old one: {0}")]
    Transition(Box<TransitionError>),
    /// Something lies where pins should, that this version did not put there.
    #[error(
        "{}: {problem}; nothing was changed. If it is a leftover, remove it with `weir detach --bpffs {}`",
        path.display(), bpffs.display()
    )]
    BadPin {
        /// The pin.
        path: PathBuf,
        /// The folder of all pins.
        bpffs: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another process holds the pins.
    #[error("another weir process uses the pins below {}; stop it first", path.display())]
    InUse {
        /// The folder of all pins.
        path: PathBuf,
    },
    /// More CPUs than there is room for.
    #[error(
        "this host has {found} possible CPUs, Weir counts for at most {limit}; boot with possible_cpus={limit}"
    )]
    TooManyCpus {
        /// How many.
        found: usize,
        /// How many at most.
        limit: usize,
    },
    /// The kernel refused the program or a map.
    #[error("cannot load the XDP program: {0}")]
    Load(String),
    /// A file operation below the folder of pins failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Routes, neighbours or links could not be read.
    #[error("netlink: {0}")]
    Netlink(io::Error),
}

/// What a [`DataPlaneError`] means for the process's exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// No privilege.
    Privilege,
    /// Kernel or interface cannot do it.
    Unsupported,
    /// What runs forbids it.
    RefusedByState,
    /// Anything else.
    Other,
}

impl DataPlaneError {
    /// What the error means for the process's exit code.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::NoPrivilege { .. } => ErrorClass::Privilege,
            Self::Unsupported { .. }
            | Self::NoInterface { .. }
            | Self::NativeUnsupported { .. }
            | Self::NoBpffs { .. }
            | Self::TooManyCpus { .. } => ErrorClass::Unsupported,
            Self::InterfaceBusy { .. } | Self::Transition(_) | Self::BadPin { .. } | Self::InUse { .. } => {
                ErrorClass::RefusedByState
            }
            Self::Attach { .. } | Self::Load(_) | Self::Io { .. } | Self::Netlink(_) => ErrorClass::Other,
        }
    }

    /// A failed file operation; `EPERM` and `EACCES` become [`NoPrivilege`](Self::NoPrivilege).
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::NoPrivilege { what: format!("change {}", path.display()), source };
        }
        Self::Io { path: path.to_owned(), source }
    }

    /// A failed load, by the operating system's error at the root of aya's.
    pub(crate) fn load(error: &(dyn StdError + 'static)) -> Self {
        let what = "load BPF programs and maps".to_owned();
        match os_error(error) {
            Some(code)
                if code == libc::EPERM
                    || code == libc::EACCES && !text(error).contains("Verifier output") =>
            {
                Self::NoPrivilege { what, source: io::Error::from_raw_os_error(code) }
            }
            Some(libc::ENOSYS) => {
                Self::Unsupported { what, source: io::Error::from_raw_os_error(libc::ENOSYS) }
            }
            _ => Self::Load(text(error)),
        }
    }
}

/// The error and its causes in one line each.
fn text(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The operating system's error code among an error's causes.
fn os_error(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}
