//! The keys of each table of a `function.toml`, and the messages for unknown keys.

/// One kind of table.
pub(super) struct Table {
    /// Its name in messages.
    name: &'static str,
    pub(super) keys: &'static [&'static str],
}

pub(super) static FILE: Table = Table {
    name: "the file's top level",
    keys: &[
        "concurrent-requests",
        "single-use",
        "keepalive",
        "keep-paused",
        "prewarm",
        "min-instances",
        "max-instances",
        "timeout",
        "boot-timeout",
        "stop-grace",
        "queue",
        "queue-timeout",
        "max-body",
        "port",
        "readiness",
        "env",
        "async",
        "cron",
        "nats",
        "mqtt",
        "cluster",
        "process",
        "container",
        "vm",
    ],
};

pub(super) static READINESS: Table = Table { name: "the table of `readiness`", keys: &["http"] };

pub(super) static ASYNC: Table = Table {
    name: "[async]",
    keys: &[
        "allow",
        "concurrency",
        "queue",
        "attempts",
        "backoff",
        "backoff-max",
        "max-age",
        "retry-on",
        "max-body",
        "max-response",
        "keep",
        "keep-dead",
        "durability",
    ],
};
pub(super) static CRON: Table =
    Table { name: "[[cron]]", keys: &["at", "zone", "path", "method", "body", "missed", "missed-within", "scope"] };

pub(super) static NATS: Table = Table { name: "[[nats]]", keys: &["subject", "queue", "stream", "path"] };

pub(super) static MQTT: Table = Table { name: "[[mqtt]]", keys: &["topic", "qos", "path"] };

pub(super) static CLUSTER: Table = Table { name: "[cluster]", keys: &["forward", "nodes"] };

pub(super) static PROCESS: Table =
    Table { name: "[process]", keys: &["command", "memory", "cpus", "pids-limit", "file-size", "user"] };

pub(super) static CONTAINER: Table = Table {
    name: "[container]",
    keys: &[
        "image",
        "command",
        "memory",
        "cpus",
        "runtime",
        "network",
        "user",
        "capabilities",
        "no-new-privileges",
        "pids-limit",
        "file-size",
        "read-only",
        "init",
        "log-size",
        "pull",
    ],
};

pub(super) static VM: Table = Table {
    name: "[vm]",
    keys: &["kernel", "image", "initrd", "memory", "cpus", "cmdline", "network", "egress", "snapshot", "hypervisor"],
};

pub(super) static SNAPSHOT: Table = Table { name: "the table of `snapshot`", keys: &["prepare", "restored", "settle"] };

pub(super) static FIRECRACKER: Table =
    Table { name: "a hypervisor of type \"firecracker\"", keys: &["type", "copy-rootfs", "read-only", "jailer"] };

pub(super) static QEMU: Table = Table {
    name: "a hypervisor of type \"qemu\"",
    keys: &["type", "machine", "disk-type", "accel", "args", "read-only"],
};

pub(super) static MICROVM: Table = Table {
    name: "a hypervisor of type \"microvm\"",
    keys: &["type", "disk-type", "accel", "args", "read-only", "pic", "pit", "rtc", "acpi", "auto-kernel-cmdline"],
};

pub(super) static TABLES: [&Table; 14] = [
    &FILE,
    &READINESS,
    &ASYNC,
    &CRON,
    &NATS,
    &MQTT,
    &CLUSTER,
    &PROCESS,
    &CONTAINER,
    &VM,
    &SNAPSHOT,
    &FIRECRACKER,
    &QEMU,
    &MICROVM,
];

/// Returns the message for a key that the table `here` does not have. `None`: it has the key.
pub(super) fn objection(key: &str, here: &Table) -> Option<String> {
    if here.keys.contains(&key) {
        return None;
    }
    let others: Vec<_> = TABLES.iter().filter(|table| table.keys.contains(&key)).map(|table| table.name).collect();
    let hint = if !others.is_empty() {
        format!("it belongs to {}", listing(&others, "or"))
    } else if let Some(near) = nearest(key, here.keys) {
        format!("did you mean `{near}`?")
    } else {
        format!("known there: {}", here.keys.join(", "))
    };
    Some(format!("unknown key in {}; {hint}", here.name))
}

/// Returns the known key most similar to `key`. Case and `_` instead of `-` do not count.
pub fn nearest<'a>(key: &str, keys: &[&'a str]) -> Option<&'a str> {
    let plain = |key: &str| key.to_lowercase().replace('_', "-");
    let key = plain(key);
    let longest = keys.iter().map(|known| known.len()).max().unwrap_or_default();
    if key.len() > 2 * longest {
        return None;
    }
    let (distance, near) =
        keys.iter().map(|known| (strsim::damerau_levenshtein(&key, &plain(known)), *known)).min_by_key(|(d, _)| *d)?;
    (distance * 3 <= near.len()).then_some(near)
}

/// Formats items as `a, b or c`.
pub(super) fn listing(items: &[impl AsRef<str>], last: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [init @ .., end] => {
            let init: Vec<_> = init.iter().map(AsRef::as_ref).collect();
            format!("{} {last} {}", init.join(", "), end.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_every_key() {
        let keys = include_str!("../../../docs/functions.md");
        for table in TABLES {
            let is_there = |key: &str| {
                let forms = [("`", "`"), ("] ", "`"), ("`[", "]"), ("`[[", "]]"), ("`", " = "), (" ", " = ")];
                forms.iter().any(|(before, after)| keys.contains(&format!("{before}{key}{after}")))
            };
            let missing: Vec<_> = table.keys.iter().filter(|key| !is_there(key)).collect();
            assert!(missing.is_empty(), "{}: {missing:?}", table.name);
        }
    }
}
