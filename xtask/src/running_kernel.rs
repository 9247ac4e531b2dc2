//! The kernel that runs here: whether it takes the XDP programs.

use std::fs;

use anyhow::{Result, bail};

/// The oldest kernel that is supported, by what `cargo xtask verify` shows; `weir doctor`, README and the guide say the same.
pub(crate) const OLDEST: (u32, u32) = include!("../../packaging/oldest-kernel.in");
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Fails on a kernel that refuses the XDP programs. To be asked before minutes of building, not after.
pub(crate) fn require() -> Result<()> {
    judge(fs::read_to_string(RELEASE).unwrap_or_default().trim())
}

/// A release that does not begin with two numbers is believed to be good: loading the programs will tell.
fn judge(release: &str) -> Result<()> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    if let (Some(major), Some(minor)) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST
    {
        bail!(
            "the kernel here is Linux {release}; its verifier refuses the XDP programs, which need {}.{} or later.\n\
             Remedy: boot a newer kernel. On Debian 12: add bookworm-backports to apt's sources, then\n  \
             apt install -t bookworm-backports linux-image-amd64, and reboot.",
            OLDEST.0,
            OLDEST.1
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn documents_name_the_oldest_kernel() {
        let oldest = format!("{}.{} or later", OLDEST.0, OLDEST.1);
        for document in ["README.md", "docs/guide/limits.md", "docs/guide/runbooks.md"] {
            let text = fs::read_to_string(root().join(document)).unwrap();
            assert!(text.contains(&oldest), "{document} does not say {oldest:?}");
        }
    }

    #[test]
    fn kernels_that_are_too_old_are_refused_with_a_remedy() {
        for good in ["6.12.48+deb13-amd64", "6.18.0", "7.2-rc1", "10.0.1", "", "custom"] {
            assert!(judge(good).is_ok(), "{good}");
        }
        for old in ["6.1.0-38-cloud-amd64", "6.11.9", "5.10.0-35-amd64"] {
            let error = judge(old).unwrap_err().to_string();
            assert!(error.contains(old) && error.contains("bookworm-backports"), "{error}");
        }
    }
}
