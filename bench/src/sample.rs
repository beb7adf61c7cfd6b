//! Samples: a row of `samples/EXPERIMENT.csv` each, written as they are measured and read by the report.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    client::{Failures, Response, ServerTiming, Times, reason},
    clock::micros,
    error::BenchError,
};

/// One request, or a quantity of many requests or none.
///
/// Times are microseconds: those of the clock since the begin of the run, those of `server-timing` as durations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The experiment.
    pub experiment: String,
    /// The name under which a function takes part.
    pub function: String,
    /// What was done with it, such as `cold`, `pause`, `direct`.
    pub variant: String,
    /// Simultaneous requests, connections, load in percent, or instances.
    pub n: u32,
    /// The round, from 0.
    pub round: u32,
    /// The place of the contestant in its round, from 0.
    pub position: u32,
    /// Whether the round only warms up, and is left out.
    pub warmup: bool,
    /// Whether the request waited for an instance to start, to be restored or to be resumed.
    pub cold: bool,
    /// Which of these it was, as the daemon says: `cold`, `restored`, `resumed`.
    pub origin: Option<String>,
    /// Whether the request was what the experiment is about; others are left out.
    pub valid: bool,
    /// What was measured, if it is no request.
    pub metric: Option<String>,
    /// Its value.
    pub value: Option<f64>,
    /// How many requests this stands for; empty: one.
    pub requests: Option<u64>,
    /// How many have failed as status and error say; empty: this one, unless the status is 200.
    pub failed: Option<u64>,
    /// Status of the response; empty: there was none.
    pub status: Option<u16>,
    /// Intended time of sending, of open loops.
    pub s: Option<f64>,
    /// Before and after connect(2).
    pub c0: Option<f64>,
    /// See `c0`.
    pub c1: Option<f64>,
    /// Before the first write(2).
    pub t0: Option<f64>,
    /// After the read(2) with the first byte.
    pub t1: Option<f64>,
    /// After the read(2) with the last byte.
    pub t2: Option<f64>,
    /// `queue` of `server-timing`.
    pub queue: Option<f64>,
    /// `boot` of `server-timing`.
    pub boot: Option<f64>,
    /// `upstream` of `server-timing`.
    pub upstream: Option<f64>,
    /// Phases of the boot.
    pub resources: Option<f64>,
    /// See `resources`.
    pub created: Option<f64>,
    /// See `resources`.
    pub started: Option<f64>,
    /// See `resources`.
    pub first_output: Option<f64>,
    /// See `resources`.
    pub ready: Option<f64>,
    /// The work by the function's own clock.
    pub function_us: Option<f64>,
    /// Steal time of the machine since the sample before, in milliseconds.
    pub steal_ms: Option<f64>,
    /// Processor time of foreign processes since the sample before, in milliseconds.
    pub foreign_ms: Option<f64>,
    /// Wall-clock time since the sample before, in milliseconds.
    pub window_ms: Option<f64>,
    /// Why there is no usable response.
    pub error: Option<String>,
}

impl Sample {
    /// Returns whether the response was a success, or the quantity was measured.
    pub fn is_success(&self) -> bool {
        (self.status == Some(200) || self.value.is_some()) && self.error.is_none()
    }

    /// Returns a row with a quantity. The requests of a turn stand in one row only.
    pub fn quantity(&self, metric: &str, value: f64) -> Self {
        Self {
            metric: Some(metric.to_owned()),
            value: Some(value),
            valid: true,
            requests: Some(0),
            failed: Some(0),
            ..self.clone()
        }
    }

    /// Returns the rows of a loop: a quantity with the number of all requests, and a row for each way in which some of them
    /// have failed.
    pub fn of_loop(&self, metric: &str, value: f64, requests: u64, failures: &Failures) -> Vec<Self> {
        let all = Self { requests: Some(requests), ..self.quantity(metric, value) };
        let failed = failures.iter().map(|(status, reason, count)| Self {
            metric: Some(metric.to_owned()),
            requests: Some(0),
            failed: Some(count),
            status: (status > 0).then_some(status),
            error: Some(reason.to_owned()),
            ..self.clone()
        });
        [all].into_iter().chain(failed).collect()
    }

    /// Returns whether the sample counts in figures.
    pub fn is_counted(&self) -> bool {
        self.is_success() && self.valid && !self.warmup
    }

