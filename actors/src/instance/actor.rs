//! The InstanceActor: feeds the lifecycle with events and carries out its effects.

use std::{rc::Rc, sync::Arc};

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Recipient, WrapFuture};
use slog::{debug, error, info, o, warn};
use tokio::time::{Instant, timeout};

use super::{
    InstanceActor, InstanceArgs, InstanceEvent, InstanceGone, Stop,
    lifecycle::{Effect, Event, Lifecycle, Times},
    running::{Exit, Running, Sandbox},
};
use crate::{
    admission::Permit,
    boot::{BootClock, BootRecord, Phase},
    callback::{CallbackOutcome, CalledBack},
    endpoint::Endpoint,
    history::{InstanceRecord, LiveInstance},
    id::ReadyToken,
    notice::ExitNotice,
    output::OutputLog,
    redact::Redactor,
    sandbox::{LaunchError, LaunchOrder, Launched, RECLAIM_TIMEOUT, SandboxExit},
    stop_reason::StopReason,
};

/// How an instance ended that an operator has stopped, for the requests that it served.
const STOPPED: &str = "stopped by an operator";
/// The same for an instance that had to end: the function was removed, or the daemon ends.
const DRAINED: &str = "its time to finish was over, as its function was removed or the daemon ends";
/// Callbacks kept until the instance's address is known. An honest instance sends one.
const MAX_EARLY_CALLBACKS: usize = 4;

impl InstanceActor {
    /// Starts an instance and its actor, on the arbiter of the caller.
    pub(crate) fn launch(
        permit: Permit,
        args: InstanceArgs,
        parent: Recipient<InstanceGone>,
    ) -> (Addr<Self>, Arc<InstanceRecord>) {
        let id = permit.instance();
        let ordered_at = Instant::now();
        let (boot_timeout, stop_grace) = (args.spec.boot_timeout, args.spec.stop_grace);
        let times = Times { boot_timeout, stop_grace, capture_timeout: args.capture_timeout() };
        let (lifecycle, first_effects) = Lifecycle::begin(ordered_at, times);
        let log = args.log.new(o!("instance" => id.to_string()));
        let token = ReadyToken::random();
        let redactor = Redactor::new(token, &args.spec.env);
        let feed = args.services.history.feed.clone();
        let clock = BootClock::new(args.wanted_at);
        clock.mark_at(Phase::Admitted, ordered_at);
        let output = OutputLog::of(args.function.clone(), id, redactor.clone(), feed, clock.clone());
        let (function, kind) = (args.function.clone(), args.spec.sandbox.kind());
        let boot = BootRecord::new(function, kind, args.revision, id, args.cause, clock).with_evicted(permit.evicted());
        let record = Arc::new(InstanceRecord::new(boot, output.clone(), ordered_at, args.spec.memory()));
        let actor = Self {
            id,
            token,
            output,
            entry: LiveInstance::enter(args.services.history.clone(), record.clone()),
            redactor,
            args,
            log,
            lifecycle,
            first_effects,
            alarm: None,
            probe: None,
            reached: None,
            resume_order: None,
            sandbox: Sandbox::None,
            early_callbacks: Vec::new(),
            permit: Rc::new(permit),
            refused_source: None,
            logged_refusal: false,
            notice: ExitNotice::new(parent, InstanceGone { instance: id, bug: true }),
        };
        (actor.start(), record)
    }

