//! `unifaas new`: writes a function that runs. The templates are the files in the directory of the same name.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use tokio::time::sleep;
use unifaas_actors::spec;

use super::{client::Client, error::CommandError, terminal::Output};
use crate::{
    cli::{
        DaemonArgs,
        client::{New, Template},
    },
    config::Configuration,
};

/// The registry if there is none in the settings.
const REGISTRY: &str = "functions";
/// How often, and how far apart, a daemon is asked whether it has noticed the function: for two seconds, as that takes at
/// most half of one.
const LOOKS: usize = 40;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const COMMON: &str = include_str!("new/common.toml");
const PROCESS: &str = include_str!("new/process.toml");
const CONTAINER: &str = include_str!("new/container.toml");
const VM: &str = include_str!("new/vm.toml");
const CARGO: &str = include_str!("new/rust/Cargo.toml.template");
const RUST: &str = include_str!("new/rust/main.rs");

/// Files of a function, by their paths in its directory.
type Files = &'static [(&'static str, &'static str)];

impl Template {
    const fn files(self) -> Files {
        match self {
            Self::Python => &[
                ("function.toml", include_str!("new/python/function.toml")),
                ("main.py", include_str!("new/python/main.py")),
            ],
            Self::Node => &[
                ("function.toml", include_str!("new/node/function.toml")),
                ("main.js", include_str!("new/node/main.js")),
            ],
            Self::Shell => &[
                ("function.toml", include_str!("new/shell/function.toml")),
                ("handler.sh", include_str!("new/shell/handler.sh")),
            ],
            Self::Rust => &[
                ("function.toml", include_str!("new/rust/function.toml")),
                ("Cargo.toml", CARGO),
                ("src/main.rs", RUST),
            ],
            Self::Container => &[
                ("function.toml", include_str!("new/container/function.toml")),
                ("Dockerfile", include_str!("new/container/Dockerfile")),
                (".dockerignore", include_str!("new/container/dockerignore")),
                (".cargo/config.toml", include_str!("new/container/cargo-config.toml")),
                ("Cargo.toml", CARGO),
                ("src/main.rs", RUST),
            ],
            Self::Unikernel => &[("function.toml", include_str!("new/unikernel/function.toml"))],
        }
    }

    /// Returns the command that builds the function in its directory, and makes the daemon notice.
    fn build(self, name: &str, directory: &Path) -> Option<String> {
        let directory = directory.display();
        match self {
            Self::Python | Self::Node | Self::Shell => None,
            Self::Rust => Some(format!("(cd {directory} && cargo build --release && touch function.toml)")),
            Self::Container => {
                let image = image(name);
                Some(format!(
                    "(cd {directory} && cargo build --release && docker build -t {image} . && touch function.toml)"
                ))
            }
            Self::Unikernel => Some(format!("cp unikernel.elf {directory}/ && touch {directory}/function.toml")),
        }
    }
}

/// Writes a function and prints what to do next.
///
/// # Errors
/// When the name is not allowed, or the directory exists or cannot be written.
pub async fn run(arguments: &New, output: &Output) -> Result<(), CommandError> {
    let name = arguments.name.as_str();
    spec::check_name(name).map_err(|error| CommandError::Usage(error.to_string()))?;
    let registry = registry(arguments)?;
    if registry.exists() && !registry.is_dir() {
        return Err(CommandError::No(format!("the registry {} is not a directory", registry.display())));
    }
    let directory = registry.join(name);
    let files = write(&directory, name, arguments.template).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CommandError::No(format!("{} exists already", directory.display())),
        _ => CommandError::No(format!("cannot write {}: {error}", directory.display())),
    })?;
    let is_served = is_served(name).await;
    let serve = format!("unifaas --registry {}", registry.display());
    let commands = [
        arguments.template.build(name, &directory),
        (!is_served).then_some(serve),
        Some(format!("unifaas invoke {name}")),
        Some(format!("unifaas logs -f {name}")),
        is_served.then(|| format!("unifaas describe {name}")),
    ];
    let next: Vec<_> = commands.into_iter().flatten().take(3).collect();
    if arguments.json {
        let object = json!({ "function": name, "directory": directory, "files": files, "next": next });
        return output.line(&object.to_string());
    }
    output.line(&format!("{} has {}. Next:\n", directory.display(), files.join(", ")))?;
    next.iter().try_for_each(|command| output.line(&format!("    {command}")))
}

/// Returns where functions are.
fn registry(arguments: &New) -> Result<PathBuf, CommandError> {
    if let Some(registry) = &arguments.registry {
        return Ok(registry.clone());
    }
    Ok(Configuration::without_arguments()?.serve.registry.unwrap_or_else(|| REGISTRY.into()))
}

