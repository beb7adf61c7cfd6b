//! What invokes functions besides requests.
//!
//! A trigger makes an event into an invocation of the inbox; everything after that is the inbox's. The keys of
//! `function.toml` are in `spec/triggers.rs`, the rules of time zones in `spec/schedule.rs`.
//!
//! | file | content |
//! | --- | --- |
//! | `cron.rs` | which instant of a schedule fires, and what is done about missed ones |
//! | `schedules.rs` | the schedules of all functions, and what follows from a commit |
//! | `event.rs` | the request that an event becomes |
//! | `source.rs` | connections to brokers, which the daemon makes |
//! | `actor.rs`, `messages.rs` | the actor around them |

mod actor;
mod cron;
mod event;
#[cfg(test)]
mod fixtures;
mod messages;
mod schedules;
mod source;

pub use actor::TriggerActor;
pub use event::{Event, content_type_of};
pub use messages::{
    CronReport, CronState, FunctionTriggers, FunctionTriggersQuestion, SourceReport, SourceState, StartSources,
    StopSources, SubscriptionProblem, SubscriptionReport, SubscriptionSpec, TriggerOverview, TriggerOverviewQuestion,
    TriggerQuestion, TriggerReport,
};
pub use source::{EventSources, Subscription, Subscriptions};
