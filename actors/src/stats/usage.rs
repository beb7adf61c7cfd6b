//! The functions that were used since the start, for `/metrics`.
//!
//! The first ones have series of their own, all further ones share one: the number of series is bounded, however many
//! functions there are. A function keeps its series when it is removed, so that counters never decrease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use super::{FunctionStats, FunctionTotals};

/// The name of the series that functions share. No function has it.
const REST: &str = "*";
/// Functions with series of their own, unless a number is set.
const DEFAULT_LIMIT: usize = 200;
/// Entries below which none is folded, except when totals are read.
const LEAST_FOLDED: usize = 1024;

/// Finds the counters of every function that was used. FunctionHandles enter them at the first use.
#[derive(Debug)]
pub struct UsageTable(Mutex<Table>);

#[derive(Debug)]
struct Table {
    limit: usize,
    /// The functions with series of their own, and what functions of that name have counted that exist no more.
    named: IndexMap<Arc<str>, FunctionTotals>,
    /// The same of all further functions.
    rest: FunctionTotals,
    has_rest: bool,
    entries: Vec<Entry>,
    /// The number of entries at which those of removed functions are folded.
    fold_at: usize,
}

#[derive(Debug)]
struct Entry {
    /// A position in `named`. `None`: the rest.
    series: Option<usize>,
    stats: Arc<FunctionStats>,
}

impl Default for UsageTable {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl UsageTable {
    /// Makes a table in which `limit` functions get series of their own.
    pub fn new(limit: usize) -> Self {
        let (named, rest, entries) = Default::default();
        Self(Mutex::new(Table { limit, named, rest, has_rest: false, entries, fold_at: LEAST_FOLDED }))
    }

    /// Makes the counters of a function that is used for the first time.
    pub(crate) fn enter(&self, function: &str) -> Arc<FunctionStats> {
        let stats = Arc::<FunctionStats>::default();
        let mut table = self.lock();
        if table.entries.len() >= table.fold_at {
            table.fold();
        }
        let series = table.series_for(function);
        table.entries.push(Entry { series, stats: stats.clone() });
        stats
    }

    /// Returns the totals of each series, and the name of its function.
    pub fn totals(&self) -> Vec<(Arc<str>, FunctionTotals)> {
        let mut table = self.lock();
        table.fold();
        let mut named: Vec<_> = table.named.iter().map(|(name, removed)| (name.clone(), removed.clone())).collect();
        let mut rest = table.rest.clone();
        for Entry { series, stats } in &table.entries {
            series.and_then(|series| named.get_mut(series)).map_or(&mut rest, |(_, totals)| totals).add(stats);
        }
        if table.has_rest {
            named.push((REST.into(), rest));
        }
        named
    }

    /// Returns the name of the series that a used function has.
    pub fn series_of<'n>(&self, function: &'n str) -> &'n str {
        if self.lock().named.contains_key(function) { function } else { REST }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn series_for(&mut self, function: &str) -> Option<usize> {
        if let Some(series) = self.named.get_index_of(function) {
            return Some(series);
        }
        if self.named.len() < self.limit {
            return Some(self.named.insert_full(function.into(), FunctionTotals::default()).0);
        }
        self.has_rest = true;
        None
    }

    /// Replaces the entries of functions that exist no more by their totals. Nothing counts for those any more.
    fn fold(&mut self) {
        let Self { named, rest, entries, fold_at, .. } = self;
        entries.retain_mut(|Entry { series, stats }| {
            // Unlike the number of references, this sees everything that was counted.
            if let Some(stats) = Arc::get_mut(stats) {
                series
                    .and_then(|series| named.get_index_mut(series))
                    .map_or(&mut *rest, |(_, totals)| totals)
                    .add(stats);
                return false;
            }
            true
        });
        *fold_at = LEAST_FOLDED.max(entries.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Outcome;

    /// Returns the number of requests of each series.
    fn requests(table: &UsageTable) -> Vec<(String, u64)> {
        let totals = table.totals().into_iter();
        totals.map(|(name, totals)| (name.to_string(), totals.outcomes().map(|(_, count)| count).sum())).collect()
    }

    fn used(table: &UsageTable, function: &str, times: usize) -> Arc<FunctionStats> {
        let stats = table.enter(function);
        (0..times).for_each(|_| stats.count(Outcome::Ok));
        stats
    }

    #[test]
    fn the_first_functions_have_series_of_their_own() {
        let table = UsageTable::new(2);
        let _all: Vec<_> =
            ["a", "b", "c", "d"].iter().enumerate().map(|(times, name)| used(&table, name, times + 1)).collect();
        assert_eq!(requests(&table), [("a".to_owned(), 1), ("b".to_owned(), 2), ("*".to_owned(), 7)]);
        assert_eq!(["a", "c", "never"].map(|name| table.series_of(name)), ["a", "*", "*"]);
    }

    #[test]
    fn counters_outlive_functions() {
        let table = UsageTable::new(1);
        drop(used(&table, "a", 3));
        drop(used(&table, "b", 4));
        assert_eq!(requests(&table), [("a".to_owned(), 3), ("*".to_owned(), 4)]);
        assert!(table.lock().entries.is_empty());
        let _again = [used(&table, "a", 2), used(&table, "b", 2)];
        assert_eq!(requests(&table), [("a".to_owned(), 5), ("*".to_owned(), 6)]);
    }

    #[test]
    fn entries_of_removed_functions_are_bounded() {
        let table = UsageTable::default();
        for number in 0..20_000 {
            used(&table, &format!("f{number}"), 1);
        }
        assert!(table.lock().entries.len() <= LEAST_FOLDED);
        assert_eq!(requests(&table).iter().map(|(_, count)| count).sum::<u64>(), 20_000);
    }
}