    pub(super) fn on(&mut self, event: Event, ctx: &mut Context<Self>) {
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
                Effect::Probe => self.probe(ctx),
                Effect::Connect => self.connect(ctx),
                Effect::Explain => self.explain(ctx),
                Effect::Ready => self.report_ready(ctx),
                Effect::Capture => self.capture(ctx),
                Effect::Pause => self.pause(ctx),
                Effect::Resume => self.resume(ctx),
                Effect::Paused => self.report_paused(),
                Effect::PausedExternally => self.report_paused_externally(),
                Effect::Resumed => self.report_resumed(),
                Effect::NotPaused(error) => self.report_not_paused(error),
                Effect::Lost(reason) => self.report_lost(reason, ctx),
                Effect::Terminate => self.with_running(|running| running.handle.terminate()),
                Effect::Kill => self.with_running(|running| running.handle.kill()),
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
        let delay = at.saturating_duration_since(Instant::now());
        self.alarm = Some(ctx.run_later(delay, move |actor, ctx| {
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
            purpose: self.args.purpose,
            token: self.token,
            output: self.output.clone(),
            clock: self.entry.record.boot.clock.clone(),
            log: self.log.clone(),
        };
        let launch = self.args.services.sandboxes.launch(order);
        ctx.spawn(launch.into_actor(self).map(|result, actor, ctx| actor.launched(result, ctx)));
    }

    fn launched(&mut self, result: Result<Launched, LaunchError>, ctx: &mut Context<Self>) {
        match result {
            Ok(launched) => {
                let network = launched.network.as_ref();
                let callback_source = network.map(|network| network.callback_source);
                debug!(self.log, "instance was launched"; "address" => ?network.map(|network| network.address),
                    "pid" => launched.pid, "engine_id" => launched.engine_id.as_deref());
                if let Some(file) = launched.memory_usage.clone() {
                    self.entry.record.set_memory_usage(file);
                }
                let restored = launched.restored;
                if restored {
                    self.entry.record.boot.clock.set_restored();
                }
                let running = Running::from(launched);
                let exited = running.exited.clone();
                self.sandbox = Sandbox::Running(running);
                self.follow_external_pauses(ctx);
                ctx.spawn(exited.into_actor(self).map(|exit, actor, ctx| {
                    let exit = exit.redacted(&actor.redactor);
                    debug!(actor.log, "instance exited"; "how" => %exit);
                    actor.entry.exit = Some(exit.clone());
                    if let Some(endpoint) = actor.endpoint() {
                        // The exit status does not say who ended it.
                        let told = match actor.entry.cause {
                            StopReason::Stopped => SandboxExit::Other(STOPPED.to_owned()),
                            StopReason::Drained => SandboxExit::Other(DRAINED.to_owned()),
                            _ => exit.clone(),
                        };
                        endpoint.set_ended(Some(told));
                    }
                    let ended = format!("ended: {exit}");
                    actor.on(Event::Exited(exit), ctx);
                    actor.output.note(&ended);
                }));
                self.on(Event::Launched { callback_source, restored }, ctx);
            }
            Err(error) => self.on(Event::LaunchFailed(error.redacted(&self.redactor)), ctx),
        }
        for callback in std::mem::take(&mut self.early_callbacks) {
            self.called_back(callback, ctx);
        }
    }

    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.sandbox.running().and_then(|running| running.endpoint.as_ref())
    }

    fn with_running(&mut self, act: impl FnOnce(&mut Running)) {
        if let Some(running) = self.sandbox.running_mut() {
            act(running);
        }
    }

    fn reclaim(&mut self, ctx: &mut Context<Self>) {
        let Sandbox::Running(Running { handle, exited, endpoint, info, .. }) = std::mem::take(&mut self.sandbox) else {
            return self.on(Event::Reclaimed, ctx);
        };
        // Also if the exit was not observed: the instance was killed, and its network is removed now.
        if let Some(endpoint) = endpoint {
            endpoint.set_ended(None);
        }
        self.sandbox = Sandbox::Reclaiming(info);
        let reclaim = timeout(RECLAIM_TIMEOUT, handle.reclaim());
        ctx.spawn(reclaim.into_actor(self).map(|result, actor, ctx| {
            match &result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(actor.log, "a resource has leaked"; "error" => %error),
                Err(_) => error!(actor.log, "resources were not given back in time"; "after" => ?RECLAIM_TIMEOUT),
            }
            if !matches!(result, Ok(Ok(()))) && exited.peek().is_none() {
                actor.keep_memory_until(exited);
            }
            actor.sandbox = Sandbox::None;
            actor.on(Event::Reclaimed, ctx);
        }));
    }

    /// Keeps the memory of an instance that runs on, such as a process that hangs in the kernel.
    ///
    /// Only the exit of its first process is known. If that has exited and a descendant hangs, the memory is released when
    /// reclaiming is given up.
    fn keep_memory_until(&self, exited: Exit) {
        warn!(self.log, "the instance cannot be ended, and its memory stays taken until it has ended");
        let log = self.log.clone();
        self.permit.clone().keep_until(async move {
            exited.await;
            info!(log, "the instance that could not be ended has ended");
        });
    }

    fn called_back(&mut self, callback: CalledBack, ctx: &mut Context<Self>) {
        let (outcome, effects) = self.lifecycle.callback(callback.from, Instant::now());
        if outcome == Some(CallbackOutcome::WrongSource) {
            self.refused_source = Some(callback.from);
        }
        match outcome {
            None if self.early_callbacks.len() < MAX_EARLY_CALLBACKS => self.early_callbacks.push(callback),
            None => self.answer(callback, CallbackOutcome::NotExpected),
            Some(outcome) => self.answer(callback, outcome),
        }
        self.carry_out(effects, ctx);
    }

    fn answer(&mut self, callback: CalledBack, outcome: CallbackOutcome) {
        if outcome != CallbackOutcome::Accepted {
            self.args.events.do_send(InstanceEvent::CallbackRefused);
            if !std::mem::replace(&mut self.logged_refusal, true) {
                warn!(self.log, "ready callback was refused"; "why" => ?outcome);
            }
        }
        // The caller may have disconnected.
        let _ = callback.reply.send(outcome);
    }
}

impl Actor for InstanceActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.args.services.callbacks.register(self.token, ctx.address().recipient());
        let effects = std::mem::take(&mut self.first_effects);
        self.carry_out(effects, ctx);
        self.start_launch(ctx);
    }
}

impl Drop for InstanceActor {
    fn drop(&mut self) {
        // Also after a panic: the sandbox handle is dropped with the actor, and its Drop kills the instance.
        self.args.services.callbacks.remove(self.token);
        if let Some(endpoint) = self.endpoint() {
            endpoint.set_ended(None);
        }
        self.args.stats.count_end(&self.entry.cause, self.entry.exit.as_ref());
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
