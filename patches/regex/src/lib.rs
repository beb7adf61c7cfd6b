//! Has async-nats check names and versions with regex-lite. Its expressions need no tables of Unicode.

pub use regex_lite::*;
