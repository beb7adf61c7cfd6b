//! The TriggerActor: follows the functions' triggers, and has firings committed by the inbox.

use std::{sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, MessageResult, SpawnHandle, fut::wrap_future,
};
use bytes::Bytes;
use jiff::Timestamp;
use slog::{Logger, info, warn};

use super::{
    event::{Event, content_type_of},
    messages::{
        FunctionTriggers, FunctionTriggersQuestion, StartSources, StopSources, TriggerOverview,
        TriggerOverviewQuestion, TriggerQuestion, TriggerReport,
    },
    schedules::{Action, Committed, ScheduleId, Schedules, millis, trigger_name},
    source::{EventSources, Subscriptions},
};
use crate::{
    inbox::{Command, Enqueue, EnqueueError, EnqueueRefusal, Firing, InboxHandle},
    notice::EndGuard,
    registry::TriggersChanged,
    spec::{CronScope, CronSpec},
};

/// The longest sleep while there are schedules: the clock may jump meanwhile.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// The triggers of all functions.
pub struct TriggerActor {
    schedules: Schedules,
    subscriptions: Subscriptions,
    sources: Box<dyn EventSources>,
    /// Whether there may be connections to brokers.
    is_following: bool,
    inbox: InboxHandle,
    log: Logger,
    alarm: Option<SpawnHandle>,
    end_guards: Vec<EndGuard>,
}

impl TriggerActor {
    /// Starts the actor on the arbiter of the caller. `sources` are used from [`StartSources`] on.
    pub fn launch(inbox: InboxHandle, sources: Box<dyn EventSources>, log: Logger) -> Addr<Self> {
        let (schedules, subscriptions, is_following, end_guards) = Default::default();
        Self { schedules, subscriptions, sources, is_following, inbox, log, alarm: None, end_guards }.start()
    }

    /// Does what is due, and sets the alarm for what is due next.
    fn work(&mut self, ctx: &mut Context<Self>) {
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        for action in self.schedules.due(Timestamp::now()) {
            match action {
                Action::Ask(id, trigger, seen) => self.ask(id, trigger, seen, ctx),
                Action::Fire(id, spec, instant) => self.fire(id, &spec, instant, ctx),
            }
        }
        if let Some(sleep) = self.schedules.sleep(Timestamp::now()) {
            self.alarm = Some(ctx.run_later(sleep.min(MAX_SLEEP), |actor, ctx| {
                actor.alarm = None;
                actor.work(ctx);
            }));
        }
    }

    fn ask(&self, id: ScheduleId, name: String, seen: Timestamp, ctx: &mut Context<Self>) {
        let (inbox, trigger, seen) = (self.inbox.clone(), name.clone(), millis(seen));
        let question = async move { inbox.ask(|reply| Command::OpenTrigger { trigger, seen, reply }).await };
        ctx.spawn(wrap_future(question).map(move |record, actor: &mut Self, ctx| {
            actor.schedules.answered(&id, &name, record, Timestamp::now());
            actor.work(ctx);
        }));
    }

    fn fire(&self, id: ScheduleId, spec: &CronSpec, instant: Timestamp, ctx: &mut Context<Self>) {
        let (inbox, enqueue) = (self.inbox.clone(), invocation(&id, spec, instant));
        let commit = async move {
            if enqueue.for_site && inbox.is_cut_off() {
                return Committed::NotNow("there is no connection to the site's server".to_owned());
            }
            outcome(inbox.enqueue(enqueue).await.map(drop))
        };
        ctx.spawn(wrap_future(commit).map(move |how, actor: &mut Self, ctx| {
            let (function, index) = &id;
            match &how {
                Committed::Stored => {
                    info!(actor.log, "schedule has fired"; "function" => &**function, "index" => index, "instant" => %instant);
                }
                Committed::Never(why) => {
                    warn!(actor.log, "schedule cannot fire"; "function" => &**function, "index" => index,
                        "instant" => %instant, "reason" => why);
                }
                Committed::Before | Committed::NotNow(_) => {}
            }
            actor.schedules.committed(&id, instant, how, Timestamp::now());
            actor.work(ctx);
        }));
    }
}

