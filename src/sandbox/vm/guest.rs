//! The hold on a machine monitor, and on what was lent to its guest.

use futures::future::LocalBoxFuture;
use unifaas_actors::sandbox::{ReclaimError, SandboxHandle};

use super::{files::InstanceDir, wire::Wire};
use crate::sandbox::process::ProcessHandle;

/// The fields are dropped in this order: the process first, and what it uses after it.
pub struct VmGuest {
    pub process: Box<ProcessHandle>,
    pub wire: Wire,
    pub files: Option<InstanceDir>,
}

impl SandboxHandle for VmGuest {
    fn terminate(&mut self) {
        self.process.terminate();
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn reclaim(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        let VmGuest { process, wire, files } = *self;
        Box::pin(async move {
            let ended = process.reclaim().await;
            if let (Err(_), Wire::Tap(tap)) = (&ended, wire) {
                // It may still be attached.
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
