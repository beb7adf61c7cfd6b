//! The body of a live response: kept lines first, then what happens, until the reader leaves or the daemon drains.
//!
//! Lines come through a bounded queue of the response's own. All else is looked at twice a second, so nothing of it is held
//! here. Responses that have much to send write in turns (`turn.rs` of the crate).

use std::{convert::Infallible, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use bytes::Bytes;
use futures::{future::LocalBoxFuture, stream::unfold};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use unifaas_actors::{FeedItem, Follower, LineBatch, LineFilter};

use super::{
    Pages,
    access::{AdminAccess, reject},
    format::Format,
    kept::{KeptLines, Start},
    stream_limit::StreamPermit,
};
use crate::{
    failure::{Failure, Rejection},
    http::{ClientWatch, client_of},
    shared::Shared,
};

/// Between two looks at what has changed.
const TICK: Duration = Duration::from_millis(500);
/// So long after the last event a comment is sent, so that both ends notice when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
const COMMENT: &str = ":\n\n";
/// Bytes that are written at once.
const SLICE: usize = 8 << 10;
/// Behind which event a reader goes on after an interruption.
const LAST_EVENT_ID: &str = "last-event-id";

/// What a live response sends.
pub struct Wanted {
    pub format: Format,
    pub lines: LineFilter,
    /// Kept lines that are sent first, unless the reader goes on after an interruption.
    pub tail: usize,
    /// Behind which event lines go on. `None`: behind that of the request.
    pub behind: Option<u64>,
    pub updates: Option<Box<dyn Updates>>,
}

/// What a stream sends besides lines, and how much of it was sent.
pub trait Updates {
    /// Returns the first events. Records follow behind the event `behind`.
    fn first<'a>(&'a mut self, shared: &'a Shared, pages: &'a Pages, behind: u64) -> LocalBoxFuture<'a, String>;

    /// Returns what has changed since.
    fn next<'a>(&'a mut self, shared: &'a Shared, pages: &'a Pages) -> LocalBoxFuture<'a, String>;

    /// Returns records since then, each with its sequence number.
    fn records(&mut self, shared: &Shared) -> Vec<(u64, String)>;
}

struct Live {
    shared: Arc<Shared>,
    pages: Arc<Pages>,
    format: Format,
    follower: Follower,
    updates: Option<Box<dyn Updates>>,
    watch: Option<ClientWatch>,
    /// What is sent first.
    first: String,
    tick: Interval,
    /// There was more to write than fits in a slice.
    is_flooded: bool,
    /// What did not fit.
    rest: Option<Lines>,
    comment_at: Instant,
    _permit: StreamPermit,
}

/// Returns the sequence number of the last event that an event source has, if it goes on after an interruption.
pub fn last_event(request: &HttpRequest) -> Option<u64> {
    request.headers().get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok()
}

/// Begins a live response, unless there are too many.
pub async fn respond(
    access: AdminAccess,
    request: &HttpRequest,
    payload: web::Payload,
    shared: Arc<Shared>,
    pages: Arc<Pages>,
    wanted: Wanted,
) -> Result<HttpResponse, Rejection> {
    if shared.is_draining() {
        return Err(reject(request, Failure::Draining));
    }
    let Some(permit) = pages.streams.admit(access.reader) else {
        return Err(reject(request, Failure::TooManyReaders));
    };
    let Wanted { format, lines, tail, behind, mut updates } = wanted;
    let last = last_event(request).or(behind);
    let start = last.map_or(Start::Tail(tail), Start::Behind);
    let begun = shared.history.feed.last_sequence();
    // Before the kept lines are read, so that none is missed in between.
    let mut follower = shared.history.feed.follow(lines.clone());
    let kept = KeptLines::read(&shared.history, &lines, start).await;
    let (mut first, mut records) = (String::new(), Vec::new());
    if let Some(updates) = &mut updates {
        first = updates.first(&shared, &pages, last.unwrap_or(begun)).await;
        records = updates.records(&shared);
    }
    first += &kept.written(format, records);
    while let Some(batch) = follower.try_next_lines() {
        for line in batch.lines.iter().filter(|line| !kept.includes(batch.instance, line)) {
            format.put_line(&mut first, &batch.function, batch.instance, line);
        }
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (watch, now) =
        (client_of(request).map(|client| ClientWatch::new(client, Some(payload.into_inner()))), Instant::now());
    let live = Live {
        shared,
        pages,
        format,
        follower,
        updates,
        watch,
        first,
        tick,
        is_flooded: false,
        rest: None,
        comment_at: now + HEARTBEAT,
        _permit: permit,
    };
    let body =
        unfold(live, |mut live| async move { live.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), live)) });
    let mut response = HttpResponse::Ok();
    response.content_type(format.content_type()).insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.streaming(body))
}

