//! Decides what needs a person's attention, and what to change. Pure.

use crate::inbox::FunctionOverview;

/// How much a function or the host is impaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Requests fail.
    Error,
    /// Requests are slow, or fail now and then.
    Warning,
}

/// A thing that needs attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub severity: Severity,
    /// `None`: the host.
    pub function: Option<String>,
    pub what: String,
    pub advice: String,
}

/// What is known of a function.
#[derive(Debug, Clone, Default)]
pub struct FunctionFacts<'a> {
    pub name: &'a str,
    pub state: &'a str,
    pub why: Option<&'a str>,
    /// The last line that an instance printed which did not start.
    pub words: Option<&'a str>,
    /// Requests that wait for a slot now, and how many may.
    pub waiting: usize,
    pub queue: usize,
    /// Instances now, and how many there may be.
    pub instances: usize,
    pub max_instances: Option<usize>,
    pub concurrent_requests: usize,
    pub recent: Option<Recent>,
    /// Asynchronous invocations, if it has any, and how many attempts of them there may be at once.
    pub inbox: Option<&'a FunctionOverview>,
    pub async_concurrency: usize,
}

/// What the requests of the last minutes were like. Times are in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Recent {
    /// How long that is.
    pub seconds: f64,
    pub requests: f64,
    /// Of these, the ones that the platform answered with an error, or the function with a 5xx.
    pub failed: f64,
    /// Of these, the ones that waited for a boot.
    pub cold: f64,
    pub p95: f64,
    /// Means per request: in all, for a slot or the host, for a boot.
    pub mean: f64,
    pub wait: f64,
    pub boot: f64,
}

/// What is known of the daemon and its host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFacts<'a> {
    pub is_draining: bool,
    /// In MiB.
    pub memory_taken: u64,
    pub memory_budget: u64,
    pub functions_waiting: usize,
    pub connections: usize,
    pub max_connections: usize,
    /// Why no asynchronous invocation is accepted.
    pub inbox_problem: Option<&'a str>,
}

/// Requests below which no share of them means anything.
const LEAST_REQUESTS: f64 = 10.0;
/// A share of failed requests that is not normal.
const MANY_FAILED: f64 = 0.05;
/// A wait that a person notices, in seconds, and the share of the whole time from which on it is the reason.
const LONG_WAIT: f64 = 0.25;
const MOST: f64 = 0.5;
/// A wait of asynchronous work that is no normal one, in seconds.
const LONG_BACKLOG: f64 = 60.0;
/// A share of cold requests that is not normal.
const MANY_COLD: f64 = 0.2;

/// Returns what needs attention of a function: the gravest thing, if there is any.
pub fn of_function(facts: &FunctionFacts<'_>) -> Option<Notice> {
    let (severity, what, advice) =
        of_state(facts).or_else(|| of_queue(facts)).or_else(|| of_requests(facts)).or_else(|| of_inbox(facts))?;
    Some(Notice { severity, function: Some(facts.name.to_owned()), what, advice })
}

type Found = (Severity, String, String);

fn of_state(facts: &FunctionFacts<'_>) -> Option<Found> {
    let why = facts.why.unwrap_or("the reason is on its page");
    match facts.state {
        "failing" => Some((
            Severity::Error,
            match facts.words {
                Some(words) => format!("does not start: {why}: {words}"),
                None => format!("does not start: {why}"),
            },
            "Read what the last instances printed. The next start follows by itself, or at once when the file is saved."
                .to_owned(),
        )),
        "misconfigured" => Some((
            if facts.instances > 0 { Severity::Warning } else { Severity::Error },
            format!("its function.toml is invalid: {why}"),
            "Correct the file. If an earlier version was valid, that one keeps serving.".to_owned(),
        )),
        _ => None,
    }
}

fn of_queue(facts: &FunctionFacts<'_>) -> Option<Found> {
    if facts.waiting == 0 || facts.waiting * 2 < facts.queue {
        return None;
    }
    let is_full = facts.waiting >= facts.queue;
    let what = format!("{} of {} places in the queue are taken", facts.waiting, facts.queue);
    Some((if is_full { Severity::Error } else { Severity::Warning }, what, more_slots(facts)))
}

