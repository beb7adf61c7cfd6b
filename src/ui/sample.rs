//! The summaries of all functions, read at most twice a second for all readers of the overview.

use std::{sync::Arc, time::Duration};

use foldhash::HashMap;
use tokio::{sync::Mutex, time::Instant};
use unifaas_actors::{Directory, FunctionHandle, FunctionSummary};

use crate::turn::Turns;

/// The least time between two samples.
const INTERVAL: Duration = Duration::from_millis(450);
/// Functions of one turn.
const SLICE: usize = 128;

/// Reads the summaries.
#[derive(Debug, Default)]
pub struct Sampler(Mutex<State>);

/// The functions of a moment.
type Functions = Arc<HashMap<String, Arc<FunctionHandle>>>;

#[derive(Debug, Default)]
struct State {
    /// What was sorted last, with the directory of that moment.
    sorted: Option<(Functions, Arc<[Arc<FunctionHandle>]>)>,
    sample: Option<Arc<Sample>>,
}

/// The functions by name.
#[derive(Debug)]
pub struct Sample {
    taken: Instant,
    pub rows: Vec<Row>,
}

/// A function.
#[derive(Debug)]
pub struct Row {
    pub handle: Arc<FunctionHandle>,
    pub summary: FunctionSummary,
}

impl Sampler {
    /// Returns a recent sample. Invocations are served between its slices.
    pub async fn sample(&self, directory: &Directory, turns: &Turns) -> Arc<Sample> {
        let mut state = self.0.lock().await;
        if let Some(sample) = state.sample.as_ref().filter(|sample| sample.taken.elapsed() < INTERVAL) {
            return sample.clone();
        }
        let handles = state.sorted(directory);
        let mut rows = Vec::with_capacity(handles.len());
        let mut slices = handles.chunks(SLICE).peekable();
        while let Some(slice) = slices.next() {
            let turn = turns.next().await;
            rows.extend(slice.iter().map(|handle| Row { handle: handle.clone(), summary: handle.summary() }));
            if slices.peek().is_some() {
                turn.pause().await;
            }
        }
        let sample = Arc::new(Sample { taken: Instant::now(), rows });
        state.sample = Some(sample.clone());
        sample
    }

    /// Forgets the sample when no reader needs it any more.
    pub fn clear(&self) {
        if let Ok(mut state) = self.0.try_lock() {
            *state = State::default();
        }
    }
}

impl State {
    fn sorted(&mut self, directory: &Directory) -> Arc<[Arc<FunctionHandle>]> {
        let all = directory.all();
        if let Some((_, sorted)) = self.sorted.as_ref().filter(|(known, _)| Arc::ptr_eq(known, &all)) {
            return sorted.clone();
        }
        let mut handles: Vec<_> = all.values().cloned().collect();
        handles.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        let sorted: Arc<[_]> = handles.into();
        self.sorted = Some((all, sorted.clone()));
        sorted
    }
}
