//! `/metrics`: what it counts, its format, its size, and that Prometheus reads it.

mod cardinality;
mod counters;
mod format;
mod listener;
mod prometheus;
