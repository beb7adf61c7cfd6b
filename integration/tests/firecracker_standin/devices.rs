//! Network interfaces and drives.

use serde_json::{Value, json};

use crate::host::{
    Outcome::{Boots, Exits, Resets, Runs},
    TAP, remove, set, with_each,
};

#[test]
fn network() {
    with_each(async |host| {
        let address = parsing!("InvalidJson(Error(\"The provided MAC address is invalid.\"");
        for (mac, expected) in [
            ("", address),
            ("02:fa:0a:c8:00", address),
            ("02:FA:0A:C8:00:02", Runs),
            ("02:fa:0a:c8:00:02:03", address),
            ("zz:fa:0a:c8:00:02", address),
            ("02-fa-0a-c8-00-02", address),
            ("+2:fa:0a:c8:00:02", Runs),
            ("00:00:00:00:00:00", Runs),
        ] {
            host.check(mac, set("/network-interfaces/0/guest_mac", json!(mac)), expected).await;
        }
        host.check("no address", remove("/network-interfaces/0/guest_mac"), Resets).await;
        host.check("null address", set("/network-interfaces/0/guest_mac", Value::Null), Resets).await;
        for id in ["", "eth 0", "eth-0", "eth_0", "xxxxxxxxxxxx"] {
            host.check(&format!("id {id:?}"), set("/network-interfaces/0/iface_id", json!(id)), Runs).await;
        }
        host.check("mtu", set("/network-interfaces/0/mtu", json!(1500)), Runs).await;
        for (name, expected) in [
            ("", Boots),
            ("aaaaaaaaaaaaaaa", Boots),
            ("aaaaaaaaaaaaaaaa", parsing!("NetDevice(CreateNetworkDevice(TapOpen(InvalidIfname))))))")),
            ("nosuch0", Boots),
            ("faas%d", Boots),
        ] {
            host.check(&format!("tap {name:?}"), set("/network-interfaces/0/host_dev_name", json!(name)), expected)
                .await;
        }
        let second = |id: &str| json!({ "iface_id": id, "host_dev_name": TAP, "guest_mac": "02:fa:0a:c8:00:03" });
        let busy =
            parsing!("NetDevice(CreateNetworkDevice(TapOpen(IfreqExecuteError(Os { code: 16, kind: ResourceBusy");
        host.check("two interfaces, one tap", set("/network-interfaces/1", second("eth1")), busy).await;
        host.check("two interfaces, one id", set("/network-interfaces/1", second("eth0")), Runs).await;
    });
}

#[test]
fn drives() {
    with_each(async |host| {
        let disk = host.zeros("disk", 1 << 20);
        let drive = |change: &dyn Fn(&mut Value)| {
            let mut drive =
                json!({ "drive_id": "rootfs", "path_on_host": disk, "is_root_device": true, "is_read_only": false });
            change(&mut drive);
            json!([drive])
        };
        let keyed = |key: &'static str, value: Value| drive(&|drive| drive[key] = value.clone());
        let without = |key: &'static str| drive(&|drive| drop(drive.as_object_mut().unwrap().remove(key)));
        let block = "BlockDevice(CreateBlockDevice(";
        let opened: [&'static str; 2] =
            ["Os { code: 2, kind: NotFound", "Os { code: 21, kind: IsADirectory"].map(|os| {
                let outer = "Error: RunWithoutApiError(BuildMicroVMFromJson(ParseFromJson(";
                &*format!("{outer}{block}VirtioBackend(BackingFile({os}").leak()
            });
        let place = host.files.path().display().to_string();
        for (name, drives, expected) in [
            ("writable", keyed("is_read_only", json!(false)), Runs),
            ("read-only", keyed("is_read_only", json!(true)), Runs),
            ("without is_read_only", without("is_read_only"), Runs),
            (
                "without path_on_host",
                without("path_on_host"),
                parsing!("BlockDevice(CreateBlockDevice(InvalidBlockConfig)"),
            ),
            (
                "without is_root_device",
                without("is_root_device"),
                parsing!("InvalidJson(Error(\"missing field `is_root_device`"),
            ),
            (
                "frob",
                keyed("frob", json!(1)),
                parsing!("InvalidJson(Error(\"unknown field `frob`, expected one of `drive_id`, `part"),
            ),
            ("id with -", keyed("drive_id", json!("a-b")), Runs),
            ("id with _", keyed("drive_id", json!("a_b")), Runs),
            ("id with a comma", keyed("drive_id", json!("a,b")), Runs),
            ("empty id", keyed("drive_id", json!("")), Runs),
            ("missing file", keyed("path_on_host", json!("no-such-file")), Exits(1, opened[0])),
            ("directory", keyed("path_on_host", json!(place)), Exits(1, opened[1])),
            ("0 bytes", keyed("path_on_host", json!(host.zeros("empty", 0))), Runs),
            ("100 bytes", keyed("path_on_host", json!(host.zeros("small", 100))), Runs),
            ("path with a comma", keyed("path_on_host", json!(host.zeros("a,b", 4096))), Runs),
            ("no root", keyed("is_root_device", json!(false)), Runs),
            ("cache_type", keyed("cache_type", json!("Writeback")), Runs),
            ("io_engine", keyed("io_engine", json!("Sync")), Runs),
        ] {
            host.check(name, set("/drives", drives), expected).await;
        }
        let other = host.zeros("other", 4096);
        let both = |is_root: bool| {
            let mut drives = without("");
            let second = json!({ "drive_id": "second", "path_on_host": other, "is_root_device": is_root });
            drives.as_array_mut().unwrap().push(second);
            drives
        };
        host.check(
            "two root drives",
            set("/drives", both(true)),
            parsing!("BlockDevice(RootBlockDeviceAlreadyAdded))))"),
        )
        .await;
        host.check("two drives, one root", set("/drives", both(false)), Runs).await;
    });
}
