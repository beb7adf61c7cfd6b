//! The time of day for `Date` headers, written once a second instead of once a response.

use std::{cell::Cell, io::Write as _, time::SystemTime};

/// As long as every such text.
const LENGTH: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

/// Shows the second of its last tick.
#[derive(Debug)]
pub struct Clock(Cell<[u8; LENGTH]>);

impl Clock {
    pub fn new() -> Self {
        let clock = Self(Cell::new([b' '; LENGTH]));
        clock.tick();
        clock
    }

    /// Sets it to now.
    pub fn tick(&self) {
        let mut text = [b' '; LENGTH];
        // Every date of these millennia fits.
        let _ = write!(&mut text[..], "{}", httpdate::HttpDate::from(SystemTime::now()));
        self.0.set(text);
    }

    /// As RFC 9110, section 5.6.7, has it.
    pub fn date(&self) -> [u8; LENGTH] {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_the_time() {
        let clock = Clock::new();
        let shown = httpdate::parse_http_date(str::from_utf8(&clock.date()).unwrap()).unwrap();
        assert!(shown.elapsed().unwrap().as_secs() < 2);
    }
}
