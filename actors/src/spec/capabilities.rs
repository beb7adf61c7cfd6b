//! The names of capabilities that a container may be given.

use super::{
    keys::nearest,
    raw::{Section, clipped},
};

/// The capabilities of Linux, and the word for all of them.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Reads names such as `SYS_PTRACE`, with or without `CAP_`, in either case.
pub(super) fn capabilities(section: &Section<'_>) -> Vec<String> {
    let given = section.strings("capabilities").unwrap_or_default();
    let names = given.iter().map(|name| {
        let upper = name.to_ascii_uppercase();
        upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
    });
    let names: Vec<_> = names.collect();
    if let Some((given, name)) = given.iter().zip(&names).find(|(_, name)| !CAPABILITIES.contains(&name.as_str())) {
        let hint = match nearest_capability(name) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("known: {}", CAPABILITIES.join(", ")),
        };
        section.fail("capabilities", format!("Linux has no capability {:?}; {hint}", clipped(given)));
    }
    names
}

/// Returns the name most similar to `name`, or a name that begins with words like it.
fn nearest_capability(name: &str) -> Option<&'static str> {
    let begins = |known: &&str| known.match_indices('_').any(|(end, _)| nearest(name, &[&known[..end]]).is_some());
    nearest(name, &CAPABILITIES).or_else(|| CAPABILITIES.into_iter().find(begins))
}
