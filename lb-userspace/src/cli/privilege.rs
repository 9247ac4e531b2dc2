//! What `daemon`, `agent` and `detach` must be allowed to do.

use std::fs;

/// Capabilities that loading and attaching XDP programs takes, with their numbers (capabilities(7)).
const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_BPF", 39)];
/// Stands in for `CAP_BPF`.
const CAP_SYS_ADMIN: u32 = 21;

/// Capabilities are missing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`weir {verb}` needs privileges: {} missing", missing.join(" and "))]
pub struct PrivilegeError {
    verb: &'static str,
    missing: Vec<&'static str>,
}

impl PrivilegeError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let needed = self.missing.join(" ");
        format!(
            "run it as root (sudo weir {} ...), or give its systemd unit AmbientCapabilities={needed}",
            self.verb
        )
    }
}

/// Checks that the process may do what `weir <verb>` does.
///
/// # Errors
/// Names every capability that is missing.
pub fn require(verb: &'static str) -> Result<(), PrivilegeError> {
    // Where the kernel does not say, the operations themselves will.
    match fs::read_to_string("/proc/self/status").ok().as_deref().and_then(effective) {
        Some(effective) => check(verb, effective),
        None => Ok(()),
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn check(verb: &'static str, effective: u64) -> Result<(), PrivilegeError> {
    let has = |number: u32| effective & (1 << number) != 0;
    let is_held = |name: &str, number: u32| has(number) || name == "CAP_BPF" && has(CAP_SYS_ADMIN);
    let missing: Vec<_> =
        NEEDED.into_iter().filter(|&(name, number)| !is_held(name, number)).map(|(name, _)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError { verb, missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let net_admin = 1 << 12;
        assert_eq!(check("daemon", net_admin | 1 << 39), Ok(()));
        assert_eq!(check("daemon", net_admin | 1 << 21), Ok(()));
        let error = check("daemon", net_admin).unwrap_err();
        assert!(error.to_string().contains("CAP_BPF missing"), "{error}");
        let error = check("agent", 0).unwrap_err();
        assert!(
            error.to_string().contains("`weir agent` needs privileges: CAP_NET_ADMIN and CAP_BPF"),
            "{error}"
        );
        assert!(error.remedy().contains("sudo weir agent"), "{}", error.remedy());
    }

    #[test]
    fn effective_set_is_read_from_the_kernels_text() {
        assert_eq!(effective("Name:\tweir\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tweir\n"), None);
        assert!(effective(&fs::read_to_string("/proc/self/status").unwrap()).is_some());
    }
}