    /// Takes over a response. `begin` is the begin of the run.
    pub fn fill(&mut self, response: &Response, begin: u64) {
        let at = |stamp: u64| (stamp > 0).then(|| micros(stamp.saturating_sub(begin)));
        let Times { connect, sent, first_byte, last_byte } = response.times;
        self.status = Some(response.status);
        (self.c0, self.c1) = (at(connect.0), at(connect.1));
        (self.t0, self.t1, self.t2) = (at(sent), at(first_byte), at(last_byte));
        self.function_us = response.function_us;
        if let Some(ServerTiming { queue, boot, origin, upstream, phases }) = &response.timing {
            let us = |ms: &f64| (ms * 1000.0).round();
            (self.queue, self.boot, self.upstream) = (Some(us(queue)), Some(us(boot)), Some(us(upstream)));
            let phase = |name| phases.get(name).map(us);
            (self.resources, self.created, self.started) = (phase("resources"), phase("created"), phase("started"));
            (self.first_output, self.ready) = (phase("first-output"), phase("ready"));
            self.cold = *boot > 0.0;
            self.origin.clone_from(origin);
        }
        if response.status != 200 {
            self.error = Some(reason(&response.body));
        }
    }
}

/// The file of an experiment's samples. Dropping it writes what was not flushed.
#[derive(Debug)]
pub struct SampleWriter {
    path: PathBuf,
    file: File,
    rows: csv::Writer<Vec<u8>>,
    /// Part of a row may be in the file: nothing may follow it.
    is_torn: bool,
}

impl SampleWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(out: &Path, experiment: &str) -> Result<Self, BenchError> {
        let path = out.join("samples").join(format!("{experiment}.csv"));
        let file = File::create(&path).map_err(|error| BenchError::Write(path.clone(), error))?;
        Ok(Self { path, file, rows: csv::Writer::from_writer(Vec::new()), is_torn: false })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// When it is no row.
    pub fn write(&mut self, sample: &Sample) -> Result<(), BenchError> {
        self.rows.serialize(sample).map_err(|error| BenchError::Write(self.path.clone(), error.into()))
    }

    /// Hands the samples so far to the kernel.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn flush(&mut self) -> Result<(), BenchError> {
        let next = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        let rows = std::mem::replace(&mut self.rows, next).into_inner();
        let rows = rows.map_err(|error| BenchError::Write(self.path.clone(), error.into_error()))?;
        if self.is_torn {
            return Ok(());
        }
        let written = self.file.write_all(&rows);
        self.is_torn = written.is_err();
        written.map_err(|error| BenchError::Write(self.path.clone(), error))
    }
}

impl Drop for SampleWriter {
    fn drop(&mut self) {
        // Its error was reported by the last explicit one, or comes with that of the results.
        let _ = self.flush();
    }
}

/// Reads the samples of an experiment. The second value is the number of rows that are no samples, as the last one of a run
/// that was cut short.
///
/// # Errors
/// When the file cannot be read. A missing one has no samples.
pub fn read(out: &Path, experiment: &str) -> Result<(Vec<Sample>, usize), BenchError> {
    let path = out.join("samples").join(format!("{experiment}.csv"));
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(BenchError::Read(path, error)),
    };
    let (mut samples, mut damaged) = (Vec::new(), 0);
    for row in csv::Reader::from_reader(text.as_slice()).deserialize() {
        match row {
            Ok(sample) => samples.push(sample),
            Err(_) => damaged += 1,
        }
    }
    Ok((samples, damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32) -> Sample {
        Sample {
            experiment: "cold".to_owned(),
            function: "f".to_owned(),
            round,
            t0: Some(1.5),
            error: Some("a, \"b\"\nc".to_owned()),
            ..Sample::default()
        }
    }

    #[test]
    fn samples_survive_the_file_and_a_torn_row_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("samples")).unwrap();
        let mut writer = SampleWriter::create(directory.path(), "cold").unwrap();
        (0..3).for_each(|round| writer.write(&sample(round)).unwrap());
        writer.flush().unwrap();
        let written: Vec<_> = (0..3).map(sample).collect();
        assert_eq!(read(directory.path(), "cold").unwrap(), (written.clone(), 0));
        let path = directory.path().join("samples/cold.csv");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 60]).unwrap();
        assert_eq!(read(directory.path(), "cold").unwrap(), (written[..2].to_vec(), 1));
        assert_eq!(read(directory.path(), "warm").unwrap(), (Vec::new(), 0));
    }
}
