//! Functions: those of the user's registry (`source.rs`), and the registries that are derived from it (`derived.rs`). The
//! user's own is never written to.

mod derived;
mod source;

pub use derived::DerivedRegistry;
pub use source::{Damaged, Key, Overrides, Sandbox, Source, is_chosen, read};
