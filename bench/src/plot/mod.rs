//! Plots as SVG, through the SVG back end of plotters alone: no fonts are read, and none are embedded.
//!
//! `axis.rs` has the scales, `style.rs` colours, dashes and markers, `canvas.rs` the frame of every plot; the others draw one
//! kind each. Colours are those of Okabe and Ito; markers and dashes tell contestants apart in black and white.

mod axis;
mod boxes;
mod canvas;
mod ecdf;
mod lines;
mod parts;
mod style;

#[cfg(test)]
mod tests;

pub use boxes::{BoxRow, boxes};
pub use canvas::Texts;
pub use ecdf::{Curve, ecdf};
pub use lines::{Line, LinePoint, lines};
pub use parts::{PartsRow, parts};
