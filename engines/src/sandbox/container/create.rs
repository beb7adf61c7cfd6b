//! Creates containers, and pulls their images if that is allowed.

use std::{net::SocketAddr, time::Duration};

use bollard::{
    Docker,
    query_parameters::{CreateContainerOptionsBuilder, CreateImageOptionsBuilder},
};
use futures::StreamExt;
use slog::info;
use unifaas_actors::{
    sandbox::{LaunchError, LaunchOrder},
    spec::{ContainerSpec, Pull},
};

use super::{engine_error::EngineError, launch::Launcher, request};

/// For the creation: the engine unpacks nothing, but it may be busy with other calls.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no container.
pub struct NotCreated {
    pub error: LaunchError,
    /// Whether the engine may still create it.
    pub maybe_created: bool,
}

impl From<LaunchError> for NotCreated {
    fn from(error: LaunchError) -> Self {
        Self { error, maybe_created: false }
    }
}

impl Launcher {
    /// Creates the container, and pulls its image if that is missing. Returns the id.
    pub async fn create(
        &self,
        name: &str,
        order: &LaunchOrder,
        container: &ContainerSpec,
        callback: Option<SocketAddr>,
    ) -> Result<String, NotCreated> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let body = request::body(order, container, callback, &self.owner);
        let create = async || {
            let (options, body) = (options.clone(), body.clone());
            let create = async |docker: Docker| docker.create_container(Some(options), body).await;
            self.engine.ask("create", CREATE_TIMEOUT, create).await
        };
        let created = match create().await {
            Err(error) if error.is_not_found() && container.pull == Pull::Missing => {
                info!(order.log, "image is being pulled"; "image" => &container.image);
                self.pull(&container.image).await?;
                create().await
            }
            created => created,
        };
        created.map(|created| created.id).map_err(|error| {
            // Without a refusal, the engine may still read the request and create it.
            let maybe_created = !matches!(error, EngineError::Refused { .. });
            let error = match error.is_not_found() {
                true => LaunchError::Missing(format!(
                    "image {:?} is not in the local engine (`pull = \"missing\"` would fetch it): {error}",
                    container.image
                )),
                false => error.into(),
            };
            NotCreated { error, maybe_created }
        })
    }

    /// Pulls an image, without a limit: the boot timeout ends the wait of the requests.
    async fn pull(&self, image: &str) -> Result<(), LaunchError> {
        let options = CreateImageOptionsBuilder::new().from_image(&tagged(image)).build();
        let docker = self.engine.client().await?;
        let mut progress = docker.create_image(Some(options), None, None);
        while let Some(step) = progress.next().await {
            step.map_err(|error| {
                let error = self.engine.explain(&error);
                LaunchError::Refused(format!("image {image:?} could not be pulled: {error}"))
            })?;
        }
        Ok(())
    }
}

/// Returns the image with a tag: without one, all tags would be pulled.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_without_tag_gets_latest() {
        for (image, expected) in [
            ("hello", "hello:latest"),
            ("hello:1", "hello:1"),
            ("localhost:5000/hello", "localhost:5000/hello:latest"),
            ("localhost:5000/hello:1", "localhost:5000/hello:1"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ] {
            assert_eq!(tagged(image), expected);
        }
    }
}
