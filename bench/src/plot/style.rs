//! Colours, dashes and markers.

use plotters::style::RGBColor;

/// The palette of Okabe and Ito without its yellow, which is too light for lines.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
/// Length of dashes and gaps in pixels. A gap of 0 is a solid line.
const DASHES: [(i32, i32); 4] = [(1, 0), (9, 5), (3, 4), (14, 4)];

/// Text, axes and grid.
pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const GRID: RGBColor = RGBColor(225, 225, 225);

/// The form of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Circle,
    Triangle,
    Square,
    Cross,
}

/// How a contestant looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub colour: RGBColor,
    pub dash: (i32, i32),
    pub marker: Marker,
}

/// Returns the look of the contestant at a place. Twenty-eight differ.
pub fn look(place: usize) -> Look {
    let markers = [Marker::Circle, Marker::Triangle, Marker::Square, Marker::Cross];
    // Seven and four have no common divisor, so every pair of them occurs once.
    let form = place % markers.len();
    Look { colour: COLOURS[place % COLOURS.len()], dash: DASHES[form], marker: markers[form] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_eight_looks_differ() {
        let looks: Vec<_> = (0..28).map(look).collect();
        for (place, one) in looks.iter().enumerate() {
            assert!(!looks[..place].contains(one), "{place}");
        }
        assert_eq!(look(28), look(0));
    }
}
