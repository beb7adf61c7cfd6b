//! The handle of a running VMM, its network attachment and its files.

use futures::future::LocalBoxFuture;
use unifaas_actors::sandbox::{ReclaimError, SandboxHandle};

use super::{attachment::NetAttachment, instance_dir::InstanceDir};
use crate::sandbox::process::ProcessHandle;

/// A running virtual machine. Fields are dropped in this order: the process first, then what it uses.
pub struct VmHandle {
    pub process: Box<ProcessHandle>,
    pub attachment: NetAttachment,
    pub files: Option<InstanceDir>,
}

impl SandboxHandle for VmHandle {
    fn terminate(&mut self) {
        self.process.terminate();
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn reclaim(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        let VmHandle { process, attachment, files } = *self;
        Box::pin(async move {
            let ended = process.reclaim().await;
            if let (Err(_), NetAttachment::Tap(tap)) = (&ended, attachment) {
                // The process may still be attached.
                tap.discard();
            }
            let removed = match files {
                Some(files) => {
                    let what = format!("directory {}", files.path().display());
                    files.remove().await.map_err(|error| ReclaimError { what, why: error.to_string() })
                }
                None => Ok(()),
            };
            ended.and(removed)
        })
    }
}
