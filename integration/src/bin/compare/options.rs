//! The command line: which sections, and how much effort.

use std::{path::PathBuf, str::FromStr};

use clap::{Parser, ValueEnum};

/// Compares UniFaaS with what else could stand between a client and a function, side by side on this machine.
#[derive(Debug, Parser)]
#[command(name = "integration/compare", max_term_width = 110)]
pub struct Options {
    /// What to compare [default: everything]
    #[arg(value_enum, value_name = "SECTION")]
    pub sections: Vec<SectionName>,
    /// A smoke test of a minute or two, whose figures mean little
    #[arg(long)]
    pub quick: bool,
    /// Rounds of everything, instead of what suits each section
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: Option<u64>,
    /// Seconds of load in each round, whole ones [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub duration: Option<u64>,
    /// Another build of the daemon to be compared as well, in the sections `warm` and `instructions`
    #[arg(long, value_name = "EXECUTABLE")]
    pub baseline: Option<PathBuf>,
    /// Simultaneous starts of the section `burst`
    #[arg(long, value_name = "COUNT,…", default_value = "1,10,50,100")]
    pub burst: Counts,
    /// The same for containers, which take their time
    #[arg(long, value_name = "COUNT,…", default_value = "1,4,8")]
    pub container_burst: Counts,
    /// Functions that are registered in the section `scale`
    #[arg(long, value_name = "COUNT,…", default_value = "10,1000,10000")]
    pub functions: Counts,
    /// Instances that live at the same time in the section `scale`
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(2..))]
    pub instances: u64,
    /// Where the results are written, as compare.json and compare.md, or named like the chosen sections
    #[arg(long, value_name = "DIRECTORY", default_value = "target/compare")]
    pub out: PathBuf,
}

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SectionName {
    /// Requests that find a ready instance, against nginx, HAProxy and no proxy at all
    Warm,
    /// Starts of instances, against the same started by hand
    Cold,
    /// Many starts at once, against as many by hand
    Burst,
    /// What many functions and many instances cost
    Scale,
    /// User-mode instructions of one warm request
    Instructions,
}

impl Options {
    /// Returns the chosen sections, each once.
    pub fn sections(&self) -> Vec<SectionName> {
        let all = SectionName::value_variants().iter().copied();
        all.filter(|section| self.sections.is_empty() || self.sections.contains(section)).collect()
    }

    /// Returns the name of the result files, without extension.
    pub fn stem(&self) -> String {
        match self.sections.as_slice() {
            [] => "compare".to_owned(),
            _ => self.sections().into_iter().map(SectionName::word).collect::<Vec<_>>().join("-"),
        }
    }

    /// Returns the number of rounds, given a section's default.
    pub fn rounds(&self, usual: usize) -> usize {
        let rounds = self.rounds.and_then(|rounds| usize::try_from(rounds).ok());
        rounds.unwrap_or(if self.quick { usual.div_ceil(10) } else { usual })
    }

    /// Returns the seconds of load per round.
    pub fn seconds(&self) -> u64 {
        self.duration.unwrap_or(if self.quick { 1 } else { 2 })
    }
}

impl SectionName {
    /// Returns the name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            SectionName::Warm => "warm",
            SectionName::Cold => "cold",
            SectionName::Burst => "burst",
            SectionName::Scale => "scale",
            SectionName::Instructions => "instructions",
        }
    }
}

/// Ascending numbers, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(pub Vec<usize>);

impl FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |word: &str| word.trim().parse().ok().filter(|count| *count > 0);
        let counts: Option<Vec<usize>> = text.split(',').map(count).collect();
        let mut counts = counts.ok_or_else(|| format!("expected numbers like 1,10,100: {text}"))?;
        counts.sort_unstable();
        counts.dedup();
        Ok(Self(counts))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Options {
        Options::try_parse_from(std::iter::once("compare").chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn sections_are_ordered_and_unique() {
        Options::command().debug_assert();
        assert_eq!(parse("").sections().len(), 5);
        assert_eq!(parse("instructions warm warm").sections(), [SectionName::Warm, SectionName::Instructions]);
    }

    #[test]
    fn partial_runs_have_own_file_names() {
        assert_eq!((parse("").stem(), parse("scale warm").stem()), ("compare".to_owned(), "warm-scale".to_owned()));
        for section in SectionName::value_variants() {
            assert_eq!(parse(section.word()).sections(), [*section]);
        }
    }

    #[test]
    fn script_help_lists_every_option() {
        let help = include_str!("../../../compare");
        let help = &help[..help.find("\nHELP\n").unwrap()];
        for argument in Options::command().get_arguments() {
            if let Some(long) = argument.get_long() {
                assert!(help.contains(&format!("\n  --{long} ")), "--{long}");
            }
        }
        for section in SectionName::value_variants() {
            assert!(help.contains(&format!("\n  {} ", section.word())), "{section:?}");
        }
    }

    #[test]
    fn options_set_effort() {
        assert_eq!((parse("").rounds(31), parse("").seconds()), (31, 2));
        assert_eq!((parse("--quick").rounds(31), parse("--quick").seconds()), (4, 1));
        assert_eq!((parse("--quick --rounds 7").rounds(31), parse("--duration 9").seconds()), (7, 9));
    }

    #[test]
    fn counts_are_sorted_and_checked() {
        assert_eq!(parse("--burst 100,1,10,10").burst, Counts(vec![1, 10, 100]));
        for wrong in ["", "0", "1,,2", "x"] {
            assert!(wrong.parse::<Counts>().is_err(), "{wrong}");
        }
    }
}
