//! Schedules and the connections to brokers: on the overview, on a function's page, and what needs attention of them.

use maud::{Markup, html};
use unifaas_actors::{
    inbox::UnixMillis,
    trigger::{
        CronReport, FunctionTriggers, SourceReport, SourceState, SubscriptionReport, SubscriptionSpec, TriggerOverview,
    },
};

use super::{
    attention::{Notice, Severity},
    format::{count, day_and_time, plural},
    layout::{heads, state, table},
};

/// How long a connection may be away that is made again, as after a restart of its broker.
const SHORT_ABSENCE_MS: u64 = 10_000;

/// Returns the card of the overview. It is empty while no function has a trigger.
pub fn card(triggers: &TriggerOverview) -> Markup {
    let used: Vec<_> = triggers.sources.iter().filter(|source| source.subscriptions > 0).collect();
    html! {
        @if triggers.schedules > 0 || !used.is_empty() {
            div.card {
                h2 { "Triggers" }
                p.big { (count(triggers.schedules as u64)) small { (if triggers.schedules == 1 { " schedule" } else { " schedules" }) } }
                @if triggers.schedules > 0 {
                    p {
                        "next firing " (instant(triggers.next)) " · last " (instant(triggers.last))
                        @if triggers.refused > 0 { " · " span.poor { (count(triggers.refused as u64)) " refused" } }
                    }
                }
                @for source in used { p { (connection(source)) } }
            }
        }
    }
}

fn connection(source: &SourceReport) -> Markup {
    html! {
        (name(source.kind)) " " (state(source.state.name())) " "
        @if let Some(broker) = &source.broker { code { (broker) } " · " }
        (plural(source.subscriptions as u64, "subscription", "subscriptions"))
        " · " (count(source.stored)) " of " (plural(source.received, "message", "messages")) " stored"
    }
}

/// Returns the section of a function's page. It is empty without triggers.
pub fn section(triggers: FunctionTriggers) -> Markup {
    if triggers.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Triggers" }
        @if !triggers.cron.is_empty() {
            (table(
                "Schedules",
                "schedules",
                &heads(&["Schedule", "Zone", "State", "Last firing", "Next firing", "#Firings"]),
                &html! { @for schedule in &triggers.cron { (schedule_row(schedule)) } },
            ))
        }
        @if !triggers.subscriptions.is_empty() {
            (table(
                "Subscriptions",
                "subscriptions",
                &heads(&["Subscription", "Broker", "From", "Connection"]),
                &html! { @for subscription in &triggers.subscriptions { (subscription_row(subscription)) } },
            ))
        }
    }
}

fn schedule_row(schedule: &CronReport) -> Markup {
    html! {
        tr data-key={ "cron-" (schedule.index) } {
            th scope="row" { code { (schedule.at) } }
            td { (schedule.zone) }
            td { (state(schedule.state.name())) @if let Some(why) = &schedule.refusal { " " (why) } }
            td { (instant(schedule.last)) }
            td { (instant(schedule.next)) }
            td.number { (count(schedule.fired)) }
        }
    }
}

fn subscription_row(subscription: &SubscriptionReport) -> Markup {
    let from = match &subscription.spec {
        SubscriptionSpec::Nats(spec) => spec.source.to_string(),
        SubscriptionSpec::Mqtt(spec) => format!("quality of service {}", spec.qos),
    };
    html! {
        tr data-key={ (subscription.kind) "-" (subscription.index) } {
            th scope="row" { code { (subscription.spec.subject()) } }
            td { (name(subscription.kind)) }
            td { (from) }
            td { (state(subscription.state.name())) @if let Some(why) = &subscription.error { " " (why) } }
        }
    }
}

fn instant(at: Option<UnixMillis>) -> Markup {
    html! { @match at { Some(at) => (day_and_time(at.into())), None => "–" } }
}

fn name(kind: &str) -> String {
    kind.to_uppercase()
}

