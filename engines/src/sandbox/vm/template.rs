//! A template: a guest that was booted to have its snapshot taken.

use std::{path::PathBuf, sync::Arc};

use tokio::{task, time};
use unifaas_actors::{
    sandbox::{CaptureError, Route, SnapshotInfo},
    spec::SnapshotSpec,
};

use super::{firecracker_api::FirecrackerApi, hooks, migration, qmp::QmpClient};
use crate::snapshot::{Part, SnapshotKey, SnapshotStore};

/// The client of a VMM.
pub enum Monitor {
    Qemu(QmpClient),
    Firecracker(FirecrackerApi),
}

/// What it takes to take the snapshot of a template.
pub struct Template {
    pub function: String,
    pub spec: SnapshotSpec,
    pub key: SnapshotKey,
    pub route: Route,
    pub monitor: Monitor,
    /// The private root disk, which is part of the snapshot.
    pub disk: Option<PathBuf>,
    pub store: Arc<SnapshotStore>,
}

impl Template {
    /// Takes the snapshot of the template, which is ready and runs no more afterwards.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn capture(self) -> Result<SnapshotInfo, CaptureError> {
        let Self { function, spec, key, route, monitor, disk, store } = self;
        let new = {
            let store = store.clone();
            blocking(move || store.begin(&key)).await?
        };
        if let Some(path) = &spec.prepare {
            hooks::prepare(&route, path).await.map_err(CaptureError)?;
        }
        time::sleep(spec.settle).await;
        let (version, written) = match &monitor {
            Monitor::Qemu(qmp) => (migration::save(qmp, &new.state).await.map_err(failed)?, None),
            Monitor::Firecracker(api) => (api.save().await.map_err(failed)?, Some(api.directory().to_owned())),
        };
        blocking(move || {
            // The template does not run any more: its files become those of the snapshot.
            for part in [Part::State, Part::Memory] {
                written.as_ref().map_or(Ok(()), |from| new.take(part, &from.join(part.name())))?;
            }
            disk.map_or(Ok(()), |disk| new.take(Part::Disk, &disk))?;
            store.keep(new, &function, version)
        })
        .await
    }
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, CaptureError>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    task::spawn_blocking(work).await.map_err(failed)?.map_err(failed)
}

fn failed(error: impl std::error::Error) -> CaptureError {
    CaptureError(error.to_string())
}
