//! How an InstanceActor has the snapshot of a template taken.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::info;
use tokio::time::{Instant, timeout};

use super::{InstanceActor, InstanceArgs, lifecycle::Event};
use crate::{sandbox::Purpose, wall_time::rounded_ms};

/// How long a snapshot may take, besides the time for which the template is left alone. The sandbox gives up earlier.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the exit of the template is awaited when its snapshot could not be taken: it says more than a lost connection.
const EXIT_WAIT: Duration = Duration::from_millis(100);

impl InstanceArgs {
    /// Returns how long the snapshot of the instance may take, if it is a template.
    pub(super) fn capture_timeout(&self) -> Option<Duration> {
        let settle = self.spec.snapshot().map_or(Duration::ZERO, |snapshot| snapshot.settle);
        (self.purpose == Purpose::Template).then_some(settle + CAPTURE_TIMEOUT)
    }
}

impl InstanceActor {
    pub(super) fn capture(&mut self, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        self.permit.set_started();
        // A connection would be part of the snapshot.
        self.reached = None;
        let boot = &self.entry.record.boot;
        boot.set_ready(Instant::now());
        self.args.services.history.boots.add(boot.clone());
        info!(self.log, "template is ready"; "boot_ms" => rounded_ms(boot.clock.boot()));
        let Some(running) = self.sandbox.running_mut() else { return };
        let (captured, exited) = (running.handle.capture(), running.exited.clone());
        let captured = async move {
            let result = captured.await;
            if result.is_err() {
                // Its own event follows.
                let _ = timeout(EXIT_WAIT, exited).await;
            }
            result
        };
        ctx.spawn(captured.into_actor(self).map(|result, actor, ctx| {
            actor.on(Event::CaptureEnded(result), ctx);
        }));
    }
}
