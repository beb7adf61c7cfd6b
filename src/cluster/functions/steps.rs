//! The steps of the reconciler for one function: fetching a version, serving it, going back from it, removing it.

use std::{sync::Arc, time::Duration};

use slog::{info, warn};
use tokio::time::Instant;
use unifaas_actors::{
    Changes, FilesChanged,
    cluster::{
        BlobId, FailedVersion, Listed, Publication, RolloutStep, has_labels, next_step, outdated, place_of, version_for,
    },
    spec::FunctionSpec,
};

use super::{
    error::StoreError,
    fetch::{fetch, sources},
    lock,
    reconciler::{Done, Running, Surroundings},
};

/// How long after a switch a version that fails has this node go back.
const PROBATION: Duration = Duration::from_secs(600);
/// Looks in a row that find it failing: the first may have seen the version before.
const FAILING_LOOKS: u32 = 2;

impl Running {
    /// Does the next step for a function. Returns whether there may be another one.
    pub(super) fn step(&mut self, function: &Arc<str>, listed: &Listed) -> bool {
        let functions = self.around.functions.clone();
        let place = place_of(functions.node, function);
        match next_step(listed.publication.as_ref(), place, &functions.store.local(function)) {
            RolloutStep::Rest => false,
            RolloutStep::Fetch(version) => {
                self.fetch(function, version);
                false
            }
            RolloutStep::Switch(version) => self.switch(function, version, listed.revision),
            RolloutStep::Forget => {
                info!(self.around.log, "published function was removed"; "function" => &**function);
                self.finish_switch(function, functions.store.forget(function))
            }
        }
    }

    fn fetch(&mut self, function: &Arc<str>, version: BlobId) {
        let is_early = self.retries.get(function).is_some_and(|at| *at > Instant::now());
        if is_early || !self.fetching.insert(function.clone()) {
            return;
        }
        let Surroundings { functions, cluster, tls, .. } = &self.around;
        let sources = sources(&cluster.view(), tls.as_ref(), function, version);
        let (functions, done, function) = (functions.clone(), self.fetched.clone(), function.clone());
        tokio::spawn(async move {
            let result = fetch(&functions.store, &sources, &functions.counters, &function, version).await;
            // The reconciler may have ended.
            let _ = done.send(Done::Fetched { function, version, result });
        });
    }

    /// Serves a version, unless this node cannot.
    fn switch(&mut self, function: &Arc<str>, version: BlobId, revision: u64) -> bool {
        let functions = self.around.functions.clone();
        let store = &functions.store;
        let spec = match FunctionSpec::load_named(function, &store.directory(function, version)) {
            Ok(spec) => spec,
            Err(error) => {
                return self.go_back(function, version, revision, error.to_string());
            }
        };
        if !has_labels(&self.around.labels, &spec.cluster.nodes) {
            let is_served = store.local(function).current.is_some();
            self.set_problem(function, Some("the node has not the labels that [cluster] nodes names".to_owned()));
            return is_served && self.finish_switch(function, store.forget(function));
        }
        self.note_used();
        let switched = store.switch(function, version);
        if switched.is_ok() {
            info!(self.around.log, "version is served"; "function" => &**function, "version" => %version);
            self.switched.insert(function.clone(), (Instant::now(), 0));
        }
        self.finish_switch(function, switched)
    }

    /// Has the registry read what was switched. Returns whether that is so.
    fn finish_switch(&mut self, function: &Arc<str>, switched: Result<(), StoreError>) -> bool {
        match switched {
            Ok(()) => {
                self.set_problem(function, None);
                self.around.registry.do_send(FilesChanged(Changes::of(function)));
                true
            }
            Err(error) => {
                self.set_problem(function, Some(error.to_string()));
                false
            }
        }
    }

    /// Has versions go back that were switched to lately and keep failing to start.
    pub(super) fn judge(&mut self) {
        self.switched.retain(|_, (since, _)| since.elapsed() < PROBATION);
        let mut failing = Vec::new();
        for (function, (_, looks)) in &mut self.switched {
            let Some(current) = self.around.functions.store.local(function).current else { continue };
            let handle = self.around.directory.find(function);
            let is_of_version =
                |spec: &Arc<FunctionSpec>| spec.directory == self.around.functions.store.directory(function, current);
            let is_failing = handle.is_some_and(|handle| {
                handle.serving_spec().is_ok_and(|spec| is_of_version(&spec)) && handle.load().is_failing
            });
            *looks = if is_failing { *looks + 1 } else { 0 };
            if *looks >= FAILING_LOOKS {
                failing.push((function.clone(), current));
            }
        }
        for (function, version) in failing {
            let revision = self.around.functions.revision(&function);
            self.go_back(&function, version, revision, "its instances keep failing to start".to_owned());
        }
    }

    /// Gives a version up on this node, if there is another one to serve. Returns whether there is.
    fn go_back(&mut self, function: &Arc<str>, version: BlobId, revision: u64, why: String) -> bool {
        let functions = self.around.functions.clone();
        let catalogue = functions.catalogue.load_full();
        let Some(publication) = catalogue.publication(function) else { return false };
        let mut without = functions.store.local(function);
        let failed = FailedVersion { revision, why };
        without.failed.insert(version, failed.clone());
        if without.failed.contains_key(&version_for(publication, place_of(functions.node, function), &without)) {
            self.set_problem(function, Some(failed.why));
            return false;
        }
        warn!(self.around.log, "version has failed on this node"; "function" => &**function, "version" => %version,
            "why" => &failed.why);
        functions.store.note_failed(function, version, failed);
        true
    }

    /// Notes which specs of published versions are in force: instances may have them for long.
    pub(super) fn note_used(&mut self) {
        let store = &self.around.functions.store;
        for function in store.functions() {
            let Some(version) = store.local(&function).current else { continue };
            let Some(Ok(spec)) = self.around.directory.find(&function).map(|handle| handle.serving_spec()) else {
                continue;
            };
            if spec.directory != store.directory(&function, version) {
                continue;
            }
            let used = self.used.entry((function.into(), version)).or_default();
            used.retain(|known| known.strong_count() > 0);
            if !used.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&spec))) {
                used.push(Arc::downgrade(&spec));
            }
        }
    }

    /// Removes versions that are neither listed nor served, and that no instance has.
    pub(super) fn remove_outdated(&mut self, function: &Arc<str>, publication: Option<&Publication>) {
        let functions = &self.around.functions;
        if lock(&functions.publishing).contains_key(&**function) || self.fetching.contains(function) {
            return;
        }
        for version in outdated(publication, &functions.store.local(function)) {
            let used = self.used.get(&(function.clone(), version));
            if used.is_some_and(|specs| specs.iter().any(|spec| spec.strong_count() > 0)) {
                continue;
            }
            info!(self.around.log, "version was removed"; "function" => &**function, "version" => %version);
            functions.store.remove(function, version);
            self.used.remove(&(function.clone(), version));
        }
    }
}
