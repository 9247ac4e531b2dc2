//! Who may import whom, and where `unsafe` may stand: the borders that keep decisions pure and proofs in few files.

use crate::source::{Code, PathUse};

/// A border that something crossed: where, and why it is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// `file:line`, or the name of a package.
    pub(crate) place: String,
    pub(crate) what: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// For each package of the workspace, those that it may depend on, in any way.
const MAY_IMPORT: [(&str, &[&str]); 6] = [
    ("lb-maglev", &[]),
    ("lb-common", &["lb-maglev"]),
    ("lb-ebpf", &["lb-common", "lb-maglev"]),
    ("lb-userspace", &["lb-common", "lb-maglev"]),
    ("lb-tests", &["lb-common", "lb-maglev", "lb-userspace"]),
    ("xtask", &[]),
];

/// Packages that depend on nothing at all, tests aside.
const WITHOUT_DEPENDENCIES: [&str; 1] = ["lb-maglev"];

/// What files of a kind must not name outside `#[cfg(test)]`.
struct Purity {
    files: &'static [&'static str],
    except: &'static [&'static str],
    /// Crates whose every path is forbidden.
    crates: &'static [&'static str],
    /// Consecutive segments that are forbidden wherever they stand in a path.
    paths: &'static [&'static str],
    reason: &'static str,
}

const PURITY: [Purity; 2] = [
    Purity {
        files: &["lb-userspace/src/plan/**", "lb-userspace/src/plan.rs", "lb-userspace/src/health/**"],
        except: &["lb-userspace/src/health/prober*.rs", "lb-userspace/src/health/prober/**"],
        crates: &["tokio", "aya", "nix", "libc"],
        paths: &[
            "std::fs",
            "std::process",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "UnixDatagram",
            "Instant::now",
            "SystemTime::now",
        ],
        reason: "plans and health states are pure: they take `now` and events and return values",
    },
    Purity {
        files: &["lb-common/src/datapath/**", "lb-common/src/datapath.rs"],
        except: &[],
        crates: &["std", "aya", "aya_ebpf", "tokio", "nix", "libc"],
        paths: &[],
        reason: "decisions are the same source in the kernel, in tests and behind `explain`",
    },
];

/// Where `unsafe` may stand, and why it must.
pub(crate) const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("lb-common/src/abi/pod.rs", "map keys and values as bytes"),
    ("lb-ebpf/src/packet.rs", "the only pointer arithmetic on packets"),
    ("lb-ebpf/src/*maps.rs", "map values by pointer"),
    ("lb-ebpf/src/maps/functions.rs", "exported names, and the request in the CPU's scratch"),
    ("lb-ebpf/src/bin/*.rs", "program entry points and the licence section"),
    ("lb-userspace/src/dataplane/**", "memory-mapped maps and bpf(2)"),
    ("lb-userspace/src/health/prober*.rs", "timers and sockets of the prober threads"),
    ("lb-userspace/src/runtime/**", "signals, privileges and scheduling of the process"),
    ("tests/src/**", "namespaces and processes of the lab"),
    ("tests/tests/e2e_support/seccomp.rs", "a process without bpf(2), as on a kernel that lacks it"),
];

/// Checks one package's dependencies, given as (name, kind).
pub(crate) fn check_dependencies(package: &str, dependencies: &[(String, String)]) -> Vec<Breach> {
    let breach = |what| Breach { place: package.to_owned(), what };
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == package) else {
        return vec![breach("is not in the border check's table: say there what it may import".to_owned())];
    };
    let is_ours = |name: &str| MAY_IMPORT.iter().any(|(ours, _)| *ours == name);
    let mut breaches = Vec::new();
    for (name, kind) in dependencies {
        if is_ours(name) && !allowed.contains(&name.as_str()) {
            breaches.push(breach(format!("must not import {name}; it may import [{}]", allowed.join(", "))));
        } else if !is_ours(name) && kind != "dev" && WITHOUT_DEPENDENCIES.contains(&package) {
            breaches.push(breach(format!("must not depend on {name}: it has no dependencies")));
        }
    }
    breaches
}

/// Checks one source file; `file` is its path below the workspace root, with `/`.
pub(crate) fn check_source(file: &str, code: &Code) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let breach = |line: usize, what: String| Breach { place: format!("{file}:{line}"), what };
    for rule in &PURITY {
        let covered = |globs: &[&str]| globs.iter().any(|glob| glob_matches(glob, file));
        if !covered(rule.files) || covered(rule.except) {
            continue;
        }
        for path in code.without_tests().paths() {
            if let Some(forbidden) = rule.forbidden(&path) {
                breaches.push(breach(path.line, format!("must not use `{forbidden}`: {}", rule.reason)));
            }
        }
    }
    if !UNSAFE_ALLOWED.iter().any(|(glob, _)| glob_matches(glob, file)) {
        for line in code.lines_with_word("unsafe") {
            breaches.push(breach(
                line,
                "`unsafe` outside the files that may have it (xtask/src/borders.rs)".to_owned(),
            ));
        }
    }
    breaches
}

