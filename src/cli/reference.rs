//! Keeps docs/cli.md current: the part behind its marker is written from the command line's own descriptions.

use std::{env, fmt::Write as _, fs, path::Path};

use clap::{Arg, CommandFactory};

use super::Cli;

const FILE: &str = "docs/cli.md";
/// What is behind this line is generated.
const MARKER: &str =
    "<!-- Generated from src/cli.rs by: UNIFAAS_DOCS=write cargo test -p unifaas --lib reference -->\n";
/// The options that all commands share which speak to a daemon.
const CLIENT: [&str; 2] = ["url", "json"];
const DEFAULT: &str = " [default: ";

#[test]
fn cli_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let present = fs::read_to_string(&path).unwrap();
    let (prose, generated) = present.split_once(MARKER).expect("the marker of the generated part");
    let expected = reference();
    if env::var("UNIFAAS_DOCS").is_ok_and(|wish| wish == "write") {
        fs::write(&path, format!("{prose}{MARKER}{expected}")).unwrap();
    } else {
        assert_eq!(generated, expected, "{FILE} is not current; its marker says how to write it");
    }
}

fn reference() -> String {
    let mut text = String::new();
    let cli = Cli::command();
    let serve: Vec<_> = cli.find_subcommand("serve").unwrap().get_arguments().map(Arg::get_id).collect();
    let visible = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let commands = visible.flat_map(|command| nested(command.get_name(), command));
    for (name, command) in commands {
        let (name, command) = (name.as_str(), &command);
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let about = command.get_long_about().map_or(about, |about| about.to_string().replace("\n\n", " "));
        let _ = write!(text, "\n## unifaas {name}\n\n{}.\n", about.trim_end_matches('.'));
        let is_of_serve = |option: &Arg| name == "config" && serve.contains(&option.get_id());
        let is_of_clients = |option: &Arg| CLIENT.contains(&option.get_id().as_str());
        let shared = |is_shared: &dyn Fn(&Arg) -> bool| command.get_arguments().any(is_shared);
        let of_parent = command_of(&cli, name);
        let is_of_parent = |option: &Arg| of_parent.contains(&identity(option));
        let mut rows: Vec<_> = command
            .get_arguments()
            .filter(|option| !is_of_parent(option))
            .filter(|option| {
                let is_elsewhere = is_of_serve(option) || is_client(command) && is_of_clients(option);
                !option.is_hide_set() && !is_elsewhere
            })
            .map(row)
            .collect();
        if !of_parent.is_empty() && shared(&is_of_parent) {
            rows.push(format!("| those of `unifaas {}` | | |\n", name.split(' ').next().unwrap_or_default()));
        }
        if shared(&is_of_serve) {
            rows.push("| those of `unifaas serve` | | |\n".to_owned());
        }
        if is_client(command) {
            rows.push("| `--url URL`, `--json` | | see [Speaking to a daemon](#speaking-to-a-daemon) |\n".to_owned());
        }
        let _ = write!(text, "\n| option | default | meaning |\n| --- | --- | --- |\n{}", rows.concat());
    }
    text
}

/// Returns a command and those nested in it, with their full names.
fn nested(name: &str, command: &clap::Command) -> Vec<(String, clap::Command)> {
    let inner = command.get_subcommands().flat_map(|inner| nested(&format!("{name} {}", inner.get_name()), inner));
    [(name.to_owned(), command.clone())].into_iter().chain(inner).collect()
}

/// Returns the options of the command that a nested one belongs to.
fn command_of(cli: &clap::Command, name: &str) -> Vec<(clap::Id, String)> {
    let parent = name.split_once(' ').and_then(|(parent, _)| cli.find_subcommand(parent));
    parent.into_iter().flat_map(clap::Command::get_arguments).map(identity).collect()
}

/// Returns what tells an option from others: nested commands may have another one of the same name.
fn identity(option: &Arg) -> (clap::Id, String) {
    (option.get_id().clone(), option.get_help().map(ToString::to_string).unwrap_or_default())
}

/// Whether a command speaks to a daemon.
fn is_client(command: &clap::Command) -> bool {
    CLIENT.iter().all(|id| command.get_arguments().any(|option| option.get_id() == id))
}

fn row(option: &Arg) -> String {
    let help = option.get_long_help().or(option.get_help()).map(ToString::to_string).unwrap_or_default();
    let (meaning, described) = match help.split_once(DEFAULT) {
        Some((before, after)) => {
            let (default, rest) = after.split_once(']').expect("the end of the default");
            (format!("{before}{rest}"), Some(default.to_owned()))
        }
        None => (help, None),
    };
    let constant = option.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).next();
    let value = option.get_value_names().filter(|_| option.get_action().takes_values());
    let value = value.map_or_else(String::new, |names| format!(" {}", names[0]));
    let name = option.get_long().map_or_else(|| value.trim().to_owned(), |long| format!("--{long}{value}"));
    let name = option.get_short().map_or_else(String::new, |short| format!("`-{short}`, ")) + &format!("`{name}`");
    let default = constant.or(described).unwrap_or_default();
    let possible: Vec<_> = option.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let possible =
        if possible.is_empty() || value.is_empty() { String::new() } else { format!(": {}", possible.join(", ")) };
    let meaning = meaning.trim_end_matches('.').replace("\n\n", " ");
    format!("| {} | {} | {} |\n", cell(&name), cell(&default), cell(&format!("{meaning}{possible}")))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
