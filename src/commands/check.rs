//! `unifaas check`: one line per function, every problem of the misconfigured ones, and whether this host has what they need.

mod engine;
mod host;
mod warnings;

use std::path::{Path, PathBuf};

use serde_json::json;
use unifaas_actors::{
    LoadedSpec,
    spec::{FunctionSpec, SPEC_FILE},
};

use super::{
    error::CommandError,
    terminal::{Output, words},
};
use crate::{cli::client::Check, config::Configuration};

/// What was checked.
#[derive(Debug, Default)]
struct Checked {
    functions: Vec<(String, LoadedSpec)>,
    warnings: Vec<String>,
}

/// Checks registries, functions or the host.
///
/// # Errors
/// When something is wrong with a function, there is none, or the host lacks what one needs.
pub async fn run(arguments: &Check, output: &Output) -> Result<(), CommandError> {
    let mut places = arguments.places.clone();
    places.extend(arguments.registry.clone());
    let configuration = Configuration::without_arguments();
    if places.is_empty() {
        places.extend(configuration.as_ref().map_or(None, |settings| settings.serve.registry.clone()));
    }
    if places.is_empty() && !arguments.host {
        // The settings may be wrong rather than without a registry.
        configuration?;
        let message = "which registry? Give its directory, or set `registry` (UNIFAAS_REGISTRY)";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let mut checked = Checked::default();
    places.iter().try_for_each(|place| checked.add(place))?;
    // Settings that are wrong are no matter of the functions.
    if configuration.as_ref().is_ok_and(|settings| settings.serve.cluster.cluster.is_none()) {
        let lone: Vec<_> = checked.valid().flat_map(warnings::of_lone_node).collect();
        checked.warnings.extend(lone);
    }
    let host = if arguments.host {
        let valid: Vec<_> = checked.valid().collect();
        host::check(&valid, &configuration?).await
    } else {
        Vec::new()
    };
    if arguments.json {
        let functions: serde_json::Map<_, _> = checked
            .functions
            .iter()
            .map(|(name, spec)| {
                let problems: Vec<_> = spec.as_ref().err().into_iter().flat_map(|reason| reason.lines()).collect();
                (name.clone(), json!({ "ok": spec.is_ok(), "problems": problems }))
            })
            .collect();
        let host: Vec<_> = host.iter().map(host::HostCheck::to_json).collect();
        output.line(&json!({ "functions": functions, "warnings": checked.warnings, "host": host }).to_string())?;
    } else {
        for (name, spec) in &checked.functions {
            match spec {
                Ok(_) => output.line(&format!("{name}: ok"))?,
                Err(reason) => words(reason),
            }
        }
        checked.warnings.iter().for_each(|warning| words(&format!("warning: {warning}")));
        if !host.is_empty() {
            output.table(&host::table(&host))?;
        }
    }
    checked.conclude(&places, host.iter().filter(|check| check.is_problem()).count())
}

impl Checked {
    /// Checks a registry, or the directory or file of one function.
    fn add(&mut self, place: &Path) -> Result<(), CommandError> {
        let root = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
        let unreadable = |error| CommandError::No(format!("cannot read the registry {}: {error}", place.display()));
        let functions = match function_at(&root) {
            Some(directory) => {
                let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let checked = FunctionSpec::check(&directory).map(Into::into);
                vec![(name, checked.map_err(|error| error.to_string().into()))]
            }
            None => {
                let functions = unifaas_actors::check_all(&root).map_err(unreadable)?;
                self.warnings.extend(warnings::of_registry(&root));
                functions.into_iter().collect()
            }
        };
        let valid = functions.iter().filter_map(|(_, spec)| spec.as_deref().ok());
        self.warnings.extend(valid.flat_map(warnings::of_function));
        self.functions.extend(functions);
        Ok(())
    }

    /// Returns the functions that are configured correctly.
    fn valid(&self) -> impl Iterator<Item = &FunctionSpec> {
        self.functions.iter().filter_map(|(_, spec)| spec.as_deref().ok())
    }

    /// Returns the result of all checks.
    fn conclude(&self, places: &[PathBuf], missing: usize) -> Result<(), CommandError> {
        let wrong = self.functions.iter().filter(|(_, spec)| spec.is_err()).count();
        match (wrong, self.functions.len()) {
            (_, 0) if !places.is_empty() => {
                let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
                let places = places.join(", ");
                Err(CommandError::No(format!("there is no function in {places}: no directory with a {SPEC_FILE}")))
            }
            (0, _) if missing > 0 => Err(CommandError::No(format!("this host lacks {missing} of what functions need"))),
            (0, _) => Ok(()),
            (wrong, all) => Err(CommandError::No(format!("misconfigured functions: {wrong} of {all}"))),
        }
    }
}

/// Returns the directory of a function, unless the place is a registry.
fn function_at(place: &Path) -> Option<PathBuf> {
    if place.is_file() && place.file_name().is_some_and(|name| name == SPEC_FILE) {
        return place.parent().map(Path::to_owned);
    }
    place.join(SPEC_FILE).symlink_metadata().is_ok().then(|| place.to_owned())
}
