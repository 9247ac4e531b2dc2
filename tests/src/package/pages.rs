//! Blocks of the documents marked `sh machine`: what a newcomer types on a host with a service manager, run there as it stands.
use super::{AGENT_INTERFACE, PACKAGES, say};
use crate::lab::Machine;
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

/// Pages with such blocks, in the order in which one reads them.
const PAGES: [&str; 3] = ["README.md", "docs/guide/first-deployment.md", "docs/guide/routing.md"];
/// Blocks there are at least.
const FEWEST: usize = 6;
/// What a page calls the package.
const NAMES: [&str; 2] = ["./target/dist/weir_0.1.0-1_amd64.deb", "./weir_0.1.0-1_amd64.deb"];
/// What `weir doctor` finds is not judged: the hosts of the example are not there. BIRD is not either.
const PRELUDE: &str = "\
weir() {
    local code=0
    command weir \"$@\" || code=$?
    case \"$1:$code\" in doctor:11 | doctor:12) return 0 ;; esac
    return $code
}
birdc() { echo \"not here: birdc $*\"; }
";
/// Puts away what the pages made, so that what follows begins anew.
const CLEANUP: &str = "\
systemctl disable --now weir weir-agent
weir detach
rm -r /etc/weir/weir.toml /etc/weir/hash.key /var/lib/weir/*
ip address del 192.0.2.10/32 dev lo
";

/// A block, with the place of its fence.
struct Block {
    place: String,
    text: String,
}

fn blocks(root: &Path) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        let mut open: Option<Block> = None;
        for (line, content) in (1..).zip(text.lines()) {
            match (&mut open, content) {
                (None, "```sh machine") => {
                    open = Some(Block { place: format!("{page}:{line}"), text: String::new() });
                }
                (Some(_), "```") => found.extend(open.take()),
                (Some(block), content) => block.text += &format!("{content}\n"),
                (None, _) => {}
            }
        }
    }
    ensure!(found.len() >= FEWEST, "only {} blocks are marked `sh machine`", found.len());
    Ok(found)
}

/// Runs them all in a machine in which the package lies, and whose interface for an agent is there.
///
/// # Errors
/// A block fails; what it says is quoted.
pub(super) fn run(machine: &Machine) -> Result<()> {
    let blocks = blocks(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
    for Block { place, text } in &blocks {
        let package = format!("/{}", PACKAGES[0]);
        let mut text = NAMES.iter().fold(text.clone(), |text, name| text.replace(name, &package));
        if text.contains("weir-agent") {
            // The edge's own program is on the other one.
            text = text.replace("eth0", AGENT_INTERFACE).replace("10.1.1.11", "10.254.0.1");
        }
        let script = format!("{PRELUDE}{text}");
        machine.done(&["bash", "-eu", "-o", "pipefail", "-c", &script]).with_context(|| place.clone())?;
        say(&format!("{place}: done as it stands there"));
    }
    for unit in [super::UNIT, super::AGENT_UNIT] {
        super::unit_is_active(machine, unit).context("after all that the pages say")?;
    }
    machine.done(&["bash", "-eu", "-c", CLEANUP]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_and_name_the_package_as_it_is_called() {
        let blocks = blocks(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let installs: Vec<_> = blocks
            .iter()
            .filter(|block| block.text.contains("apt install"))
            .map(|block| &block.text)
            .collect();
        assert!(installs.len() >= 2);
        assert!(installs.iter().all(|text| NAMES.iter().any(|name| text.contains(name))), "{installs:?}");
        assert!(
            NAMES[0].contains(concat!("weir_", env!("CARGO_PKG_VERSION"), "-1_")),
            "the version is another one"
        );
    }
}
