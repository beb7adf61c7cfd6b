//! `[vm] snapshot`: whether clones of a template are restored instead of booted, and what is requested before and after.

use std::time::Duration;

use serde::Serialize;
use toml::de::DeValue;

use super::{DiskType, Hypervisor, Readiness, VmNetwork, VmSpec, function::seconds, keys, raw::Section};

/// How long a template is left alone by default between its readiness and its snapshot.
const DEFAULT_SETTLE: Duration = Duration::from_millis(100);

/// `[vm] snapshot`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotSpec {
    /// The path of a POST to the template before its snapshot is taken.
    pub prepare: Option<String>,
    /// The path of a POST to each clone before its first request.
    pub restored: Option<String>,
    /// How long the template is left alone before its snapshot is taken.
    #[serde(serialize_with = "seconds")]
    pub settle: Duration,
}

impl Default for SnapshotSpec {
    fn default() -> Self {
        Self { prepare: None, restored: None, settle: DEFAULT_SETTLE }
    }
}

/// Reads the key of `[vm]`: a switch or a table.
pub(super) fn read(vm: &Section<'_>) -> Option<SnapshotSpec> {
    match vm.value("snapshot")? {
        DeValue::Boolean(is_on) => return is_on.then(SnapshotSpec::default),
        DeValue::Table(_) => {}
        other => return vm.mismatch("snapshot", "true, false or a table", other),
    }
    let table = vm.section("snapshot")?;
    table.only(&keys::SNAPSHOT);
    Some(SnapshotSpec {
        prepare: table.request_path("prepare"),
        restored: table.request_path("restored"),
        settle: table.seconds("settle").unwrap_or(DEFAULT_SETTLE),
    })
}

/// Returns why no snapshot of such a guest can be taken and cloned.
pub(super) fn obstacle(vm: &VmSpec, readiness: &Readiness) -> Option<&'static str> {
    if vm.network == VmNetwork::Tap && vm.egress {
        return Some(
            "clones have one address, and reach nothing from their taps: remove egress, or set network = \"user\"",
        );
    }
    if vm.network == VmNetwork::User && *readiness == Readiness::Tcp {
        return Some(
            "QEMU accepts connections before the guest is ready: set readiness to \"callback\" or { http = … }",
        );
    }
    match &vm.hypervisor {
        Hypervisor::Firecracker { copy_rootfs: false, read_only: false, .. } if vm.image.is_some() => {
            Some("clones would write to one root disk: remove copy-rootfs, or set read-only = true in vm.hypervisor")
        }
        Hypervisor::Qemu { qemu, .. } | Hypervisor::Microvm { qemu, .. } if qemu.disk_type == DiskType::NineP => {
            Some("a directory shared over 9p is no part of it: use disk-type = \"block\"")
        }
        _ => None,
    }
}
