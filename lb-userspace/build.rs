//! Tells the compiler where the BPF objects lie that the binary embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

/// Objects that the binary embeds.
const OBJECTS: [&str; 3] = ["edge", "agent", "watch"];

fn main() {
    println!("cargo:rerun-if-env-changed=WEIR_BPF_DIR");
    let directory = env::var_os("WEIR_BPF_DIR").map_or_else(default_directory, PathBuf::from);
    for object in OBJECTS {
        let path = directory.join(object);
        println!("cargo:rerun-if-changed={}", path.display());
        if !path.is_file() {
            println!(
                "cargo:error=the BPF object {} is missing; run `cargo xtask build`, or set WEIR_BPF_DIR to the absolute \
                 path of the folder that holds it",
                path.display()
            );
            exit(1);
        }
    }
    println!("cargo:rustc-env=WEIR_BPF_DIR={}", directory.display());
}

/// `target/bpf` of the workspace, where `cargo xtask build` puts them.
fn default_directory() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from);
    package.parent().unwrap_or(Path::new("/")).join("target/bpf")
}
