//! The machine, and top-level keys that the daemon does not write.

use serde_json::json;

use crate::host::{
    Outcome::{Exits, Resets, Runs},
    set, with_each,
};

#[test]
fn machine() {
    with_each(async |host| {
        let vcpus = parsing!("MachineConfig(InvalidVcpuCount))))");
        for (value, expected) in [
            (json!(0), vcpus),
            (json!(2), Runs),
            (json!(31), Runs),
            (json!(32), Runs),
            (json!(33), vcpus),
            (json!(255), vcpus),
            (json!(256), parsing!("InvalidJson(Error(\"invalid value: integer `256`, expected u8\"")),
            (json!(-1), parsing!("InvalidJson(Error(\"invalid value: integer `-1`, expected u8\"")),
            (json!(1.5), parsing!("InvalidJson(Error(\"invalid type: floating point `1.5`, expected u8\"")),
            (json!("1"), parsing!("InvalidJson(Error(\"invalid type: string \\\"1\\\", expected u8\"")),
        ] {
            host.check(&format!("vcpu_count {value}"), set("/machine-config/vcpu_count", value), expected).await;
        }
        for (value, expected) in [
            (json!(0), parsing!("MachineConfig(InvalidMemorySize))))")),
            (json!(1), starting!("ConfigureSystem(KernelLoader(Elf(ReadKernelImage))))))")),
            (json!(2), Resets),
            (json!(4), Runs),
            (json!(16), Runs),
            (json!(32.5), parsing!("InvalidJson(Error(\"invalid type: floating point `32.5`, expected usize\"")),
            (json!("32"), parsing!("InvalidJson(Error(\"invalid type: string \\\"32\\\", expected usize\"")),
            (json!(1_048_576), Runs),
            (json!(17_179_869_184_u64), starting!("GuestMemory(MmapRegionError(Mmap(Os { code: 12, kind: OutOfMemory")),
            (json!(-1), parsing!("InvalidJson(Error(\"invalid value: integer `-1`, expected usize\"")),
        ] {
            host.check(&format!("mem_size_mib {value}"), set("/machine-config/mem_size_mib", value), expected).await;
        }
        host.check("smt", set("/machine-config/smt", json!(true)), Runs).await;
        host.check("track_dirty_pages", set("/machine-config/track_dirty_pages", json!(true)), Runs).await;
        let unbacked = starting!("ConfigureSystem(KernelLoader(Elf(ReadKernelImage))))))");
        host.check("huge_pages", set("/machine-config/huge_pages", json!("2M")), unbacked).await;
        let socket = host.path("vsock").display().to_string();
        for (key, value) in [
            ("/logger", json!({ "level": "Warning" })),
            ("/metrics", json!({ "metrics_path": host.file("metrics", b"") })),
            ("/balloon", json!({ "amount_mib": 0, "deflate_on_oom": false })),
            ("/entropy", json!({})),
            ("/vsock", json!({ "guest_cid": 3, "uds_path": socket })),
            ("/mmds-config", json!({ "network_interfaces": ["eth0"] })),
            ("/cpu-config", json!({})),
        ] {
            host.check(key, set(key, value), Runs).await;
        }
    });
}