/// Waits until the daemon knows the function. Returns `false` if there is no daemon, or it serves another registry.
async fn is_served(name: &str) -> bool {
    let arguments = DaemonArgs { url: env::var("UNIFAAS_URL").ok(), json: true };
    let Ok(mut client) = Client::new(&arguments) else { return false };
    for _ in 0..LOOKS {
        match client.summary().await {
            Ok(summary) if summary["functions"].get(name).is_some() => return true,
            Ok(_) => sleep(LOOK_INTERVAL).await,
            Err(_) => return false,
        }
    }
    false
}

/// Returns a name for the image of a function: lower case, as engines want it.
fn image(name: &str) -> String {
    format!("function/{}", name.to_ascii_lowercase().trim_end_matches(['.', '-', '_']))
}

fn write(directory: &Path, name: &str, template: Template) -> io::Result<Vec<&'static str>> {
    fs::create_dir_all(directory.parent().unwrap_or(directory))?;
    fs::create_dir(directory)?;
    let files = template.files();
    // The daemon notices function.toml, the first one, when all others are there.
    for (path, text) in files.iter().rev() {
        let (file, unnamed) = (directory.join(path), directory.join(".new"));
        fs::create_dir_all(file.parent().unwrap_or(directory))?;
        let text = if *path == spec::SPEC_FILE { complete(text) } else { (*text).to_owned() };
        // The daemon may look at any time, and must not find an empty file.
        fs::write(&unnamed, text.replace("{name}", name).replace("{image}", &image(name)))?;
        fs::rename(unnamed, file)?;
    }
    Ok(files.iter().map(|(path, _)| *path).collect())
}

/// Inserts the keys that a template does not set, as comments.
fn complete(text: &str) -> String {
    let is_set = |key: &str| text.lines().any(|line| key_of(line) == Some(key));
    let keys = |all: &str| {
        let lines = all.lines().filter(|line| line.strip_prefix("# ").and_then(key_of).is_none_or(|key| !is_set(key)));
        lines.collect::<Vec<_>>().join("\n")
    };
    let parts = [("{common}", COMMON), ("{process}", PROCESS), ("{container}", CONTAINER), ("{vm}", VM)];
    parts.into_iter().fold(text.to_owned(), |text, (place, all)| text.replace(place, &format!("{}\n", keys(all))))
}

/// Returns the key that a line sets.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-').then_some(key)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// Returns the keys that the documentation lists for a part of the file.
    fn documented(part: &str) -> Vec<String> {
        let text = include_str!("../../docs/functions.md");
        let (_, table) = text.split_once("| key | default | meaning |\n").unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|')).skip(1);
        let in_part = rows.filter_map(|row| {
            let key = row.strip_prefix("| `")?.split(" |").next()?;
            match part {
                "" => (!key.starts_with('[')).then_some(key),
                part => key.strip_prefix(part)?.strip_prefix(' '),
            }
        });
        in_part
            .flat_map(|keys| keys.split(", ").map(|key| key.trim_matches('`').to_owned()).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn every_key_is_in_the_file_set_or_as_a_comment() {
        for template in Template::value_variants() {
            let text = complete(template.files()[0].1);
            let part = match template {
                Template::Container => "[container]",
                Template::Unikernel => "[vm]",
                _ => "[process]",
            };
            let keys = [documented(""), documented(part)].concat();
            assert!(keys.len() > 15, "{keys:?}");
            for key in keys.iter().filter(|key| *key != "hypervisor") {
                let is_it = |line: &str| key_of(line.strip_prefix("# ").unwrap_or(line)) == Some(key);
                assert_eq!(text.lines().filter(|line| is_it(line)).count(), 1, "{key} in {template:?}:\n{text}");
            }
            for (table, least) in [("async", 11), ("cluster", 2)] {
                let keys = documented(&format!("[{table}]"));
                assert!(keys.len() >= least, "{keys:?}");
                for key in keys {
                    let comment = format!("# {table}.{key} = ");
                    assert_eq!(text.lines().filter(|line| line.starts_with(&comment)).count(), 1, "{key}:\n{text}");
                }
            }
            for trigger in ["cron", "nats", "mqtt"] {
                let comment = format!("# {trigger} = ");
                let line = text.lines().find(|line| line.starts_with(&comment)).unwrap_or_default();
                for key in documented(&format!("[[{trigger}]]")) {
                    assert!(line.contains(&format!("{key} = ")), "{trigger}.{key}: {line}");
                }
                // It is valid without the comment.
                let set: toml::Table = line.trim_start_matches("# ").parse().unwrap();
                assert!(set[trigger].is_array(), "{line}");
            }
            for place in ["{common}", "{process}", "{container}", "{vm}"] {
                assert!(!text.contains(place), "{template:?}:\n{text}");
            }
        }
    }

    #[test]
    fn images_have_names_that_engines_accept() {
        assert_eq!((image("Mine"), image("a.b-_")), ("function/mine".to_owned(), "function/a.b".to_owned()));
    }
}
