//! The schedule of a run: made after the survey, and fitted again while the run goes on.

use super::Session;
use crate::{clock, options::Experiment, plan, plan::Schedule, progress::duration};

/// Share of the time that is left which the survey may take.
const SURVEY: f64 = 0.3;

impl Session {
    /// Returns the seconds since the begin of the run.
    pub fn elapsed(&self) -> f64 {
        clock::now().saturating_sub(self.begin) as f64 / 1e9
    }

    /// Returns when a survey that begins now has to end, in seconds since the begin of the run.
    pub fn survey_end(&self) -> f64 {
        let now = self.elapsed();
        self.plan.budget.map_or(f64::INFINITY, |limit| now + SURVEY * (limit - now).max(0.0))
    }

    /// Makes the schedule by what the survey has measured, and says how long it takes.
    pub fn make_schedule(&mut self) {
        let mut items = Vec::new();
        for experiment in self.plan.experiments.iter().copied() {
            let entrants = self.entrants.iter().filter(|entrant| entrant.supports.contains(&experiment));
            for (place, entrant) in entrants.enumerate() {
                let control = u32::from(place == 0 && experiment != Experiment::Replay);
                let builds = if self.plan.baseline.is_some() { 2 } else { 1 };
                items.push(plan::item(&self.plan, experiment, &entrant.source, &entrant.speed, builds + control));
            }
        }
        for entrant in self.entrants.iter().filter(|entrant| entrant.supports.contains(&Experiment::Warm)) {
            let (pairs, _) = self.plan.pairs_with(entrant.speed.request_s);
            if pairs < self.plan.pairs.0 {
                let name = &entrant.source.name;
                self.warnings.push(format!("warm: {name} has {pairs} pairs in a round, as its requests take long."));
            }
        }
        self.schedule = Schedule::new(items, self.plan.budget);
        let all = self.schedule.left();
        self.refit();
        let left = self.schedule.left();
        let limit = self.plan.budget.filter(|_| left < all);
        let fitted = limit.map(|limit| format!(", fitted into {}: it would take {}", duration(limit), duration(all)));
        self.progress.line(&format!("it takes about {}{}", duration(left), fitted.unwrap_or_default()));
    }

    /// Fits what is left to do into the time that is left.
    pub fn refit(&mut self) {
        for experiment in self.schedule.refit(self.elapsed()) {
            if let Some(sizes) = self.plan.thin(experiment) {
                let warning =
                    format!("{}: only {sizes}, as larger sizes do not fit into the time limit", experiment.name());
                self.progress.line(&warning);
                self.warnings.push(warning);
            }
        }
        self.progress.expect(self.schedule.left());
    }
}
