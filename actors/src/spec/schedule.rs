//! A cron expression in a time zone. Pure: the rules of croner, and the time zones that are part of the program.
//!
//! A fixed time that a change to summer time skips fires right after the change; a repeated one fires once.
//! Expressions with several hours, minutes or seconds follow the clock on the wall: what is skipped does not fire, what is
//! repeated fires twice.

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Year},
};
use jiff::{Timestamp, tz::TimeZone};

/// 2024: a search from here finds each date that ever comes within 40 years.
const SEARCH_START: Timestamp = Timestamp::constant(1_704_067_200, 0);

/// When something fires.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// Why a cron expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It has this many fields.
    #[error("it has {0} fields")]
    Fields(usize),
    /// A field is wrong.
    #[error("{0}")]
    Malformed(String),
    /// Its date does not exist, such as the 30th of February.
    #[error("it matches no date")]
    NeverMatches,
}

impl Schedule {
    /// Parses an expression of 5 fields, or of 6 with seconds first.
    ///
    /// # Errors
    /// It is malformed, or can never match.
    pub fn new(expression: &str, zone: TimeZone) -> Result<Self, ExpressionError> {
        let fields = expression.split_whitespace().count();
        if !(5..=6).contains(&fields) && !expression.trim_start().starts_with('@') {
            return Err(ExpressionError::Fields(fields));
        }
        let parsed = CronParser::builder().year(Year::Disallowed).build().parse(expression);
        let schedule = Self { cron: parsed.map_err(|error| ExpressionError::Malformed(reason(error)))?, zone };
        schedule.next_after(SEARCH_START).map(|_| schedule).ok_or(ExpressionError::NeverMatches)
    }

    /// Returns the first instant after `time`. `None`: there is none.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&time.to_zoned(self.zone.clone()), false).ok()?;
        Some(next.timestamp())
    }

    /// Returns the last instant up to `time`, which has no fraction of a second. `None`: there is none.
    pub fn last_until(&self, time: Timestamp) -> Option<Timestamp> {
        let last = self.cron.find_previous_occurrence(&time.to_zoned(self.zone.clone()), true).ok()?;
        Some(last.timestamp())
    }
}

fn reason(error: CronError) -> String {
    let reason = match error {
        CronError::InvalidPattern(reason)
        | CronError::IllegalCharacters(reason)
        | CronError::ComponentError(reason) => reason,
        other => other.to_string(),
    };
    reason.trim_end_matches('.').replace("CronPattern", "it")
}

#[cfg(test)]
mod tests;
