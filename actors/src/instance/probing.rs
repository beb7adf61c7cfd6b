//! How an InstanceActor finds out whether its instance accepts requests, and why not.

use std::rc::Rc;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::{InstanceActor, lifecycle::Event};
use crate::sandbox::{Prober, Reached};

impl InstanceActor {
    fn prober(&self) -> Option<Rc<dyn Prober>> {
        let network = self.sandbox.running().and_then(|running| running.network.as_ref());
        network.map(|network| network.prober.clone())
    }

    /// Probes the instance until it is ready.
    pub(super) fn probe(&mut self, ctx: &mut Context<Self>) {
        let Some(prober) = self.prober() else { return };
        self.probe = Some(ctx.spawn(prober.ready().into_actor(self).map(|reached, actor, ctx| {
            actor.probed(Ok(reached), ctx);
        })));
    }

    /// Connects to the instance, which has called back.
    pub(super) fn connect(&mut self, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        let Some(prober) = self.prober() else { return };
        self.probe = Some(ctx.spawn(prober.connect().into_actor(self).map(|result, actor, ctx| {
            actor.probed(result, ctx);
        })));
    }

    fn probed(&mut self, result: Result<Reached, String>, ctx: &mut Context<Self>) {
        self.probe = None;
        match result {
            Ok(reached) => {
                self.reached = Some(reached);
                self.on(Event::Reached, ctx);
            }
            Err(why) => self.on(Event::Unreachable(format!("the instance called back, but {why}")), ctx),
        }
    }

    pub(super) fn stop_probe(&mut self, ctx: &mut Context<Self>) {
        if let Some(probe) = self.probe.take() {
            ctx.cancel_future(probe);
        }
    }

    /// Finds out why the instance is not ready.
    pub(super) fn explain(&mut self, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        let Some(prober) = self.prober() else {
            return self.on(Event::Explained("its address is not known".to_owned()), ctx);
        };
        let seen = prober.explain(self.refused_source);
        ctx.spawn(seen.into_actor(self).map(|seen, actor, ctx| actor.on(Event::Explained(seen), ctx)));
    }
}
