//! Starts and probes scripted instances, and sends their callbacks.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
};

use futures::future::{FutureExt, LocalBoxFuture};
use tokio::{sync::oneshot, time::sleep};
use unifaas_actors::{
    CallbackOutcome, InstanceId, ReadyToken,
    sandbox::{LaunchError, LaunchOrder, Launched, Sandboxes},
    spec::Readiness,
};

use super::{Fake, RunningInstance, address, handle::FakeHandle, holding::Holding};
use crate::support::script::{Call, Caller, Launch, Script};

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
            match script.launch.clone() {
                Launch::Works => Ok(fake.start(&order, script, address(number), holding)),
                Launch::Fails(error) => Err(error),
                Launch::PanicsAtOnce | Launch::Panics => fake.panic_as_planned(),
            }
        }
        .boxed_local()
    }

    fn probe(&self, address: SocketAddr, readiness: &Readiness) -> LocalBoxFuture<'static, ()> {
        let ready_after = self.script_of(address).and_then(|script| script.ready_after);
        let ready_after = ready_after.filter(|_| *readiness != Readiness::Callback);
        let fake = self.clone();
        async move {
            match ready_after {
                Some(after) => sleep(after).await,
                None => pending().await,
            }
            if fake.script_of(address).is_none() {
                pending().await
            }
        }
        .boxed_local()
    }
}

impl Fake {
    fn start(&self, order: &LaunchOrder, script: Script, address: SocketAddr, holding: Holding) -> Launched {
        order.output.write(script.prints.as_bytes());
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
        Launched {
            address,
            callback_source: address.ip(),
            sandbox: Box::new(FakeHandle {
                address,
                script,
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
