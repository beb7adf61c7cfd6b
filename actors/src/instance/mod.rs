//! InstanceActor: one VM, container or process, and every host resource of it.
//!
//! A thin shell around [`lifecycle`]: it turns messages, exits and alarms into events, and carries out the effects. It is
//! never restarted; its FunctionActor decides whether there is to be another one. It is the only owner of the
//! [`SandboxHandle`], so nothing of an instance can outlive it. What it tells of itself is in `snapshot.rs`.

mod lifecycle;
mod snapshot;

use std::{rc::Rc, sync::Arc};

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, SpawnHandle, WrapFuture};
use futures::future::{FutureExt, LocalBoxFuture, Shared};
use slog::{Logger, debug, error, info, o, warn};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    admission::Permit,
    function::{Endpoint, FunctionActor, FunctionHandle},
    id::{InstanceId, ReadyToken},
    messages::{BecameIdle, CalledBack, InstanceGone, InstanceLost, InstanceReady, Stop},
    notice::ExitNotice,
    output::OutputLog,
    redact::Redactor,
    sandbox::{LaunchError, LaunchOrder, Launched, RECLAIM_TIMEOUT, SandboxExit, SandboxHandle},
    services::Services,
    spec::FunctionSpec,
};
pub use lifecycle::{CallbackOutcome, StopReason};
use lifecycle::{Effect, Event, Lifecycle, Times};
pub use snapshot::InstanceSnapshot;

/// Lines of output that go into the error of a failed boot.
const TAIL_LINES: usize = 20;
/// Callbacks kept while the instance's address is not known; a guest makes one.
const EARLY_CALLBACKS: usize = 4;

/// What an instance is made from.
pub(crate) struct InstanceArgs {
    pub spec: Arc<FunctionSpec>,
    pub revision: u64,
    pub function: Arc<FunctionHandle>,
    pub parent: Addr<FunctionActor>,
    pub services: Rc<Services>,
    pub log: Logger,
}

/// One VM, container or process.
pub struct InstanceActor {
    id: InstanceId,
    token: ReadyToken,
    redactor: Redactor,
    args: InstanceArgs,
    log: Logger,
    lifecycle: Lifecycle,
    ordered_at: Instant,
    /// Of the lifecycle's beginning, to be carried out when the actor starts.
    first_effects: Vec<Effect>,
    alarm: Option<SpawnHandle>,
    probe: Option<SpawnHandle>,
    output: OutputLog,
    body: Body,
    early_callbacks: Vec<CalledBack>,
    /// Declared after the body: the host's memory is given back after the sandbox.
    permit: Rc<Permit>,
    /// Whether a callback that was not believed has been logged. There may be any number.
    distrusted: bool,
    /// Declared last, so that the parent is told after everything else has been dropped.
    notice: ExitNotice<InstanceGone>,
}

/// What there is of the instance outside the daemon.
#[derive(Default)]
enum Body {
    #[default]
    None,
    Running {
        sandbox: Box<dyn SandboxHandle>,
        exited: Exit,
        endpoint: Arc<Endpoint>,
        facts: Facts,
    },
    Reclaiming {
        facts: Facts,
    },
}

/// How it ended, once it has.
type Exit = Shared<LocalBoxFuture<'static, SandboxExit>>;

struct Facts {
    address: std::net::SocketAddr,
    pid: Option<u32>,
    engine_id: Option<String>,
    resources: Vec<String>,
}

impl InstanceActor {
    /// Orders an instance. It starts its lifecycle at once, on the arbiter of the caller.
    pub(crate) fn launch(permit: Permit, args: InstanceArgs) -> Addr<Self> {
        let id = permit.instance();
        let ordered_at = Instant::now();
        let times = Times {
            boot_timeout: args.spec.boot_timeout,
            keepalive: args.spec.keepalive,
            stop_grace: args.spec.stop_grace,
        };
        let (lifecycle, first_effects) = Lifecycle::begin(ordered_at, times);
        let log = args.log.new(o!("instance" => id.to_string()));
        let notice = ExitNotice::new(args.parent.clone().recipient(), InstanceGone { instance: id, bug: true });
        let token = ReadyToken::random();
        let redactor = Redactor::new(token, &args.spec.env);
        let actor = Self {
            id,
            token,
            output: OutputLog::new(redactor.clone()),
            redactor,
            args,
            log,
            lifecycle,
            ordered_at,
            first_effects,
            alarm: None,
            probe: None,
            body: Body::None,
            early_callbacks: Vec::new(),
            permit: Rc::new(permit),
            distrusted: false,
            notice,
        };
        actor.start()
    }

