//! Running what any node of the site has accepted: one message at a time is taken, while the function has room.

use std::{pin::pin, rc::Rc, sync::Arc, time::Duration};

use async_nats::jetstream::message::Acker;
use tokio::{sync::oneshot, task::spawn_local, time::sleep};
use tokio_util::sync::CancellationToken;
use unifaas_actors::{
    inbox::{AskRoom, AttemptRoom, Begun, UnixMillis},
    site::{Begin, Delivered, SiteStore as _, Work},
};

use super::{Use, results::release, thread::SiteThread};
use crate::inbox::invoker::{Ended, attempt_request};

/// Between two attempts to pull from a server that does not answer.
pub const RETRY: Duration = Duration::from_secs(1);
/// A message is kept for this node so often.
const PROLONG: Duration = Duration::from_secs(10);

/// Runs the invocations of a function until that is cancelled.
pub async fn run(site: Rc<SiteThread>, function: Arc<str>, cancelled: CancellationToken) {
    while !cancelled.is_cancelled() {
        // A node without room, or without the function, takes nothing.
        let Some(room) = ask_room(&site, &function).await else { return };
        drop(room);
        let pulled = tokio::select! {
            pulled = site.queue.pull(&function) => pulled,
            () = cancelled.cancelled() => return,
        };
        site.note(Use::Running, pulled.as_ref().err().map(ToString::to_string));
        match pulled {
            Ok(Some(delivered)) => {
                let room = prolonged(&site, &delivered.receipt, ask_room(&site, &function)).await;
                let Some(room) = room else { return site.queue.0.give_back(&delivered.receipt, Duration::ZERO).await };
                let under_way = site.begin_work();
                let (site, function) = (site.clone(), function.clone());
                spawn_local(async move {
                    attempt(&site, delivered, &function, room).await;
                    drop(under_way);
                });
            }
            Ok(None) => {}
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Waits for room for an attempt. `None`: none begins any more.
async fn ask_room(site: &Rc<SiteThread>, function: &Arc<str>) -> Option<AttemptRoom> {
    let (reply, room) = oneshot::channel();
    site.node.actor.do_send(AskRoom { function: function.clone(), reply });
    room.await.ok()
}

/// Keeps a message for this node while something is awaited.
pub async fn prolonged<T>(site: &SiteThread, receipt: &Acker, awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    loop {
        tokio::select! {
            result = &mut awaited => return result,
            () = sleep(PROLONG) => site.queue.0.prolong(receipt).await,
        }
    }
}

async fn attempt(site: &Rc<SiteThread>, delivered: Delivered<Acker>, function: &Arc<str>, room: AttemptRoom) {
    let policy = site.policy(function);
    let work = match site.queue.begin(delivered, &policy, UnixMillis::now(), rand::random()).await {
        Begin::Attempt(work) => work,
        // Only an attempt needs the room.
        Begin::GivenUp(work) => {
            drop(room);
            site.node.stats.count_end(&work.call.record.state);
            return release(site, work).await;
        }
        Begin::Ended(work) => {
            drop(room);
            return release(site, work).await;
        }
        Begin::Nothing => return,
    };
    let ended = prolonged(site, &work.delivered.receipt, serve(site, &work, policy.max_response)).await;
    // The end may have to wait for the server: others go on meanwhile.
    drop(room);
    if let Some(work) = site.queue.settle(work, ended, &policy, UnixMillis::now(), rand::random()).await {
        site.node.stats.count_end(&work.call.record.state);
        release(site, work).await;
    }
}

async fn serve(site: &Rc<SiteThread>, work: &Work<Acker>, max_response: u64) -> Ended {
    let record = work.call.record.clone();
    let function = record.function.clone();
    let request = attempt_request(Begun { record, request: work.delivered.request.clone() });
    site.node.invoker.invoke(&function, request, max_response).await
}
