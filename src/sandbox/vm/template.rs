//! A template: a guest that was booted to have its snapshot taken.

use std::sync::Arc;

use tokio::{task, time};
use unifaas_actors::{
    sandbox::{CaptureError, Route, SnapshotInfo},
    spec::SnapshotSpec,
};

use super::{hooks, migration, qmp::QmpClient};
use crate::snapshot::{SnapshotKey, SnapshotStore};

/// What it takes to take the snapshot of a template.
pub struct Template {
    pub function: String,
    pub spec: SnapshotSpec,
    pub key: SnapshotKey,
    pub route: Route,
    pub qmp: QmpClient,
    pub store: Arc<SnapshotStore>,
}

impl Template {
    /// Takes the snapshot of the template, which is ready and runs no more afterwards.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn capture(self) -> Result<SnapshotInfo, CaptureError> {
        let Self { function, spec, key, route, qmp, store } = self;
        let new = {
            let store = store.clone();
            blocking(move || store.begin(&key)).await?
        };
        if let Some(path) = &spec.prepare {
            hooks::prepare(&route, path).await.map_err(CaptureError)?;
        }
        time::sleep(spec.settle).await;
        let monitor = migration::save(&qmp, &new.state).await.map_err(failed)?;
        blocking(move || store.keep(new, &function, monitor)).await
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