    fn on(&mut self, event: Event, ctx: &mut Context<Self>) {
        let before = self.lifecycle.epoch();
        let effects = self.lifecycle.on(event, Instant::now());
        if self.lifecycle.epoch() != before {
            debug!(self.log, "state changed"; "state" => ?self.lifecycle.state(), "epoch" => self.lifecycle.epoch());
        }
        self.carry_out(effects, ctx);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::SetAlarm { serial, at } => self.set_alarm(serial, at, ctx),
                Effect::ClearAlarm => self.clear_alarm(ctx),
                Effect::Probe => self.start_probe(ctx),
                Effect::Ready => self.become_ready(ctx),
                Effect::Lost(reason) => self.become_lost(reason, ctx),
                Effect::CheckIdle => self.check_idle(ctx),
                Effect::Terminate => self.with_sandbox(|sandbox| sandbox.terminate()),
                Effect::Kill => self.with_sandbox(|sandbox| sandbox.kill()),
                Effect::Reclaim => self.reclaim(ctx),
                Effect::Finish => {
                    self.notice.amend(|message| message.bug = false);
                    info!(self.log, "instance is gone");
                    ctx.stop();
                }
            }
        }
    }

    fn set_alarm(&mut self, serial: u64, at: Instant, ctx: &mut Context<Self>) {
        self.clear_alarm(ctx);
        let rest = at.saturating_duration_since(Instant::now());
        self.alarm = Some(ctx.run_later(rest, move |actor, ctx| {
            actor.alarm = None;
            actor.on(Event::Alarm(serial), ctx);
        }));
    }

    fn clear_alarm(&mut self, ctx: &mut Context<Self>) {
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
    }

    fn start_launch(&mut self, ctx: &mut Context<Self>) {
        let order = LaunchOrder {
            instance: self.id,
            spec: self.args.spec.clone(),
            token: self.token,
            output: self.output.clone(),
            log: self.log.clone(),
        };
        let launch = self.args.services.sandboxes.launch(order);
        ctx.spawn(launch.into_actor(self).map(|result, actor, ctx| actor.launched(result, ctx)));
    }

    fn launched(&mut self, result: Result<Launched, LaunchError>, ctx: &mut Context<Self>) {
        match result {
            Ok(launched) => {
                let callback_source = launched.callback_source;
                let exited = launched.exited.shared();
                debug!(self.log, "instance was launched"; "address" => %launched.address, "pid" => launched.pid,
                    "engine_id" => launched.engine_id.as_deref());
                self.body = Body::Running {
                    sandbox: launched.sandbox,
                    exited: exited.clone(),
                    endpoint: Arc::new(Endpoint::new(
                        self.id,
                        launched.address,
                        self.args.spec.clone(),
                        self.args.revision,
                    )),
                    facts: Facts {
                        address: launched.address,
                        pid: launched.pid,
                        engine_id: launched.engine_id,
                        resources: launched.resources,
                    },
                };
                ctx.spawn(exited.into_actor(self).map(|exit, actor, ctx| {
                    let exit = actor.redactor.redact_exit(exit);
                    debug!(actor.log, "guest ended"; "how" => %exit);
                    if let Body::Running { endpoint, .. } = &actor.body {
                        endpoint.conclude(Some(exit.clone()));
                    }
                    actor.on(Event::Exited(exit), ctx);
                }));
                self.on(Event::Launched { callback_source }, ctx);
            }
            Err(error) => self.on(Event::LaunchFailed(self.redactor.redact_error(error)), ctx),
        }
        for callback in std::mem::take(&mut self.early_callbacks) {
            self.called_back(callback, ctx);
        }
    }

    fn start_probe(&mut self, ctx: &mut Context<Self>) {
        let Body::Running { endpoint, .. } = &self.body else { return };
        let probe = self.args.services.sandboxes.probe(endpoint.address, &self.args.spec.readiness);
        self.probe = Some(ctx.spawn(probe.into_actor(self).map(|(), actor, ctx| {
            actor.probe = None;
            actor.on(Event::Probed, ctx);
        })));
    }

    fn stop_probe(&mut self, ctx: &mut Context<Self>) {
        if let Some(probe) = self.probe.take() {
            ctx.cancel_future(probe);
        }
    }

    fn become_ready(&mut self, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        self.permit.started();
        let Body::Running { endpoint, .. } = &self.body else { return };
        let now = Instant::now();
        let boot = now - self.ordered_at;
        // Set once: `Ready` is an effect of the one change to `Serving`.
        let _ = endpoint.ready.set((now, boot));
        info!(self.log, "instance is ready"; "boot_ms" => boot.as_secs_f64() * 1e3);
        self.args.function.stats().observe_boot(boot);
        self.args.function.slots().add(endpoint.clone(), now);
        self.args.parent.do_send(InstanceReady { instance: self.id });
    }

    fn become_lost(&mut self, reason: StopReason, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        match &self.body {
            Body::Running { endpoint, .. } => {
                endpoint.leave();
                self.permit.returning();
            }
            // Nobody knows how long its launch will still take.
            Body::None | Body::Reclaiming { .. } => self.permit.started(),
        }
        self.args.function.slots().remove(self.id);
        let output = match reason {
            StopReason::BootFailed(_) | StopReason::BootTimedOut => self.output.tail(TAIL_LINES),
            _ => Vec::new(),
        };
        match &reason {
            StopReason::LaunchFailed(error) => warn!(self.log, "instance could not be started"; "error" => %error),
            StopReason::BootFailed(exit) => warn!(self.log, "instance ended before it was ready"; "how" => %exit,
                "output" => output.join(" | ")),
            StopReason::BootTimedOut => {
                warn!(self.log, "instance was not ready in time"; "output" => output.join(" | "))
            }
            StopReason::Exited(exit) => warn!(self.log, "instance ended by itself"; "how" => %exit),
            reason => info!(self.log, "instance is being ended"; "why" => reason.word()),
        }
        self.args.parent.do_send(InstanceLost { instance: self.id, reason, output });
    }

    fn check_idle(&mut self, ctx: &mut Context<Self>) {
        let spec = &self.args.spec;
        let idleness = self.args.function.slots().idleness(self.id, spec.keepalive, spec.min_instances, Instant::now());
        self.on(Event::Checked(idleness), ctx);
    }

    fn with_sandbox(&mut self, act: impl FnOnce(&mut dyn SandboxHandle)) {
        if let Body::Running { sandbox, .. } = &mut self.body {
            act(sandbox.as_mut());
        }
    }

    fn reclaim(&mut self, ctx: &mut Context<Self>) {
        let Body::Running { sandbox, exited, endpoint, facts } = std::mem::take(&mut self.body) else {
            return self.on(Event::Reclaimed, ctx);
        };
        // Also one whose end was not seen: it was killed, and its network is taken away now.
        endpoint.conclude(None);
        self.body = Body::Reclaiming { facts };
        let reclaim = tokio::time::timeout(RECLAIM_TIMEOUT, sandbox.reclaim());
        ctx.spawn(reclaim.into_actor(self).map(|result, actor, ctx| {
            match &result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(actor.log, "a resource has leaked"; "error" => %error),
                Err(_) => error!(actor.log, "resources were not given back in time"; "after" => ?RECLAIM_TIMEOUT),
            }
            if !matches!(result, Ok(Ok(()))) && exited.peek().is_none() {
                actor.leave_memory_taken(exited);
            }
            actor.body = Body::None;
            actor.on(Event::Reclaimed, ctx);
        }));
    }

    /// The guest runs on, such as a process that hangs in the kernel: nobody else may be given the memory that it uses.
    ///
    /// That goes by the end of its first process. When that has been seen and a descendant hangs, nothing would tell of the
    /// descendant's end, so that what it uses is given back once its return has been given up.
    fn leave_memory_taken(&self, exited: Exit) {
        warn!(self.log, "the instance cannot be ended, and its memory stays taken until it has ended");
        let log = self.log.clone();
        self.permit.clone().keep_until(async move {
            exited.await;
            info!(log, "the instance that could not be ended has ended");
        });
    }

    fn called_back(&mut self, callback: CalledBack, ctx: &mut Context<Self>) {
        let (outcome, effects) = self.lifecycle.callback(callback.from, Instant::now());
        match outcome {
            None if self.early_callbacks.len() < EARLY_CALLBACKS => self.early_callbacks.push(callback),
            None => answer_callback(self, callback.reply, CallbackOutcome::NotExpected),
            Some(outcome) => answer_callback(self, callback.reply, outcome),
        }
        self.carry_out(effects, ctx);
    }
}

