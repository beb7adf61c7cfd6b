//! The lines that are kept of several instances, in the order in which they were printed.

use std::{collections::HashMap, sync::Arc};

use tokio::task;
use unifaas_actors::{History, InstanceId, InstanceRecord, LineFilter, OutputLine};

use super::format::Format;

/// Instances that are read without a pause for other tasks.
const SLICE: usize = 16;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With so many of the last lines.
    Tail(usize),
    /// Behind the event of that sequence number.
    Behind(u64),
}

/// Kept lines of instances.
#[derive(Debug, Default)]
pub struct KeptLines {
    lines: Vec<(Arc<InstanceRecord>, Arc<OutputLine>)>,
    /// The sequence number of the last line of each instance that was read.
    last: HashMap<InstanceId, u64>,
    /// Lines behind the start may be lost.
    is_incomplete: bool,
}

impl KeptLines {
    /// Reads the lines that `filter` includes.
    pub async fn read(history: &History, filter: &LineFilter, start: Start) -> Self {
        let records = match filter {
            LineFilter::Nothing => Vec::new(),
            LineFilter::All => history.instances.all_of(None),
            LineFilter::Function(function) => history.instances.all_of(Some(function)),
            LineFilter::Instance(id) => history.instances.find(*id).into_iter().collect(),
        };
        let mut kept = Self::default();
        for slice in records.chunks(SLICE) {
            slice.iter().for_each(|record| kept.add(record, start));
            task::yield_now().await;
        }
        kept.lines.sort_by_key(|(_, line)| line.sequence);
        if let Start::Tail(count) = start {
            kept.lines.drain(..kept.lines.len().saturating_sub(count));
        }
        kept
    }

    fn add(&mut self, record: &Arc<InstanceRecord>, start: Start) {
        let (lines, is_incomplete) = match start {
            Start::Tail(count) => (record.output.complete(count), false),
            Start::Behind(sequence) => record.output.since(sequence),
        };
        self.is_incomplete |= is_incomplete;
        self.last.extend(lines.last().map(|line| (record.instance, line.sequence)));
        self.lines.extend(lines.into_iter().map(|line| (record.clone(), line)));
    }

    /// Returns whether a line is among those that were read, or before them.
    pub fn includes(&self, instance: InstanceId, line: &OutputLine) -> bool {
        self.last.get(&instance).is_some_and(|last| line.sequence <= *last)
    }

    /// Returns the lines in a form, among other events with their sequence numbers.
    pub fn written(&self, format: Format, others: Vec<(u64, String)>) -> String {
        let mut out = String::new();
        if self.is_incomplete {
            format.put_gap(&mut out, None);
        }
        let mut others = others.into_iter().peekable();
        for (record, line) in &self.lines {
            while let Some((_, other)) = others.next_if(|(sequence, _)| *sequence < line.sequence) {
                out.push_str(&other);
            }
            format.put_line(&mut out, &record.function, record.instance, line);
        }
        others.for_each(|(_, other)| out.push_str(&other));
        out
    }
}
