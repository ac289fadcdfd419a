//! Finds the eBPF object that `cargo xtask ebpf` left under the workspace's own `target/ebpf/`, and says where it is.
//! Where it was not built an empty file stands in its place: "built without probes" is a lawful state.
//! Building the object needs a toolchain of its own and belongs to xtask.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it for build scripts"));
    let folder = manifest.join("../target/ebpf");
    let object = folder.join("wayspan-probes");

    println!("cargo:rerun-if-changed=build.rs");
    // A missing path would rerun this on every build; an empty folder is noticed when the object comes.
    if fs::create_dir_all(&folder).is_ok() {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    let bytes = fs::read(&object).unwrap_or_default();
    let copy = out.join("wayspan-probes");
    fs::write(&copy, bytes).expect("OUT_DIR is ours to write");
    println!("cargo:rustc-env=WAYSPAN_PROBES_OBJECT={}", copy.display());
}