enum Event {
    Lines(Lines),
    Gap(u64),
    Tick,
    CommentDue,
    Ended,
}

/// Lines of a batch, from a position on.
type Lines = (Arc<LineBatch>, usize);

impl Live {
    /// Returns the next bytes. `None`: the response ends.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first).into());
        }
        loop {
            let mut out = String::new();
            match self.event().await {
                Event::Ended => return None,
                Event::Lines(lines) if self.is_flooded => out = self.write_in_turn(lines).await,
                Event::Lines(lines) => self.write(lines, &mut out),
                Event::Gap(lost) => self.format.put_gap(&mut out, Some(lost)),
                Event::Tick => {
                    self.write_records(&mut out);
                    if let Some(updates) = &mut self.updates {
                        out += &updates.next(&self.shared, &self.pages).await;
                    }
                }
                Event::CommentDue => out.push_str(COMMENT),
            }
            if !out.is_empty() {
                self.comment_at = Instant::now() + HEARTBEAT;
                return Some(out.into());
            }
        }
    }

    async fn event(&mut self) -> Event {
        let Self { follower, rest, tick, watch, comment_at, .. } = self;
        let left = poll_fn(|cx| match watch {
            Some(watch) => watch.poll_left(cx),
            None => Poll::Pending,
        });
        let item = async {
            if let Some(rest) = rest.take() {
                return Event::Lines(rest);
            }
            match follower.next().await {
                FeedItem::Lines(batch) => Event::Lines((batch, 0)),
                FeedItem::Gap(lost) => Event::Gap(lost),
                FeedItem::Closed => Event::Ended,
            }
        };
        tokio::select! {
            biased;
            () = left => Event::Ended,
            _ = tick.tick(), if self.updates.is_some() => Event::Tick,
            event = item => event,
            () = sleep_until(*comment_at), if self.format == Format::EventStream => Event::CommentDue,
        }
    }

    /// Does the same as [`write`](Self::write) when it is this response's turn. All of them together pause most of the time.
    async fn write_in_turn(&mut self, lines: Lines) -> String {
        let pages = self.pages.clone();
        let turn = pages.turns.next().await;
        let mut out = String::new();
        self.write(lines, &mut out);
        turn.pause().await;
        out
    }

    /// Writes lines and those that follow them, up to the size of a slice. What has happened before is written first, so
    /// that a reader that goes on behind the last line has missed nothing.
    fn write(&mut self, (mut batch, mut from): Lines, out: &mut String) {
        self.write_records(out);
        loop {
            while let Some(line) = batch.lines.get(from) {
                self.format.put_line(out, &batch.function, batch.instance, line);
                from += 1;
                if out.len() >= SLICE {
                    self.is_flooded = true;
                    self.rest = (from < batch.lines.len()).then_some((batch, from));
                    return;
                }
            }
            match self.follower.try_next_lines() {
                Some(next) => (batch, from) = (next, 0),
                None => break,
            }
        }
        self.is_flooded = false;
    }

    fn write_records(&mut self, out: &mut String) {
        if let Some(updates) = &mut self.updates {
            updates.records(&self.shared).iter().for_each(|(_, record)| out.push_str(record));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // This one still counts.
        if self.pages.streams.open() == 1 {
            self.pages.sampler.clear();
            self.pages.dashboard.clear();
        }
    }
}
