//! `results.json`: everything about a run but its samples.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::BenchError,
    experiments::{Calibration, Unsupported},
    host::Machine,
    plan::{Plan, Reduction},
    summary::{FunctionInfo, Summary},
};

/// The version of the files of a run.
pub const SCHEMA: u32 = 3;
const FILE: &str = "results.json";

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Whether the run was not cut short.
    pub complete: bool,
    /// The arguments.
    pub command: String,
    /// When it began and ended, in UTC.
    pub began: String,
    /// See `began`.
    pub ended: Option<String>,
    /// What was decided before it.
    pub plan: Plan,
    /// The machine.
    pub machine: Machine,
    /// How often processors were throttled for heat, before and after.
    pub throttled: (Option<u64>, Option<u64>),
    /// The functions that were measured.
    pub functions: Vec<FunctionInfo>,
    /// Those that were not, with the reason.
    pub left_out: Vec<(String, String)>,
    /// Experiments that measured functions do not support.
    pub unsupported: Vec<Unsupported>,
    /// What has fewer rounds than wanted, so that the time limit is kept.
    #[serde(default)]
    pub reductions: Vec<Reduction>,
    /// The client beside a known delay.
    pub calibration: Option<Calibration>,
    /// What was noticed during the run.
    pub warnings: Vec<String>,
    /// The figures.
    pub summaries: Vec<Summary>,
}

impl Results {
    /// Reads those of a folder.
    ///
    /// # Errors
    /// When it has none, or they are of another version.
    pub fn read(out: &Path) -> Result<Self, BenchError> {
        let path = out.join(FILE);
        let text = fs::read(&path).map_err(|error| BenchError::Read(path.clone(), error))?;
        let format = |why: String| BenchError::Format(path.clone(), why);
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| format(error.to_string()))?;
        let schema = value["schema"].as_u64();
        if schema != Some(SCHEMA.into()) {
            let found = schema.map_or_else(|| "none".to_owned(), |schema| schema.to_string());
            return Err(format(format!("expected version {SCHEMA} of the results, found {found}")));
        }
        serde_json::from_value(value).map_err(|error| format(error.to_string()))
    }

    /// Writes them into a folder, so that a reader sees the old ones or the new ones.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write(&self, out: &Path) -> Result<(), BenchError> {
        let path = out.join(FILE);
        let failed = |error| BenchError::Write(path.clone(), error);
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let new = out.join(format!("{FILE}.new"));
        fs::write(&new, text).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)
    }
}
