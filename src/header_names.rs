//! The names of headers that are the platform's own, for all layers.

/// The request's id, taken over from the client or made.
pub const REQUEST_ID: &str = "x-request-id";
/// Says that nothing was done with a request, so that it can be sent elsewhere.
pub const UNTOUCHED: &str = "x-unifaas-untouched";
/// The node that serves a request.
pub const NODE: &str = "x-unifaas-node";
/// Another node has forwarded the request: it is served in a free slot (`now`), or may wait (`wait`).
pub const HOP: &str = "x-unifaas-hop";
/// Says that a response is the platform's own, and which one.
pub const ERROR_CODE: &str = "x-unifaas-error";
