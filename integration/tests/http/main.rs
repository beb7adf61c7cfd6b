//! Requests, responses and connections, from clients to functions and back. One program, so that short tests run beside long
//! ones.

mod clients;
mod connections;
mod early;
mod http2;
mod http2_streams;
mod interim;
mod limits;
mod malformed;
mod proxy;
mod requests;
mod slow_clients;
mod streaming;
mod tls;
mod upstream;
