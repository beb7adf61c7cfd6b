//! The InstanceActor: feeds the lifecycle with events and carries out its effects.

use std::rc::Rc;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Recipient, WrapFuture};
use slog::{debug, error, info, o, warn};
use tokio::time::{Instant, timeout};

use super::{
    InstanceActor, InstanceArgs, InstanceEvent, InstanceGone, Stop,
    lifecycle::{Effect, Event, Lifecycle, Times},
    running::{Exit, Running, Sandbox},
    snapshot::TAIL_LINES,
};
use crate::{
    admission::Permit,
    callback::{CallbackOutcome, CalledBack},
    id::ReadyToken,
    notice::ExitNotice,
    output::OutputLog,
    redact::Redactor,
    sandbox::{LaunchError, LaunchOrder, Launched, RECLAIM_TIMEOUT},
    stop_reason::StopReason,
};

/// Callbacks kept until the instance's address is known. An honest instance sends one.
const MAX_EARLY_CALLBACKS: usize = 4;

impl InstanceActor {
    /// Starts an instance and its actor, on the arbiter of the caller.
    pub(crate) fn launch(permit: Permit, args: InstanceArgs, parent: Recipient<InstanceGone>) -> Addr<Self> {
        let id = permit.instance();
        let ordered_at = Instant::now();
        let times = Times { boot_timeout: args.spec.boot_timeout, stop_grace: args.spec.stop_grace };
        let (lifecycle, first_effects) = Lifecycle::begin(ordered_at, times);
        let log = args.log.new(o!("instance" => id.to_string()));
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
            sandbox: Sandbox::None,
            early_callbacks: Vec::new(),
            permit: Rc::new(permit),
            logged_refusal: false,
            notice: ExitNotice::new(parent, InstanceGone { instance: id, bug: true }),
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
                Effect::Ready => self.report_ready(ctx),
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
                debug!(self.log, "instance was launched"; "address" => %launched.address, "pid" => launched.pid,
                    "engine_id" => launched.engine_id.as_deref());
                let running = Running::new(self.id, launched, self.args.spec.clone(), self.args.revision);
                let exited = running.exited.clone();
                self.sandbox = Sandbox::Running(running);
                ctx.spawn(exited.into_actor(self).map(|exit, actor, ctx| {
                    let exit = exit.redacted(&actor.redactor);
                    debug!(actor.log, "instance exited"; "how" => %exit);
                    if let Some(running) = actor.sandbox.running() {
                        running.endpoint.set_ended(Some(exit.clone()));
                    }
                    actor.on(Event::Exited(exit), ctx);
                }));
                self.on(Event::Launched { callback_source }, ctx);
            }
            Err(error) => self.on(Event::LaunchFailed(error.redacted(&self.redactor)), ctx),
        }
        for callback in std::mem::take(&mut self.early_callbacks) {
            self.called_back(callback, ctx);
        }
    }

    fn start_probe(&mut self, ctx: &mut Context<Self>) {
        let Some(running) = self.sandbox.running() else { return };
        let probe = self.args.services.sandboxes.probe(running.endpoint.address, &self.args.spec.readiness);
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

    fn report_ready(&mut self, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        self.permit.set_started();
        let Some(running) = self.sandbox.running() else { return };
        let now = Instant::now();
        let boot = now - self.ordered_at;
        running.endpoint.set_ready(now, boot);
        info!(self.log, "instance is ready"; "boot_ms" => boot.as_secs_f64() * 1e3);
        self.args.events.do_send(InstanceEvent::Ready(running.endpoint.clone()));
    }

    fn report_lost(&mut self, reason: StopReason, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        match self.sandbox.running() {
            Some(running) => {
                // Before the function knows: from here on the slot table offers no slot of it.
                running.endpoint.set_draining();
                self.permit.set_stopping();
            }
            // A launch that is still under way may take any time, so its memory is not about to be released.
            None => self.permit.set_started(),
        }
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
            reason => info!(self.log, "instance is being ended"; "why" => reason.as_str()),
        }
        self.args.events.do_send(InstanceEvent::Lost { instance: self.id, reason, output });
    }

    fn with_running(&mut self, act: impl FnOnce(&mut Running)) {
        if let Some(running) = self.sandbox.running_mut() {
            act(running);
        }
    }

    fn reclaim(&mut self, ctx: &mut Context<Self>) {
        let Sandbox::Running(Running { handle, exited, endpoint, info }) = std::mem::take(&mut self.sandbox) else {
            return self.on(Event::Reclaimed, ctx);
        };
        // Also if the exit was not observed: the instance was killed, and its network is removed now.
        endpoint.set_ended(None);
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
        if let Some(running) = self.sandbox.running() {
            running.endpoint.set_ended(None);
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
