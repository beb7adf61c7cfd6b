//! Starts and probes scripted instances, and sends their callbacks.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use futures::future::{FutureExt, LocalBoxFuture};
use tokio::{sync::oneshot, time::sleep};
use unifaas_actors::{
    CallbackOutcome, InstanceId, OutputStream, ReadyToken, WallTime,
    sandbox::{
        InstanceNetwork, LaunchError, LaunchOrder, Launched, Prober, Purpose, Reached, RestoreError, Sandboxes,
        SnapshotInfo,
    },
    spec::Readiness,
};

use super::{Fake, RunningInstance, address, handle::FakeHandle, holding::Holding};
use crate::support::script::{Call, Caller, Connecting, Launch, Restoring, Script};

impl Sandboxes for Fake {
    fn launch(&self, order: LaunchOrder) -> LocalBoxFuture<'static, Result<Launched, LaunchError>> {
        let (script, number) = {
            let mut ledger = self.ledger.borrow_mut();
            ledger.orders.push((order.instance, order.token));
            let default = ledger.default.clone();
            (ledger.next.pop_front().unwrap_or(default), ledger.orders.len())
        };
        let holding = Holding::new(self, &order);
        for call in &script.calls {
            actix::spawn(self.clone().call(*call, order.instance, order.token, address(number)));
        }
        let fake = self.clone();
        if matches!(script.launch, Launch::PanicsAtOnce) {
            self.panic_as_planned();
        }
        async move {
            sleep(script.launch_after).await;
            let is_kept = fake.ledger.borrow().has_snapshot;
            let restored = is_kept && order.purpose == Purpose::Serve { restore: true };
            if restored && matches!(script.restoring, Restoring::Fails) {
                return Err(RestoreError::Failed("as the script says".to_owned()).into());
            }
            match script.launch.clone() {
                Launch::Works => Ok(fake.start(&order, script, address(number), holding, restored)),
                Launch::Fails(error) => Err(error),
                Launch::PanicsAtOnce | Launch::Panics => fake.panic_as_planned(),
            }
        }
        .boxed_local()
    }

    fn snapshot(&self, _: &str) -> Option<SnapshotInfo> {
        self.has_snapshot().then(|| SnapshotInfo { bytes: 1 << 20, taken: WallTime::now() })
    }

    fn remove_snapshots(&self, _: &str) {
        self.keep_snapshot(false);
    }
}

/// Probes the instance at an address.
struct FakeProber {
    fake: Fake,
    address: SocketAddr,
    readiness: Readiness,
    restored: bool,
}

impl FakeProber {
    /// Returns what the script says, while the instance runs.
    fn says<T>(&self, of: impl FnOnce(Script) -> T) -> Option<T> {
        self.fake.script_of(self.address).map(of)
    }

    async fn reached(&self, after: Duration) -> Reached {
        sleep(after).await;
        if self.fake.script_of(self.address).is_none() {
            pending().await
        }
        self.address.into()
    }
}

impl Prober for FakeProber {
    fn ready(self: Rc<Self>) -> LocalBoxFuture<'static, Reached> {
        let ready_after = self.says(|script| match script.restoring {
            Restoring::Works if self.restored => Some(Duration::ZERO),
            Restoring::Silent if self.restored => None,
            _ => script.ready_after,
        });
        let is_probed = self.restored || self.readiness != Readiness::Callback;
        let ready_after = ready_after.flatten().filter(|_| is_probed);
        async move {
            match ready_after {
                Some(after) => self.reached(after).await,
                None => pending().await,
            }
        }
        .boxed_local()
    }

    fn connect(self: Rc<Self>) -> LocalBoxFuture<'static, Result<Reached, String>> {
        async move {
            match self.says(|script| script.connecting) {
                Some(Connecting::Works { after }) => Ok(self.reached(after).await),
                Some(Connecting::Refused { after }) => {
                    sleep(after).await;
                    Err("refused".to_owned())
                }
                Some(Connecting::Hangs) | None => pending().await,
            }
        }
        .boxed_local()
    }

    fn explain(self: Rc<Self>, refused: Option<IpAddr>) -> LocalBoxFuture<'static, String> {
        async move {
            match self.says(|script| script.explained_after) {
                Some(Some(after)) => sleep(after).await,
                Some(None) | None => pending().await,
            }
            refused.map_or_else(|| "silent".to_owned(), |source| format!("called from {source}"))
        }
        .boxed_local()
    }
}

impl Fake {
    fn start(
        &self,
        order: &LaunchOrder,
        script: Script,
        address: SocketAddr,
        holding: Holding,
        restored: bool,
    ) -> Launched {
        let mut ledger = self.ledger.borrow_mut();
        ledger.templates += usize::from(order.purpose == Purpose::Template);
        ledger.restored += usize::from(restored);
        drop(ledger);
        order.output.write(OutputStream::Out, script.prints.as_bytes());
        let (exit, exited) = oneshot::channel();
        if let Some((after, how)) = script.exit_after.clone() {
            let fake = self.clone();
            actix::spawn(async move {
                sleep(after).await;
                fake.die(address, how);
            });
        }
        let exit_observed_after = script.exit_observed_after;
        let (late_exit, exited_late) = oneshot::channel();
        let running = RunningInstance { instance: order.instance, script: script.clone(), exit };
        self.ledger.borrow_mut().running.insert(address, running);
        let readiness = order.spec.readiness.clone();
        let network = InstanceNetwork {
            address,
            callback_source: address.ip(),
            prober: Rc::new(FakeProber { fake: self.clone(), address, readiness, restored }),
        };
        Launched {
            restored,
            network: Some(network).filter(|_| !script.has_no_address),
            sandbox: Box::new(FakeHandle {
                address,
                script,
                memory: holding.memory(),
                holding: Some(holding),
                late_exit: Some(late_exit),
                fake: self.clone(),
            }),
            exited: async move {
                match (exited.await, exit_observed_after) {
                    (Ok(exit), Some(late)) => {
                        if !late.is_zero() {
                            sleep(late).await;
                        }
                        exit
                    }
                    // Never observed, or stuck.
                    _ => match exited_late.await {
                        Ok(exit) => exit,
                        Err(_) => pending().await,
                    },
                }
            }
            .boxed_local(),
            pid: None,
            engine_id: None,
            resources: vec![format!("address {}", address.ip())],
            memory_usage: None,
        }
    }

    async fn call(self, Call { after, by }: Call, instance: InstanceId, token: ReadyToken, address: SocketAddr) {
        sleep(after).await;
        let (token, from) = match by {
            Caller::Itself => (token, address.ip()),
            Caller::OtherAddress => (token, Ipv4Addr::BROADCAST.into()),
            Caller::OtherToken => (ReadyToken::random(), address.ip()),
        };
        if self.callbacks.deliver(Some(token), from).await == Some(CallbackOutcome::Accepted) {
            let first = self.ledger.borrow_mut().accepted.insert(instance);
            if !first || !matches!(by, Caller::Itself) {
                self.violation(format!("a callback for {instance} was accepted: {by:?}"));
            }
        }
    }
}
