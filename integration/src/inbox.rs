//! Asynchronous invocations, as a client sees them.

use std::time::Duration;

use serde_json::Value;

use crate::{Daemon, Reply, client::body_of, eventually, request};

/// How long an invocation may take to end, on a machine under load.
const INVOCATION_LIMIT: Duration = Duration::from_secs(60);

impl Daemon {
    /// Requests an asynchronous invocation.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn enqueue(&self, path: &str, body: &str, headers: &[(&'static str, &str)]) -> Reply {
        let mut request = request("POST", &format!("/async{path}"), body_of(body.to_owned()));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        self.send(request).await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// Does the same, and returns the id of the invocation.
    ///
    /// # Panics
    /// When it is not accepted.
    pub async fn accepted(&self, path: &str, body: &str, headers: &[(&'static str, &str)]) -> String {
        let reply = self.enqueue(path, body, headers).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        let id = reply.header("x-unifaas-invocation").expect("an id");
        assert_eq!(reply.header("location"), Some(format!("/invocations/{id}")));
        id
    }

    /// Returns an invocation.
    ///
    /// # Panics
    /// When there is none.
    pub async fn invocation(&self, id: &str) -> Value {
        self.get(&format!("/invocations/{id}")).await.ok().json()
    }

    /// Waits until an invocation has ended, and returns it.
    #[track_caller]
    pub fn ended_invocation(&self, id: &str) -> impl Future<Output = Value> {
        let is_ended = |it: &Value| it["state"] == "done" || it["state"] == "dead";
        eventually(INVOCATION_LIMIT, format!("invocation {id} ends"), async || self.invocation(id).await, is_ended)
    }

    /// Waits until the delivery of an invocation's result has such a state, and returns the invocation.
    #[track_caller]
    pub fn delivery_is(&self, id: &str, state: &str) -> impl Future<Output = Value> {
        let what = format!("the delivery of {id} is {state}");
        eventually(INVOCATION_LIMIT, what, async || self.invocation(id).await, move |it| it["delivery"] == state)
    }
}
