//! Fuzz targets of the front and of the callback listener: see `src/fuzz`.

#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

mod body;
mod callback;
mod reader;
mod request;
mod response;

pub use body::body;
pub use callback::callback;
pub use request::{invoke_path, request};
pub use response::response;
