//! Where this daemon runs: which start of the host, which namespaces.

use std::{fs, io, os::unix::fs::MetadataExt};

use super::record::Origin;

pub fn here() -> io::Result<Origin> {
    let namespace = |kind: &str| Ok::<_, io::Error>(fs::metadata(format!("/proc/self/ns/{kind}"))?.ino());
    Ok(Origin {
        boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        pids: namespace("pid")?,
        network: namespace("net")?,
    })
}