fn of_requests(facts: &FunctionFacts<'_>) -> Option<Found> {
    let recent = facts.recent.filter(|recent| recent.requests >= LEAST_REQUESTS)?;
    let failed = recent.failed / recent.requests;
    if failed >= MANY_FAILED {
        let severity = if failed >= MOST { Severity::Error } else { Severity::Warning };
        let what = format!("{:.0} % of its requests fail", failed * 100.0);
        return Some((severity, what, "Its errors say why, each with the last instance.".to_owned()));
    }
    let slow = super::format::duration(recent.p95);
    let share = |part: f64| part / recent.mean.max(f64::MIN_POSITIVE);
    if recent.wait >= LONG_WAIT && share(recent.wait) >= MOST {
        let what =
            format!("95 % of requests take up to {slow}, {:.0} % of it waiting for a slot", share(recent.wait) * 100.0);
        return Some((Severity::Warning, what, more_slots(facts)));
    }
    if recent.boot >= LONG_WAIT && share(recent.boot) >= MOST && recent.cold / recent.requests >= MANY_COLD {
        let what = format!("{:.0} % of requests wait for a boot", recent.cold / recent.requests * 100.0);
        let advice = "Keep instances: set `min-instances`, or raise `keepalive`. Its boots show where the time goes.";
        return Some((Severity::Warning, what, advice.to_owned()));
    }
    None
}

fn of_inbox(facts: &FunctionFacts<'_>) -> Option<Found> {
    let inbox = facts.inbox?;
    if inbox.oldest_seconds >= LONG_BACKLOG {
        let waits = super::format::age(inbox.oldest_seconds.floor());
        let what = format!("its asynchronous invocations are due for up to {waits}");
        let advice = format!(
            "Raise `concurrency` in `[async]`, now {}, or --async-concurrency; the function needs free slots, too.",
            facts.async_concurrency
        );
        return Some((Severity::Warning, what, advice));
    }
    if inbox.dead > 0 {
        let what =
            super::format::plural(inbox.dead as u64, "asynchronous invocation was", "asynchronous invocations were");
        let advice = "`unifaas dead` shows why, queues them again, or removes them.";
        return Some((Severity::Warning, format!("{what} given up"), advice.to_owned()));
    }
    None
}

fn more_slots(facts: &FunctionFacts<'_>) -> String {
    match facts.max_instances {
        Some(most) if facts.instances >= most => format!("Raise `max-instances`, now {most}."),
        _ if facts.concurrent_requests == 1 => {
            "If the function can serve several requests at once, raise `concurrent-requests`, now 1.".to_owned()
        }
        _ => format!("Raise `concurrent-requests`, now {}, or give the host more memory.", facts.concurrent_requests),
    }
}