impl Purity {
    fn forbidden(&self, path: &PathUse) -> Option<&'static str> {
        let first = path.segments.first()?;
        // A lone name may be a variable; a crate shows itself by what follows.
        let is_crate = |name: &&&str| path.segments.len() > 1 && first == **name;
        let contains = |wanted: &&&str| {
            let wanted: Vec<&str> = wanted.split("::").collect();
            path.segments.windows(wanted.len()).any(|window| window.iter().eq(wanted.iter().copied()))
        };
        self.crates.iter().find(is_crate).or_else(|| self.paths.iter().find(contains)).copied()
    }
}

/// `dir/**` matches everything below; one `*` matches within a file name; anything else matches itself.
fn glob_matches(glob: &str, file: &str) -> bool {
    if let Some(dir) = glob.strip_suffix("**") {
        return file.starts_with(dir);
    }
    match glob.split_once('*') {
        Some((before, after)) => file
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|middle| !middle.contains('/')),
        None => glob == file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(file: &str, source: &str) -> Vec<String> {
        check_source(file, &Code::new(source)).iter().map(Breach::to_string).collect()
    }

    fn dependency(name: &str, kind: &str) -> (String, String) {
        (name.to_owned(), kind.to_owned())
    }

    #[test]
    fn plans_take_time_and_never_ask_for_it() {
        let file = "lb-userspace/src/plan/spill.rs";
        for source in [
            "fn f() { let t = std::time::Instant::now(); }",
            "use std::time::SystemTime;\nfn f() { SystemTime::now(); }",
            "use tokio::sync::mpsc;",
            "use std::{collections::HashMap, fs};",
            "use std::net::{IpAddr, UdpSocket};",
            "fn f() { aya::maps::Array::try_from(m); }",
            "use ::nix::sys::socket;",
        ] {
            assert_eq!(breaches(file, source).len(), 1, "{source}: {:?}", breaches(file, source));
        }
    }

    #[test]
    fn what_is_pure_passes() {
        let source = "use std::{net::IpAddr, time::{Duration, Instant}};\n// tokio::spawn is not for us\n\
                      fn step(now: Instant, libc: u8) -> Duration { \"std::fs\"; todo(libc) }\n\
                      #[cfg(test)]\nmod tests { use std::fs; fn f() { Instant::now(); } }";
        assert_eq!(breaches("lb-userspace/src/plan/mod.rs", source), [""; 0]);
        assert_eq!(breaches("lb-userspace/src/health/detector.rs", source), [""; 0]);
    }

    #[test]
    fn probers_do_io_and_detectors_do_not() {
        let source = "use std::net::UdpSocket;";
        assert_eq!(breaches("lb-userspace/src/health/prober.rs", source), [""; 0]);
        assert_eq!(breaches("lb-userspace/src/health/prober_tcp.rs", source), [""; 0]);
        assert_eq!(breaches("lb-userspace/src/health/detector.rs", source).len(), 1);
        assert_eq!(breaches("lb-userspace/src/runtime/mod.rs", source), [""; 0]);
    }

    #[test]
    fn the_datapath_knows_no_std() {
        assert_eq!(breaches("lb-common/src/datapath/select.rs", "use std::vec::Vec;").len(), 1);
        assert_eq!(breaches("lb-common/src/datapath/select.rs", "use core::mem;").len(), 0);
        assert_eq!(breaches("lb-common/src/net/mod.rs", "use std::vec::Vec;").len(), 0);
    }

    #[test]
    fn unsafe_stands_where_the_list_says() {
        let source = "fn f() { unsafe { g() } }";
        assert_eq!(breaches("lb-ebpf/src/packet.rs", source), [""; 0]);
        assert_eq!(breaches("lb-ebpf/src/bin/edge.rs", source), [""; 0]);
        assert_eq!(breaches("lb-userspace/src/dataplane/mmap/view.rs", source), [""; 0]);
        assert_eq!(breaches("lb-ebpf/src/lib.rs", source).len(), 1);
        assert_eq!(breaches("lb-ebpf/src/bin/deep/x.rs", source).len(), 1);
        assert_eq!(breaches("lb-maglev/src/lib.rs", "#[cfg(test)] mod t { unsafe fn f() {} }").len(), 1);
    }

    #[test]
    fn packages_import_in_one_direction() {
        let deps = [dependency("lb-common", "normal"), dependency("anyhow", "normal")];
        assert_eq!(check_dependencies("lb-userspace", &deps), []);
        assert_eq!(check_dependencies("xtask", &deps).len(), 1);
        assert_eq!(check_dependencies("lb-maglev", &deps).len(), 2);
        assert_eq!(check_dependencies("lb-maglev", &[dependency("proptest", "dev")]), []);
        assert_eq!(check_dependencies("lb-common", &[dependency("lb-userspace", "dev")]).len(), 1);
        assert_eq!(check_dependencies("newcomer", &[]).len(), 1);
    }
}
