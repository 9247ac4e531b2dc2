//! A kernel that refuses bpf(2), as far as one process and its children can tell.
use std::{io, os::unix::process::CommandExt, process::Command};

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K` and `BPF_RET | BPF_K` of `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Offset of the system call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;

const fn step(code: u16, k: u32, jump_true: u8, jump_false: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: jump_true, jf: jump_false, k }
}

/// Makes every bpf(2) of the command fail with this error. Needs root.
pub(crate) fn refuse_bpf(command: &mut Command, errno: i32) {
    // The command is a program of this machine's own architecture, so its numbers of system calls are ours.
    let filter = [
        step(LOAD, NUMBER, 0, 0),
        step(IF_EQUAL, libc::SYS_bpf as u32, 0, 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the kernel copies `len` instructions from `filter`, which lives through the call, and keeps no pointer.
        let result = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program))
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe; nothing is allocated or locked.
    unsafe { command.pre_exec(install) };
}
