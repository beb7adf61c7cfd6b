//! What the InstanceActor reports of its instance: that it is ready, and that it is lost.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext, Context};
use slog::{info, warn};
use tokio::time::Instant;

use super::{InstanceActor, InstanceEvent};
use crate::{endpoint::Endpoint, stop_reason::StopReason, wall_time::rounded_ms};

/// Lines of output in the error of a failed boot, and in a line of the log.
const ERROR_LINES: usize = 20;
const LOG_LINES: usize = 5;
/// How long the connection on which an instance was found ready is kept for its first request. A server with one thread
/// serves nothing else meanwhile.
const FIRST_CONNECTION_TTL: Duration = Duration::from_secs(1);

impl InstanceActor {
    /// Reports that it accepts requests.
    pub(super) fn report_ready(&mut self, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        self.permit.set_started();
        let (Some(running), Some(reached)) = (self.sandbox.running_mut(), self.reached.take()) else { return };
        let boot = &self.entry.record.boot;
        boot.set_ready(Instant::now());
        let (spec, revision) = (self.args.spec.clone(), self.args.revision);
        running.info.address = Some(reached.route.address);
        let endpoint = Arc::new(Endpoint::new(self.id, reached, spec, revision, boot.clock.clone()));
        running.endpoint = Some(endpoint.clone());
        let boot_ms = rounded_ms(boot.clock.boot());
        info!(self.log, "instance is ready"; "boot_ms" => boot_ms);
        self.output.note(&format!("ready after {boot_ms:.precision$} ms", precision = usize::from(boot_ms < 10.0)));
        let unused = endpoint.clone();
        ctx.run_later(FIRST_CONNECTION_TTL, move |_, _| drop(unused.take_connection()));
        self.args.events.do_send(InstanceEvent::Ready(endpoint));
        self.args.services.history.boots.add(boot.clone());
    }

    /// Reports that it accepts no more requests, and logs why.
    pub(super) fn report_lost(&mut self, reason: StopReason, ctx: &mut Context<Self>) {
        self.stop_probe(ctx);
        match self.sandbox.running() {
            Some(running) => {
                // Before the function knows: from here on the slot table offers no slot of it.
                if let Some(endpoint) = &running.endpoint {
                    endpoint.set_draining();
                }
                self.permit.set_stopping();
            }
            // A launch that is still under way may take any time, so its memory is not about to be released.
            None => self.permit.set_started(),
        }
        let output = match reason {
            StopReason::BootFailed(_)
            | StopReason::BootTimedOut(_)
            | StopReason::Unreachable(_)
            | StopReason::Exited(_) => self.output.texts(ERROR_LINES),
            _ => Vec::new(),
        };
        let last_words = || self.output.summary(LOG_LINES);
        match &reason {
            StopReason::LaunchFailed(error) => warn!(self.log, "instance could not be started"; "error" => %error),
            StopReason::BootFailed(exit) => {
                warn!(self.log, "instance ended before it was ready"; "how" => %exit, "output" => last_words())
            }
            StopReason::BootTimedOut(why) => {
                warn!(self.log, "instance was not ready in time"; "why" => why, "output" => last_words())
            }
            StopReason::Unreachable(why) => {
                warn!(self.log, "instance accepts no connection"; "why" => why, "output" => last_words())
            }
            StopReason::Exited(exit) => {
                warn!(self.log, "instance ended by itself"; "how" => %exit, "output" => last_words())
            }
            StopReason::ResumeFailed(why) => {
                warn!(self.log, "instance could not be resumed"; "why" => why, "output" => last_words())
            }
            StopReason::RestoreFailed(why) => {
                warn!(self.log, "instance could not be restored"; "why" => %why, "output" => last_words())
            }
            StopReason::CaptureFailed(why) => {
                warn!(self.log, "snapshot could not be taken"; "why" => why, "output" => last_words())
            }
            StopReason::Captured(snapshot) => info!(self.log, "snapshot was taken"; "bytes" => snapshot.bytes),
            StopReason::RequestFailed => {
                warn!(self.log, "instance is being ended"; "why" => reason.code(), "output" => last_words())
            }
            reason => info!(self.log, "instance is being ended"; "why" => reason.code()),
        }
        match &reason {
            StopReason::LaunchFailed(error) => self.output.note(&format!("not started: {error}")),
            // The exit is noted when it is observed.
            StopReason::BootFailed(_) | StopReason::Exited(_) => {}
            reason => self.output.note(&format!("stopping: {}", reason.code())),
        }
        self.entry.cause = reason.clone();
        let boot = &self.entry.record.boot;
        if boot.set_lost(&reason) {
            self.args.services.history.boots.add(boot.clone());
        }
        self.args.events.do_send(InstanceEvent::Lost { instance: self.id, reason, output });
    }
}