/// Makes the invocation for an instant. Its key is the same whatever daemon makes it.
fn invocation(id: &ScheduleId, spec: &CronSpec, instant: Timestamp) -> Enqueue {
    let (function, index) = id;
    let key = format!("cron/{function}/{index}/{instant}");
    let event = Event {
        id: key.clone(),
        source: format!("/cron/{function}/{index}"),
        kind: "unifaas.cron",
        time: instant.to_string(),
        subject: None,
        content_type: content_type_of(&spec.body),
    };
    let request = event.request(&spec.method, &spec.path, Bytes::copy_from_slice(spec.body.as_bytes()));
    let firing = Firing { trigger: trigger_name(id, spec), instant: millis(instant) };
    let for_site = spec.scope == CronScope::Cluster;
    Enqueue { key: Some(key), firing: Some(firing), for_site, ..Enqueue::new(function, request) }
}

fn outcome(result: Result<(), EnqueueError>) -> Committed {
    match result {
        Ok(()) => Committed::Stored,
        Err(EnqueueError::NotStored(EnqueueRefusal::AlreadyFired)) => Committed::Before,
        Err(error) => {
            let why = error.to_string();
            match error {
                EnqueueError::NotAllowed
                | EnqueueError::BodyTooLarge { .. }
                | EnqueueError::NotStored(EnqueueRefusal::KeyReused) => Committed::Never(why),
                _ => Committed::NotNow(why),
            }
        }
    }
}

impl Actor for TriggerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Thousands of functions may have triggers.
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<TriggersChanged> for TriggerActor {
    type Result = ();

    fn handle(&mut self, changed: TriggersChanged, ctx: &mut Self::Context) {
        let function: Arc<str> = changed.function.into();
        self.schedules.set(&function, &changed.triggers.cron, Timestamp::now());
        if self.subscriptions.set(&function, changed.triggers) && self.is_following {
            self.sources.follow(self.subscriptions.clone());
        }
        self.work(ctx);
    }
}

impl Handler<StartSources> for TriggerActor {
    type Result = ();

    fn handle(&mut self, _: StartSources, _: &mut Self::Context) {
        self.is_following = true;
        self.sources.follow(self.subscriptions.clone());
    }
}

impl Handler<StopSources> for TriggerActor {
    type Result = ();

    fn handle(&mut self, StopSources(stopped): StopSources, _: &mut Self::Context) {
        self.is_following = false;
        self.sources.stop(stopped);
    }
}

impl Handler<TriggerQuestion> for TriggerActor {
    type Result = MessageResult<TriggerQuestion>;

    fn handle(&mut self, _: TriggerQuestion, _: &mut Self::Context) -> Self::Result {
        let cron = self.schedules.reports(Timestamp::now());
        MessageResult(TriggerReport { fired: self.schedules.fired(), cron, sources: self.sources.reports() })
    }
}

impl Handler<TriggerOverviewQuestion> for TriggerActor {
    type Result = MessageResult<TriggerOverviewQuestion>;

    fn handle(&mut self, _: TriggerOverviewQuestion, _: &mut Self::Context) -> Self::Result {
        let schedules = self.schedules.overview(Timestamp::now());
        MessageResult(TriggerOverview { sources: self.sources.reports(), ..schedules })
    }
}

impl Handler<FunctionTriggersQuestion> for TriggerActor {
    type Result = MessageResult<FunctionTriggersQuestion>;

    fn handle(&mut self, question: FunctionTriggersQuestion, _: &mut Self::Context) -> Self::Result {
        let FunctionTriggersQuestion(function) = question;
        let cron = self.schedules.reports_of(&function, Timestamp::now());
        let subscriptions = self.subscriptions.reports_of(&function, &self.sources.reports());
        MessageResult(FunctionTriggers { cron, subscriptions })
    }
}

impl Handler<EndGuard> for TriggerActor {
    type Result = ();

    fn handle(&mut self, guard: EndGuard, _: &mut Self::Context) {
        self.end_guards.push(guard);
    }
}
