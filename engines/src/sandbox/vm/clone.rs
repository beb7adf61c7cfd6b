//! A clone: a guest that is restored from a snapshot instead of booted.

use slog::{Logger, error};
use unifaas_actors::{
    InstanceId,
    sandbox::{LaunchError, Route, SandboxHandle},
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
) -> Result<(), String> {
    let Found { state, monitor: written, .. } = found;
    match monitor {
        Monitor::Qemu(qmp) => migration::restore(qmp, &state, &written).await.map_err(|error| error.to_string())?,
        Monitor::Firecracker(api) => {
            let tap = route.device.as_deref().unwrap_or_default();
            api.restore(tap, &written).await.map_err(|error| error.to_string())?;
        }
    }
    match &spec.restored {
        Some(path) => hooks::restored(route, path, instance).await,
        None => Ok(()),
    }
}

/// Ends a clone that was not restored.
pub async fn not_restored(why: String, handle: VmHandle, log: &Logger) -> LaunchError {
    if let Err(error) = Box::new(handle).reclaim().await {
        error!(log, "a resource has leaked"; "error" => %error);
    }
    LaunchError::NotRestored(why)
}

/// Returns how readiness is detected. A clone has called back as a template.
pub fn readiness(of_spec: &Readiness, restored: bool) -> Readiness {
    match of_spec {
        Readiness::Callback if restored => Readiness::Tcp,
        other => other.clone(),
    }
}
