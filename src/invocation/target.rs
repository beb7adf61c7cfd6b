//! What the target of a request says: a function, and what is for it; or asynchronous invocations. Pure.

use actix_http::RequestHead;

/// Where invocations are served.
pub const SCOPE: &str = "/invoke";
/// Where asynchronous invocations are accepted.
pub const ASYNC_SCOPE: &str = "/async";
/// Where they are asked about.
pub const INVOCATIONS_SCOPE: &str = "/invocations";

/// Whether a request is for a function, or about invocations. All else is for the pages.
pub fn is_invocation(head: &RequestHead) -> bool {
    let is_below = |scope: &str| head.uri.path().strip_prefix(scope).is_some_and(|rest| rest.starts_with('/'));
    is_below(SCOPE) || is_below(ASYNC_SCOPE) || is_below(INVOCATIONS_SCOPE)
}

/// Whether a request is about asynchronous invocations.
pub fn is_asynchronous(head: &RequestHead) -> bool {
    split_after(ASYNC_SCOPE, head).is_some() || split_after(INVOCATIONS_SCOPE, head).is_some()
}

/// Returns the function's name, and the path and query for it, both as they were sent. `None`: the target is not below
/// [`SCOPE`].
///
/// The name is not decoded: only the exact name of a registry entry finds a function, so no spelling of `..` or `/` can
/// mean anything else.
pub fn split_target(head: &RequestHead) -> Option<(&str, &str)> {
    split_after(SCOPE, head)
}

/// Does the same for another scope.
pub fn split_after<'a>(scope: &str, head: &'a RequestHead) -> Option<(&'a str, &'a str)> {
    let rest = head.uri.path_and_query()?.as_str().strip_prefix(scope)?.strip_prefix('/')?;
    Some(rest.split_at(rest.bytes().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_passed_on_as_sent_and_name_is_not_decoded() {
        for (sent, expected) in [
            ("/invoke/f", Some(("f", ""))),
            ("/invoke/f/", Some(("f", "/"))),
            ("/invoke/f/a/b%20c?q=1", Some(("f", "/a/b%20c?q=1"))),
            ("/invoke/f?q=1", Some(("f", "?q=1"))),
            ("/invoke/f//x/../y%2F", Some(("f", "//x/../y%2F"))),
            ("http://host/invoke/f/x", Some(("f", "/x"))),
            ("/invoke/%2e%2e/x", Some(("%2e%2e", "/x"))),
            ("/invoke/../x", Some(("..", "/x"))),
            ("/invoke/", Some(("", ""))),
            ("/invoke//x", Some(("", "/x"))),
            ("/%69nvoke/f/", None),
            ("/invoke", None),
            ("/invoices/f", None),
        ] {
            let mut head = RequestHead::default();
            head.uri = sent.parse().unwrap();
            assert_eq!((split_target(&head), is_invocation(&head)), (expected, expected.is_some()), "{sent}");
        }
    }
}
