//! How an InstanceActor pauses and resumes its instance.

use actix::{ActorFutureExt, ActorStreamExt, AsyncContext, Context, Handler, WrapFuture, WrapStream};

use tokio::time::Instant;

use super::{InstanceActor, InstanceEvent, Pause, Resume, lifecycle::Event};
use crate::{endpoint::Resumption, sandbox::PauseError};

impl Handler<Pause> for InstanceActor {
    type Result = ();

    fn handle(&mut self, _: Pause, ctx: &mut Context<Self>) {
        self.on(Event::Pause, ctx);
    }
}

impl Handler<Resume> for InstanceActor {
    type Result = ();

    fn handle(&mut self, Resume { wanted_at }: Resume, ctx: &mut Context<Self>) {
        self.resume_order = Some((wanted_at, Instant::now()));
        self.on(Event::Resume, ctx);
    }
}

impl InstanceActor {
    pub(super) fn pause(&mut self, ctx: &mut Context<Self>) {
        let Some(running) = self.sandbox.running_mut() else { return };
        // A server that waits for a request on it would do so for as long as the pause.
        let unused = running.endpoint.as_ref().and_then(|endpoint| endpoint.take_connection());
        drop(unused);
        let paused = running.handle.pause();
        ctx.spawn(paused.into_actor(self).map(|result, actor, ctx| actor.on(Event::PauseEnded(result), ctx)));
    }

    pub(super) fn resume(&mut self, ctx: &mut Context<Self>) {
        let Some(running) = self.sandbox.running_mut() else { return };
        let resumed = running.handle.resume();
        ctx.spawn(resumed.into_actor(self).map(|result, actor, ctx| actor.on(Event::ResumeEnded(result), ctx)));
    }

    pub(super) fn report_paused(&self) {
        let footprint = self.sandbox.running().and_then(|running| running.handle.footprint());
        self.args.events.do_send(InstanceEvent::Paused { instance: self.id, footprint });
    }

    /// Follows the pauses of the instance by other programs.
    pub(super) fn follow_external_pauses(&mut self, ctx: &mut Context<Self>) {
        let Some(pauses) = self.sandbox.running_mut().and_then(|running| running.handle.external_pauses()) else {
            return;
        };
        let follow = |(), actor: &mut Self, ctx: &mut Context<Self>| actor.on(Event::PausedExternally, ctx);
        ctx.spawn(pauses.into_actor(self).map(follow).finish());
    }

    pub(super) fn report_paused_externally(&self) {
        self.args.events.do_send(InstanceEvent::PausedExternally(self.id));
    }

    pub(super) fn report_resumed(&mut self) {
        let resumed_at = Instant::now();
        let (wanted_at, ordered_at) = self.resume_order.take().unwrap_or((resumed_at, resumed_at));
        if let Some(endpoint) = self.endpoint() {
            endpoint.set_resumed(Resumption { wanted_at, ordered_at, resumed_at });
        }
        self.args.events.do_send(InstanceEvent::Resumed { instance: self.id, took: resumed_at - ordered_at });
    }

    pub(super) fn report_not_paused(&mut self, error: PauseError) {
        self.resume_order = None;
        self.args.events.do_send(InstanceEvent::NotPaused { instance: self.id, error });
    }
}
