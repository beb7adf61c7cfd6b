//! Notices the end of an instance that does not say so on its connections: a process that ends has them closed by the
//! kernel, a virtual machine or a container whose network is taken away just falls silent.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::futures::OwnedNotified;
use unifaas_actors::Endpoint;

use crate::http::alarm::{Alarm, Standstill};

/// How long the last that an instance sent may be under way once it has ended.
const LAST_BYTES: Duration = Duration::from_millis(200);

/// The watch over one connection. It is kept along with it: to begin one for each request costs several times as much as to
/// look at it.
#[derive(Debug)]
pub struct Vigil {
    endpoint: Arc<Endpoint>,
    ends: Pin<Box<OwnedNotified>>,
    /// Since it has ended.
    silence: Standstill,
}

impl Vigil {
    pub fn over(endpoint: &Arc<Endpoint>) -> Self {
        Self { endpoint: endpoint.clone(), ends: Box::pin(endpoint.ends()), silence: Standstill::default() }
    }

    /// Ready once the instance is no more.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.endpoint.has_ended() { Poll::Ready(()) } else { self.ends.as_mut().poll(cx) }
    }

    /// Ready once nothing has come of an instance that is no more for so long that nothing will. `moved`: a count of what did.
    pub fn poll_silent(&mut self, cx: &mut Context<'_>, moved: u64, alarm: &mut Alarm) -> Poll<()> {
        alarm.poll_at(cx, self.silence.since(moved) + LAST_BYTES)
    }
}