/// Returns what needs attention of triggers.
pub fn notices(triggers: &TriggerOverview, now: UnixMillis) -> Vec<Notice> {
    let mut notices: Vec<_> = triggers.sources.iter().filter_map(|source| of_connection(source, now)).collect();
    for source in &triggers.sources {
        notices.extend(source.problems.iter().map(|problem| Notice {
            severity: Severity::Error,
            function: Some(problem.function.to_string()),
            what: format!(
                "its subscription {} at {} does not work: {}",
                problem.index,
                name(source.kind),
                problem.error
            ),
            advice: "It is tried again every second. Its page shows all of its subscriptions.".to_owned(),
        }));
    }
    if triggers.refused > 0 {
        notices.push(Notice {
            severity: Severity::Warning,
            function: None,
            what: plural(triggers.refused as u64, "schedule cannot fire", "schedules cannot fire"),
            advice: "The inbox refuses the invocation. `/debug` has the reason in `daemon.triggers.cron`.".to_owned(),
        });
    }
    notices
}

fn of_connection(source: &SourceReport, now: UnixMillis) -> Option<Notice> {
    let (kind, option) = (name(source.kind), source.kind);
    let (severity, what, advice) = match source.state {
        SourceState::NoBroker => (
            Severity::Warning,
            format!("functions subscribe to {kind}, and no option says where the broker is"),
            format!("Start the daemon with --{option} `{option}://HOST`."),
        ),
        SourceState::Connecting if now.0 >= source.since.0 + SHORT_ABSENCE_MS => {
            let why = source.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
            let broker = source.broker.as_deref().unwrap_or_default();
            (
                Severity::Error,
                format!("not connected to {broker}{why}"),
                format!("It is tried again every second. See whether the broker runs, and --{option}."),
            )
        }
        SourceState::Unused | SourceState::Connecting | SourceState::Connected | SourceState::Stopped => return None,
    };
    Some(Notice { severity, function: None, what, advice })
}

#[cfg(test)]
mod tests {
    use unifaas_actors::trigger::SubscriptionProblem;

    use super::*;

    fn source(state: SourceState) -> SourceReport {
        SourceReport {
            kind: "nats",
            broker: Some("nats://h:4222".to_owned()),
            state,
            since: UnixMillis(1000),
            error: Some("refused".to_owned()),
            subscriptions: 1,
            problems: Vec::new(),
            received: 2,
            stored: 1,
            refused: 0,
            dropped: 0,
        }
    }

    fn said(source: SourceReport, seconds: u64) -> Vec<String> {
        let triggers = TriggerOverview { sources: vec![source], ..TriggerOverview::default() };
        notices(&triggers, UnixMillis(seconds * 1000)).into_iter().map(|notice| notice.what).collect()
    }

    #[test]
    fn a_connection_that_is_away_is_noticed_after_a_moment() {
        assert_eq!(said(source(SourceState::Connected), 99), Vec::<String>::new());
        assert_eq!(said(source(SourceState::Connecting), 10), Vec::<String>::new());
        assert_eq!(said(source(SourceState::Connecting), 11), ["not connected to nats://h:4222: refused"]);
        assert!(said(source(SourceState::NoBroker), 0)[0].contains("no option says where"));
        let problem = SubscriptionProblem { function: "f".into(), index: 1, error: "no stream".to_owned() };
        let broken = SourceReport { problems: vec![problem], ..source(SourceState::Connected) };
        assert_eq!(said(broken, 0), ["its subscription 1 at NATS does not work: no stream"]);
    }

    #[test]
    fn a_card_is_shown_once_there_are_triggers() {
        assert_eq!(card(&TriggerOverview::default()).into_string(), "");
        let schedules = TriggerOverview { schedules: 2, next: Some(UnixMillis(0)), ..TriggerOverview::default() };
        let page = card(&schedules).into_string();
        assert!(page.contains("2<small> schedules</small>") && page.contains("1970-01-01 00:00:00"), "{page}");
        let connected = TriggerOverview { sources: vec![source(SourceState::Connected)], ..schedules };
        let page = card(&connected).into_string();
        assert!(page.contains("NATS") && page.contains("1 of 2 messages stored"), "{page}");
    }
}
