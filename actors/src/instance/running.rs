//! What exists of an instance outside the daemon.

use std::{net::SocketAddr, sync::Arc};

use futures::future::{FutureExt, LocalBoxFuture, Shared};

use crate::{
    endpoint::Endpoint,
    sandbox::{InstanceNetwork, Launched, SandboxExit, SandboxHandle},
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
    /// `None`: it exited before its address was known.
    pub network: Option<InstanceNetwork>,
    /// From the time on when it is ready.
    pub endpoint: Option<Arc<Endpoint>>,
    pub info: SandboxInfo,
}

/// What `/debug` shows of the sandbox.
pub(super) struct SandboxInfo {
    pub address: Option<SocketAddr>,
    pub pid: Option<u32>,
    pub engine_id: Option<String>,
    pub resources: Vec<String>,
}

impl From<Launched> for Running {
    fn from(launched: Launched) -> Self {
        let Launched { restored: _, network, sandbox, exited, pid, engine_id, resources, memory_usage: _ } = launched;
        let address = network.as_ref().map(|network| network.address);
        Self {
            handle: sandbox,
            exited: exited.shared(),
            network,
            endpoint: None,
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