fn answer_callback(actor: &mut InstanceActor, reply: oneshot::Sender<CallbackOutcome>, outcome: CallbackOutcome) {
    if outcome != CallbackOutcome::Accepted {
        actor.args.function.stats().count_refused_callback();
        if !std::mem::replace(&mut actor.distrusted, true) {
            warn!(actor.log, "ready callback was refused"; "why" => ?outcome);
        }
    }
    // A caller that has hung up does not need the answer.
    let _ = reply.send(outcome);
}

impl Actor for InstanceActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.args.services.callbacks.expect(self.token, ctx.address().recipient());
        let effects = std::mem::take(&mut self.first_effects);
        self.carry_out(effects, ctx);
        self.start_launch(ctx);
    }
}

impl Drop for InstanceActor {
    fn drop(&mut self) {
        // Also the way out of a panic: the guest is dropped with the body, and its Drop kills it.
        self.args.services.callbacks.forget(self.token);
        if let Body::Running { endpoint, .. } = &self.body {
            endpoint.conclude(None);
        }
    }
}

impl Handler<CalledBack> for InstanceActor {
    type Result = ();

    fn handle(&mut self, callback: CalledBack, ctx: &mut Self::Context) {
        self.called_back(callback, ctx);
    }
}

impl Handler<Stop> for InstanceActor {
    type Result = ();

    fn handle(&mut self, Stop { reason, now }: Stop, ctx: &mut Self::Context) {
        self.on(Event::Stop { reason, now }, ctx);
    }
}

impl Handler<BecameIdle> for InstanceActor {
    type Result = ();

    fn handle(&mut self, _: BecameIdle, ctx: &mut Self::Context) {
        self.on(Event::BecameIdle, ctx);
    }
}
