//! What exists of an instance outside the daemon.

use std::{net::SocketAddr, sync::Arc};

use futures::future::{FutureExt, LocalBoxFuture, Shared};

use crate::{
    endpoint::Endpoint,
    id::InstanceId,
    sandbox::{Launched, SandboxExit, SandboxHandle},
    spec::FunctionSpec,
};

/// Resolves when the instance has exited.
pub(super) type Exit = Shared<LocalBoxFuture<'static, SandboxExit>>;

#[derive(Default)]
pub(super) enum Sandbox {
    #[default]
    None,
    Running(Running),
    Reclaiming(SandboxInfo),
}

pub(super) struct Running {
    pub handle: Box<dyn SandboxHandle>,
    pub exited: Exit,
    pub endpoint: Arc<Endpoint>,
    pub info: SandboxInfo,
}

/// What `/debug` shows of the sandbox.
pub(super) struct SandboxInfo {
    pub address: SocketAddr,
    pub pid: Option<u32>,
    pub engine_id: Option<String>,
    pub resources: Vec<String>,
}

impl Running {
    pub fn new(instance: InstanceId, launched: Launched, spec: Arc<FunctionSpec>, revision: u64) -> Self {
        let Launched { address, sandbox, exited, pid, engine_id, resources, .. } = launched;
        Self {
            handle: sandbox,
            exited: exited.shared(),
            endpoint: Arc::new(Endpoint::new(instance, address, spec, revision)),
            info: SandboxInfo { address, pid, engine_id, resources },
        }
    }
}

impl Sandbox {
    pub fn running(&self) -> Option<&Running> {
        match self {
            Sandbox::Running(running) => Some(running),
            Sandbox::None | Sandbox::Reclaiming(_) => None,
        }
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match self {
            Sandbox::Running(running) => Some(running),
            Sandbox::None | Sandbox::Reclaiming(_) => None,
        }
    }

    pub fn info(&self) -> Option<&SandboxInfo> {
        match self {
            Sandbox::Running(running) => Some(&running.info),
            Sandbox::Reclaiming(info) => Some(info),
            Sandbox::None => None,
        }
    }
}
