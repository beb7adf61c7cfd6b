//! The settings as `unifaas config` shows them: a configuration file with the source of each value, or JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Configuration, Setting, Source};
use crate::{broker, cli::Serve, cluster, host, net::Subnet, state};

impl Configuration {
    /// Returns the settings as a configuration file, with the source of each as a comment.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        if let Some(file) = &self.file {
            let _ = writeln!(text, "# file: {}", file.display());
        }
        let line = |setting: &Setting| match setting.shown() {
            Some(value) => (format!("{} = {}", setting.key, literal(&value)), setting.source.to_string()),
            None => (format!("# {}", setting.key), "not set".to_owned()),
        };
        let lines: Vec<_> = self.settings.iter().map(line).collect();
        let width = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or_default();
        for (setting, source) in lines {
            let _ = writeln!(text, "{setting:width$}  # {source}");
        }
        text
    }

    /// Returns the settings as a JSON object: by key, `value` (text or null), `source`, and what tells where that is.
    pub fn to_json(&self) -> String {
        let settings = self.settings.iter().map(|setting| {
            let mut object = match &setting.source {
                Source::CommandLine => json!({ "source": "command-line" }),
                Source::Environment(name) => json!({ "source": "environment", "variable": name }),
                Source::File { path, line } => json!({ "source": "file", "file": path, "line": line }),
                Source::Default => json!({ "source": "default" }),
            };
            object["value"] = json!(setting.shown());
            (setting.key.clone(), object)
        });
        format!("{:#}\n", Value::Object(settings.collect::<Map<_, _>>()))
    }
}

impl Setting {
    /// Returns the value without the passwords of brokers.
    fn shown(&self) -> Option<String> {
        let value = self.value.as_ref()?;
        Some(if matches!(&*self.key, "cluster" | "mqtt" | "nats") {
            broker::without_login(value)
        } else {
            value.clone()
        })
    }
}

impl Serve {
    /// Returns the value of an option that was not given and has no constant default. That of `log-format` depends on the
    /// standard error of the daemon.
    pub(super) fn without_option(&self, key: &str) -> Option<String> {
        match key {
            "registry" => self.registry.as_ref().map(|path| path.display().to_string()),
            "max-connections-per-client" => Some(self.connections_per_client(self.max_connections).to_string()),
            "subnet" => Some(Subnet::DEFAULT.to_string()),
            "state-dir" => Some(state::default_directory().display().to_string()),
            "async-concurrency" => Some(host::budget::default_async_concurrency().to_string()),
            "node-name" => self.cluster.cluster.as_ref().map(|_| cluster::host_name()),
            "peer-security" => self.cluster.cluster.as_ref().map(|_| "tls".to_owned()),
            "max-starts" => Some(host::budget::default_max_starts().to_string()),
            _ => None,
        }
    }
}

/// Writes a value as TOML.
fn literal(value: &str) -> String {
    if value.parse::<u64>().is_ok_and(|number| number.to_string() == value) {
        return value.to_owned();
    }
    toml::Value::String(value.to_owned()).to_string()
}
