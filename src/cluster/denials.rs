//! What the NATS server does not let this node do. It answers such a request by an error beside it, and never by a reply.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;
use tokio::sync::watch;

/// Subjects that are remembered.
const MAX_SUBJECTS: usize = 64;

/// What this node was denied so far. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Denials(Arc<watch::Sender<BTreeMap<Denial, u64>>>);

/// A permission that the user of this node lacks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Denial {
    /// `publish` or `subscribe`.
    pub permission: &'static str,
    /// What it lacks it for. Names that clients make up are `>`.
    pub subject: String,
}

/// A permission that is lacking, and how often that was noticed.
#[derive(Debug, Clone, Serialize)]
pub struct CountedDenial {
    #[serde(flatten)]
    pub denial: Denial,
    pub times: u64,
}

impl Denial {
    /// Reads an error of the server. `None`: it is about something else.
    pub fn parse(error: &str) -> Option<Self> {
        let rest = error.strip_prefix("Permissions Violation for ")?;
        let (permission, rest) = match rest.strip_prefix("Publish to ") {
            Some(rest) => ("publish", rest),
            None => ("subscribe", rest.strip_prefix("Subscription to ")?),
        };
        let subject = rest.strip_prefix('"')?.split('"').next()?;
        Some(Self { permission, subject: without_made_up_names(subject) })
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { permission, subject } = self;
        let preposition = if *permission == "publish" { "publish to" } else { "subscribe to" };
        write!(f, "the NATS server does not let this node {preposition} {subject}: its user lacks the permission")
    }
}

/// Beginnings of subjects with names that are other ones each time, and how many tokens are kept: the stream, or the bucket.
const MADE_UP: [(&str, usize); 6] = [
    ("_INBOX.", 1),
    ("$JS.API.CONSUMER.CREATE.", 5),
    ("$JS.API.DIRECT.GET.", 5),
    ("$JS.ACK.", 3),
    ("$JS.FC.", 3),
    // Records of invocations.
    ("$KV.uf_calls.", 2),
];

/// Replaces the names of reply subjects, consumers and records, of which there is another one each time.
fn without_made_up_names(subject: &str) -> String {
    let Some((_, kept)) = MADE_UP.into_iter().find(|(beginning, _)| subject.starts_with(beginning)) else {
        return subject.to_owned();
    };
    let mut tokens: Vec<_> = subject.split('.').take(kept).collect();
    tokens.push(">");
    tokens.join(".")
}

impl Denials {
    /// Notes that a permission is lacking. Returns whether that is new. What it has no room for is not.
    pub fn note(&self, denial: Denial) -> bool {
        let mut is_new = false;
        self.0.send_if_modified(|known| {
            let is_known = known.contains_key(&denial);
            is_new = !is_known && known.len() < MAX_SUBJECTS;
            if is_known || is_new {
                *known.entry(denial).or_default() += 1;
            }
            is_known || is_new
        });
        is_new
    }

    /// Returns what was denied so far.
    pub fn all(&self) -> Vec<CountedDenial> {
        self.0.borrow().iter().map(|(denial, times)| CountedDenial { denial: denial.clone(), times: *times }).collect()
    }

    /// Carries out requests to the server, unless it denies something that they may need.
    ///
    /// # Errors
    /// What it denies.
    pub async fn unless_denied<T>(
        &self,
        is_needed: impl Fn(&str) -> bool,
        work: impl Future<Output = T>,
    ) -> Result<T, Denial> {
        let mut seen = self.0.subscribe();
        let mut before = seen.borrow_and_update().clone();
        let denied = async {
            while seen.changed().await.is_ok() {
                let now = seen.borrow_and_update().clone();
                let is_again = |(denial, times): &(&Denial, &u64)| before.get(denial) != Some(times);
                let again = now.iter().filter(is_again).find(|(denial, _)| is_needed(&denial.subject));
                if let Some((denial, _)) = again {
                    return denial.clone();
                }
                before = now;
            }
            std::future::pending().await
        };
        tokio::select! {
            done = work => Ok(done),
            denial = denied => Err(denial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_names_permission_and_subject() {
        let parsed = |error| Denial::parse(error).map(|Denial { permission, subject }| (permission, subject));
        for (error, permission, subject) in [
            (r#"Permissions Violation for Publish to "$KV.uf_functions.Fn""#, "publish", "$KV.uf_functions.Fn"),
            (r#"Permissions Violation for Subscription to "_INBOX.aB1.x""#, "subscribe", "_INBOX.>"),
            (r#"Permissions Violation for Subscription to "a" using queue "b""#, "subscribe", "a"),
            (
                r#"Permissions Violation for Publish to "$JS.API.CONSUMER.CREATE.KV_uf_functions.N1.$KV.uf_functions.>""#,
                "publish",
                "$JS.API.CONSUMER.CREATE.KV_uf_functions.>",
            ),
            (r#"Permissions Violation for Publish to "$KV.uf_calls.0a1b""#, "publish", "$KV.uf_calls.>"),
            (
                r#"Permissions Violation for Publish to "$JS.API.DIRECT.GET.KV_uf_calls.$KV.uf_calls.0a1b""#,
                "publish",
                "$JS.API.DIRECT.GET.KV_uf_calls.>",
            ),
            (
                r#"Permissions Violation for Publish to "$JS.ACK.UF_INBOX.s=f.1.2.3.4.5""#,
                "publish",
                "$JS.ACK.UF_INBOX.>",
            ),
        ] {
            assert_eq!(parsed(error), Some((permission, subject.to_owned())), "{error}");
        }
        assert_eq!(parsed("Stale Connection"), None);
        assert_eq!(parsed("Permissions Violation for Publish to x"), None);
    }

    #[test]
    fn further_subjects_are_neither_kept_nor_new() {
        let denials = Denials::default();
        let denial = |number: usize| Denial { permission: "publish", subject: number.to_string() };
        assert!((0..MAX_SUBJECTS).all(|number| denials.note(denial(number))));
        assert!(!denials.note(denial(MAX_SUBJECTS)) && !denials.note(denial(0)));
        assert_eq!(denials.all().len(), MAX_SUBJECTS);
    }

    #[tokio::test]
    async fn request_ends_with_what_is_denied_for_it() {
        let (denials, never) = (Denials::default(), std::future::pending::<()>);
        let denial = |subject: &str| Denial { permission: "publish", subject: subject.to_owned() };
        assert!(denials.note(denial("a")) && !denials.note(denial("a")));
        let needs_a = |subject: &str| subject == "a";
        let (ended, ()) = tokio::join!(denials.unless_denied(needs_a, never()), async {
            denials.note(denial("b"));
            tokio::task::yield_now().await;
            denials.note(denial("a"));
        });
        assert_eq!(ended, Err(denial("a")));
        assert_eq!(denials.unless_denied(needs_a, async { 1 }).await, Ok(1), "what was denied before does not count");
        assert_eq!(denials.all().iter().map(|it| it.times).collect::<Vec<_>>(), [3, 1]);
    }
}
