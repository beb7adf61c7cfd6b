//! Controls one scripted instance.

use std::{future::pending, net::SocketAddr};

use futures::{
    channel::mpsc,
    future::{FutureExt, LocalBoxFuture},
    stream::{LocalBoxStream, StreamExt},
};
use tokio::{sync::oneshot, time::sleep};
use unifaas_actors::{
    WallTime,
    sandbox::{CaptureError, PauseError, ReclaimError, SandboxExit, SandboxHandle, SnapshotInfo},
};

use super::{
    Fake,
    holding::{HeldMemory, Holding},
};
use crate::support::script::{OnTerminate, Pausing, Reclaim, Script};

pub(super) struct FakeHandle {
    pub address: SocketAddr,
    pub script: Script,
    pub memory: HeldMemory,
    pub holding: Option<Holding>,
    /// Reports the exit of an instance that could not be ended.
    pub late_exit: Option<oneshot::Sender<SandboxExit>>,
    pub fake: Fake,
}

impl SandboxHandle for FakeHandle {
    fn terminate(&mut self) {
        self.fake.ledger.borrow_mut().terminated += 1;
        match self.script.on_terminate {
            OnTerminate::ExitsAfter(after) => {
                let (fake, address) = (self.fake.clone(), self.address);
                actix::spawn(async move {
                    sleep(after).await;
                    fake.exit(address, SandboxExit::Code(0));
                });
            }
            OnTerminate::Ignores => {}
            OnTerminate::Panics => self.fake.panic_as_planned(),
        }
    }

    fn kill(&mut self) {
        self.fake.ledger.borrow_mut().killed += 1;
        if !self.script.survives_kill {
            self.fake.exit(self.address, SandboxExit::Signal(9));
        }
    }

    fn pause(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        if self.is_paused() {
            self.fake.violation(format!("{} was paused twice", self.address));
        }
        self.fake.ledger.borrow_mut().pauses += 1;
        self.paused(true, self.script.on_pause)
    }

    fn resume(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        let may_be_late = self.fake.ledger.borrow().external_pauses.contains_key(&self.address);
        if !self.is_paused() && !may_be_late {
            self.fake.violation(format!("{} was resumed, and is not paused", self.address));
        }
        self.memory.grow();
        self.paused(false, self.script.on_resume)
    }

    fn capture(&mut self) -> LocalBoxFuture<'static, Result<SnapshotInfo, CaptureError>> {
        let (fake, how) = (self.fake.clone(), self.script.on_capture);
        async move {
            match how {
                Pausing::Works { after } => sleep(after).await,
                Pausing::Fails { after } => {
                    sleep(after).await;
                    return Err(CaptureError("as the script says".to_owned()));
                }
                Pausing::Hangs => pending().await,
            }
            let mut ledger = fake.ledger.borrow_mut();
            (ledger.snapshots, ledger.has_snapshot) = (ledger.snapshots + 1, true);
            Ok(SnapshotInfo { bytes: 1 << 20, taken: WallTime::now() })
        }
        .boxed_local()
    }

    fn footprint(&self) -> Option<u64> {
        self.script.footprint.map(|mib| mib << 20)
    }

    fn external_pauses(&mut self) -> Option<LocalBoxStream<'static, ()>> {
        let (sender, pauses) = mpsc::unbounded();
        self.fake.ledger.borrow_mut().pause_events.insert(self.address, sender);
        Some(pauses.boxed_local())
    }

    fn reclaim(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>> {
        let runs = self.fake.ledger.borrow_mut().running.remove(&self.address).is_some();
        if runs && !self.script.survives_kill {
            self.fake.violation(format!("{} was reclaimed while it ran", self.address));
        }
        let mut holding = self.holding.take();
        let not_observed = runs || self.script.exit_observed_after.is_none();
        if not_observed && !matches!(self.script.reclaim, Reclaim::After(_)) {
            let stuck = self.late_exit.take().zip(holding.take().map(Holding::detached));
            self.fake.ledger.borrow_mut().stuck.extend(stuck);
        }
        async move {
            // Released in every other case, also if this future is dropped.
            let _holding = holding;
            match self.script.reclaim {
                Reclaim::After(after) => {
                    sleep(after).await;
                    Ok(())
                }
                Reclaim::Fails => Err(ReclaimError { what: "the address".into(), why: "no reason".into() }),
                Reclaim::Never => pending().await,
            }
        }
        .boxed_local()
    }
}

impl FakeHandle {
    fn is_paused(&self) -> bool {
        self.fake.ledger.borrow().paused.contains(&self.address)
    }

    /// Pauses or resumes the instance, as the script says.
    fn paused(&self, is_paused: bool, how: Pausing) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        let (fake, address) = (self.fake.clone(), self.address);
        let shrinks = self.script.footprint.filter(|_| is_paused).map(|footprint| (self.memory.clone(), footprint));
        async move {
            match how {
                Pausing::Works { after } => sleep(after).await,
                Pausing::Fails { after } => {
                    sleep(after).await;
                    return Err(PauseError::Failed("as the script says".to_owned()));
                }
                Pausing::Hangs => pending().await,
            }
            if let Some((memory, footprint)) = shrinks {
                memory.shrink(footprint);
            }
            let mut ledger = fake.ledger.borrow_mut();
            if is_paused {
                ledger.paused.insert(address);
            } else {
                ledger.paused.remove(&address);
                ledger.external_pauses.entry(address).and_modify(|lasts| *lasts = false);
            }
            Ok(())
        }
        .boxed_local()
    }
}

impl Drop for FakeHandle {
    fn drop(&mut self) {
        // Not reclaimed: its actor has panicked.
        if self.holding.is_some() {
            self.fake.ledger.borrow_mut().dropped += 1;
            self.kill();
            // An instance that survives a kill is not waited for here either.
            self.fake.ledger.borrow_mut().running.remove(&self.address);
        }
    }
}