/// Returns what needs attention of the daemon and its host.
pub fn of_host(facts: &HostFacts<'_>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut add = |severity, what, advice: &str| {
        notices.push(Notice { severity, function: None, what, advice: advice.to_owned() });
    };
    if facts.is_draining {
        add(Severity::Warning, "the daemon is ending".to_owned(), "It refuses new requests and finishes those it has.");
    }
    if let Some(problem) = facts.inbox_problem {
        let advice = "Requests to /async/ get 503, all others are served. docs/async.md says what to do.";
        add(Severity::Error, format!("asynchronous invocations are refused: {problem}"), advice);
    }
    if facts.functions_waiting > 0 {
        let what = super::format::plural(
            facts.functions_waiting as u64,
            "function waits for memory or for a start",
            "functions wait for memory or for a start",
        );
        let advice = if facts.memory_taken * 10 >= facts.memory_budget * 9 {
            "The memory budget is used up: lower `memory` or `min-instances` of others, or raise --memory-budget."
        } else {
            "Others are starting at this moment: if that lasts, raise --max-starts."
        };
        add(Severity::Warning, what, advice);
    }
    if facts.connections * 10 >= facts.max_connections * 9 && facts.max_connections > 0 {
        let what = format!("{} of {} connections are open", facts.connections, facts.max_connections);
        add(Severity::Warning, what, "Raise --max-connections and the limit of open files, or close idle connections.");
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: FunctionFacts<'_> = FunctionFacts {
        name: "f",
        state: "serving",
        why: None,
        words: None,
        waiting: 0,
        queue: 100,
        instances: 1,
        max_instances: Some(1),
        concurrent_requests: 1,
        recent: None,
        inbox: None,
        async_concurrency: 4,
    };
    const USUAL: Recent = Recent {
        seconds: 300.0,
        requests: 100.0,
        failed: 0.0,
        cold: 1.0,
        p95: 0.1,
        mean: 0.05,
        wait: 0.0,
        boot: 0.001,
    };

    fn notice(facts: &FunctionFacts<'_>) -> (Severity, String, String) {
        let Notice { severity, what, advice, .. } = of_function(facts).unwrap();
        (severity, what, advice)
    }

    #[test]
    fn nothing_is_said_of_what_is_well() {
        assert_eq!(of_function(&CALM), None);
        assert_eq!(of_function(&FunctionFacts { recent: Some(USUAL), waiting: 3, ..CALM }), None);
        let few = Recent { requests: 5.0, failed: 5.0, ..USUAL };
        assert_eq!(of_function(&FunctionFacts { recent: Some(few), ..CALM }), None);
        assert_eq!(of_host(&HostFacts { memory_budget: 100, max_connections: 100, ..HostFacts::default() }), []);
    }

    #[test]
    fn a_state_is_explained_first() {
        let failing = FunctionFacts { state: "failing", why: Some("exit 1"), waiting: 100, ..CALM };
        let (severity, what, _) = notice(&failing);
        assert_eq!((severity, what.as_str()), (Severity::Error, "does not start: exit 1"));
        let words = FunctionFacts { words: Some("no module x"), ..failing };
        assert_eq!(notice(&words).1, "does not start: exit 1: no module x");
        let invalid = FunctionFacts { state: "misconfigured", why: Some("line 3"), ..CALM };
        assert_eq!(notice(&invalid).0, Severity::Warning, "an earlier version serves");
        assert_eq!(notice(&FunctionFacts { instances: 0, ..invalid }).0, Severity::Error);
    }

    #[test]
    fn a_full_queue_names_the_limit_to_raise() {
        let full = FunctionFacts { waiting: 100, ..CALM };
        assert_eq!(notice(&full).0, Severity::Error);
        assert!(notice(&full).2.contains("`max-instances`, now 1"));
        let unlimited = FunctionFacts { waiting: 60, max_instances: None, ..CALM };
        assert_eq!(notice(&unlimited).0, Severity::Warning);
        assert!(notice(&unlimited).2.contains("`concurrent-requests`, now 1"));
    }

    #[test]
    fn slow_requests_say_where_their_time_goes() {
        let waits = Recent { p95: 4.1, mean: 1.0, wait: 0.98, ..USUAL };
        let (_, what, advice) = notice(&FunctionFacts { recent: Some(waits), ..CALM });
        assert!(what.contains("4.10 s, 98 % of it waiting") && advice.contains("max-instances"), "{what} {advice}");
        let cold = Recent { cold: 50.0, mean: 1.0, boot: 0.8, ..USUAL };
        let (_, what, advice) = notice(&FunctionFacts { recent: Some(cold), ..CALM });
        assert!(what.contains("50 % of requests") && advice.contains("min-instances"), "{what} {advice}");
        let failing = Recent { failed: 60.0, ..waits };
        assert_eq!(notice(&FunctionFacts { recent: Some(failing), ..CALM }).0, Severity::Error);
    }

    #[test]
    fn asynchronous_work_that_waits_or_was_given_up_is_noticed() {
        let some = FunctionOverview {
            function: "f".into(),
            queued: 1,
            running: 4,
            dead: 0,
            oldest_seconds: 5.0,
            first_due: None,
        };
        let of = |inbox: &FunctionOverview| of_function(&FunctionFacts { inbox: Some(inbox), ..CALM });
        assert_eq!(of(&some), None);
        let waits = of(&FunctionOverview { oldest_seconds: 90.0, dead: 1, ..some.clone() }).unwrap();
        assert!(waits.what.contains("1 min 30 s") && waits.advice.contains("`[async]`, now 4"), "{waits:?}");
        let dead = of(&FunctionOverview { dead: 2, ..some }).unwrap();
        assert_eq!(dead.what, "2 asynchronous invocations were given up");
    }

    #[test]
    fn the_host_says_what_it_lacks() {
        let short = HostFacts {
            memory_taken: 95,
            memory_budget: 100,
            functions_waiting: 2,
            connections: 95,
            max_connections: 100,
            is_draining: true,
            inbox_problem: Some("no space"),
        };
        let said: Vec<_> = of_host(&short).into_iter().map(|notice| notice.what + " " + &notice.advice).collect();
        assert_eq!(said.len(), 4);
        assert!(said[1].contains("refused: no space"), "{said:?}");
        assert!(said[2].starts_with("2 functions wait") && said[2].contains("--memory-budget"), "{said:?}");
        let busy = HostFacts {
            memory_taken: 10,
            functions_waiting: 1,
            connections: 0,
            is_draining: false,
            inbox_problem: None,
            ..short
        };
        assert!(of_host(&busy)[0].advice.contains("--max-starts"));
    }
}
