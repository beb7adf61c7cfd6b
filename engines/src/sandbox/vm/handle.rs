//! The handle of a running VMM, its network attachment and its files.

use std::fs::File;

use futures::future::{self, LocalBoxFuture};
use unifaas_actors::sandbox::{CaptureError, PauseError, ReclaimError, SandboxHandle, SnapshotInfo};

use super::{attachment::NetAttachment, instance_dir::InstanceDir, template::Template};
use crate::sandbox::process::ProcessHandle;

/// A running virtual machine. It is paused with its VMM, so that the guest's clock goes on.
///
/// Fields are dropped in this order: the process first, then what it uses.
pub struct VmHandle {
    pub process: Box<ProcessHandle>,
    pub attachment: NetAttachment,
    pub files: Option<InstanceDir>,
    /// Locks a root disk that the guest writes to and that is no private copy.
    pub disk: Option<File>,
    /// Its snapshot can be taken.
    pub template: Option<Template>,
}

impl SandboxHandle for VmHandle {
    fn terminate(&mut self) {
        self.process.terminate();
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn pause(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        self.process.pause()
    }

    fn resume(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        self.process.resume()
    }

    fn capture(&mut self) -> LocalBoxFuture<'static, Result<SnapshotInfo, CaptureError>> {
        match self.template.take() {
            Some(template) => Box::pin(template.capture()),
            None => Box::pin(future::ready(Err(CaptureError("it was not started as a template".to_owned())))),
        }
    }

    fn footprint(&self) -> Option<u64> {
        self.process.footprint()
    }

    fn reclaim(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        let VmHandle { process, attachment, files, disk, template } = *self;
        drop(template);
        Box::pin(async move {
            let ended = process.reclaim().await;
            drop(disk);
            // The process may still be attached.
            attachment.release(ended.is_err());
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
