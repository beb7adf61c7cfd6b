//! A clone: a guest that is restored from a snapshot instead of booted.

use slog::{Logger, error};
use unifaas_actors::{
    InstanceId,
    sandbox::{LaunchError, RestoreError, Route, SandboxHandle},
    spec::{Readiness, SnapshotSpec},
};

use super::{handle::VmHandle, hooks, migration, template::Monitor};
use crate::snapshot::Found;

/// Restores a clone and lets it adapt, until it can serve.
pub async fn restore(
    found: Found,
    monitor: &Monitor,
    spec: &SnapshotSpec,
    route: &Route,
    instance: InstanceId,
) -> Result<(), RestoreError> {
    let Found { state, monitor: written, .. } = found;
    match monitor {
        Monitor::Qemu(qmp) => migration::restore(qmp, &state, &written).await?,
        Monitor::Firecracker(api) => {
            let tap = route.device.as_deref().unwrap_or_default();
            api.restore(tap, &written).await?;
        }
    }
    match &spec.restored {
        Some(path) => hooks::restored(route, path, instance).await,
        None => Ok(()),
    }
}

/// Ends a clone that was not restored.
pub async fn not_restored(error: RestoreError, handle: VmHandle, log: &Logger) -> LaunchError {
    if let Err(leak) = Box::new(handle).reclaim().await {
        error!(log, "a resource has leaked"; "error" => %leak);
    }
    error.into()
}

/// Returns how readiness is detected. A clone has called back as a template.
pub fn readiness(of_spec: &Readiness, restored: bool) -> Readiness {
    match of_spec {
        Readiness::Callback if restored => Readiness::Tcp,
        other => other.clone(),
    }
}
