//! Links the unikernel with its own linker script, at a fixed address, without a C runtime.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=linker.ld");
    let script = format!("-T{}/linker.ld", env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    let arguments: &[&str] = match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // The linker itself.
        Ok("none") => &["--no-pie", "-znoexecstack"],
        // The C compiler as the linker's driver.
        _ => &["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,-znoexecstack,--build-id=none"],
    };
    println!("cargo::rustc-link-arg-bins={script}");
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
