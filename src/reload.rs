//! Reads the configuration and the registry again, as SIGHUP asks a service to.
//!
//! Most settings take effect at the next start, and a log line says so. A configuration that is wrong changes nothing.

use std::{sync::Arc, time::Duration};

use actix::Addr;
use slog::{Logger, error, info, warn};
use unifaas_actors::{Changes, FilesChanged, RegistryActor};

use crate::{config::Configuration, log::LogLevel, shared::Shared};

/// The settings that can change while the daemon runs.
const CHANGEABLE: [&str; 4] = ["access-log", "drain-grace", "log-level", "upgrade-grace"];

/// What a reload changes.
pub struct Reloader {
    /// The settings in force.
    pub configuration: Configuration,
    pub level: LogLevel,
    pub shared: Arc<Shared>,
    pub registry: Addr<RegistryActor>,
    pub log: Logger,
}

impl Reloader {
    /// Returns how long requests may continue after the first signal to end, and after an upgrade.
    pub fn graces(&self) -> (Duration, Duration) {
        (self.configuration.serve.drain_grace, self.configuration.serve.upgrade_grace)
    }

    /// Reads both again.
    pub fn reload(&mut self) {
        self.registry.do_send(FilesChanged(Changes::anything()));
        match self.configuration.reread() {
            Ok(new) => self.apply(&new),
            Err(error) => {
                error!(self.log, "the configuration is wrong, so the settings stay"; "reason" => %error);
            }
        }
    }

    fn apply(&mut self, new: &Configuration) {
        let (now, later): (Vec<_>, Vec<_>) =
            new.differences(&self.configuration).into_iter().partition(|key| CHANGEABLE.contains(key));
        self.configuration.adopt(new, &now);
        self.level.set(new.serve.log_level);
        self.shared.set_access_log(new.serve.access_log);
        self.shared.update_settings(|settings| settings.drain_grace_seconds = new.serve.drain_grace.as_secs_f64());
        info!(self.log, "read configuration and registry again"; "changed" => now.join(" "));
        if !later.is_empty() {
            warn!(self.log, "these settings take effect at the next start"; "settings" => later.join(" "));
        }
    }
}
