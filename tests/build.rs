//! Finds the compiled BPF objects that the lab embeds, or says how to make them.
use std::{env, path::PathBuf, process::exit};

/// Objects that this package embeds, by file name.
const OBJECTS: [&str; 3] = ["bench", "edge", "lab"];

fn main() {
    println!("cargo:rerun-if-env-changed=WEIR_BPF_DIR");
    let directory = match env::var_os("WEIR_BPF_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf"),
    };
    for object in OBJECTS {
        let path = directory.join(object);
        println!("cargo:rerun-if-changed={}", path.display());
        if !path.is_file() {
            println!("cargo:error=BPF object {} is missing: run `cargo xtask build`", path.display());
            exit(1);
        }
    }
    println!("cargo:rustc-env=WEIR_BPF_DIR={}", directory.display());
}
