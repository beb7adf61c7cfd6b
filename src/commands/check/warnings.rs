//! What is allowed and probably not meant: files with nearly the right name, variables that no shell expands, and work that
//! nodes share where there is only one.

use std::{fs, path::Path};

use unifaas_actors::spec::{CronScope, Durability, FunctionSpec, SPEC_FILE, SandboxSpec};

/// Names that people give to the file.
const NEARLY: [&str; 8] = [
    "Function.toml",
    "function.yaml",
    "function.yml",
    "function.json",
    "functions.toml",
    "function.tml",
    "function.toml.txt",
    "faas.toml",
];
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "fish"];

/// Returns which directories of a registry have a file with nearly the right name.
pub fn of_registry(root: &Path) -> Vec<String> {
    let mut directories: Vec<_> =
        fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    directories.sort();
    directories.iter().filter_map(|directory| of_directory(directory)).collect()
}

/// Returns that a directory has a file with nearly the right name, and none with the right one.
fn of_directory(directory: &Path) -> Option<String> {
    let is_function = directory.join(SPEC_FILE).symlink_metadata().is_ok();
    let nearly = NEARLY.iter().map(|name| directory.join(name)).find(|path| path.is_file())?;
    (!is_function).then(|| format!("{} is not read: the file of a function is {SPEC_FILE}", nearly.display()))
}

/// Returns what is odd about a valid function.
pub fn of_function(spec: &FunctionSpec) -> Vec<String> {
    let (key, words) = match &spec.sandbox {
        SandboxSpec::Process(process) => ("process.command", process.command.as_slice()),
        SandboxSpec::Container(container) => ("container.command", container.command.as_deref().unwrap_or_default()),
        SandboxSpec::Vm(_) => return Vec::new(),
    };
    let program = words.first().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    if SHELLS.iter().any(|shell| program == *shell) {
        return Vec::new();
    }
    let file = spec.directory.join(SPEC_FILE);
    let variables = words.iter().filter_map(|word| variable(word));
    let warning = |variable: &str| {
        let instead = match variable.trim_matches(['$', '{', '}']) {
            "PORT" => "; %port is the port",
            "HOST" => "; %ip is the address",
            "CALLBACK_URL" => "; %callback is the URL",
            _ => "",
        };
        format!("{}: {key}: {variable} is passed as it is, because no shell runs the command{instead}", file.display())
    };
    variables.map(warning).collect()
}

/// Returns what a valid function shares with other nodes, which a daemon without `--cluster` does not have.
pub fn of_lone_node(spec: &FunctionSpec) -> Vec<String> {
    let file = spec.directory.join(SPEC_FILE);
    let stays = |key: &str, value: &str, what: &str| {
        format!("{}: {key}: {value:?} needs --cluster, which is not set here: {what}", file.display())
    };
    let is_shared = spec.asynchronous.durability == Durability::Site;
    let durability = is_shared
        .then(|| stays("async.durability", "site", "asynchronous invocations stay on the node that accepts them"));
    let cron = spec.triggers.cron.iter().enumerate().filter(|(_, cron)| cron.scope == CronScope::Cluster);
    let scopes = cron.map(|(index, _)| stays(&format!("cron[{index}].scope"), "cluster", "each node runs each firing"));
    durability.into_iter().chain(scopes).collect()
}

/// Returns the first `$NAME` or `${NAME}` of a word.
fn variable(word: &str) -> Option<&str> {
    let start = word.find('$')?;
    let rest = &word[start + 1..];
    let inner = rest.strip_prefix('{').unwrap_or(rest);
    let name =
        inner.bytes().take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_').count();
    let end = start + 1 + (rest.len() - inner.len()) + name + usize::from(rest.starts_with('{'));
    (name > 0 && inner.as_bytes()[0].is_ascii_uppercase()).then(|| &word[start..end.min(word.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_in_words() {
        for (word, found) in [
            ("$PORT", Some("$PORT")),
            ("--port=${PORT}", Some("${PORT}")),
            ("a$MY_NAME2/b", Some("$MY_NAME2")),
            ("$5", None),
            ("costs $", None),
            ("^abc$", None),
            ("%port", None),
        ] {
            assert_eq!(variable(word), found, "{word}");
        }
    }

    #[test]
    fn shared_work_is_odd_on_a_lone_node() {
        let spec = |keys: &str| {
            let text = format!("[process]\ncommand = [\"sh\"]\n{keys}");
            FunctionSpec::parse("f", Path::new("/r/f"), &text).unwrap()
        };
        assert!(of_lone_node(&spec("[[cron]]\nat = \"0 0 * * *\"\n[async]\ndurability = \"node\"\n")).is_empty());
        let cron = "[[cron]]\nat = \"0 0 * * *\"\n[[cron]]\nat = \"0 1 * * *\"\nscope = \"cluster\"\n";
        assert_eq!(
            of_lone_node(&spec(&format!("{cron}[async]\ndurability = \"site\"\n"))),
            [
                "/r/f/function.toml: async.durability: \"site\" needs --cluster, which is not set here: asynchronous invocations stay on the node that accepts them",
                "/r/f/function.toml: cron[1].scope: \"cluster\" needs --cluster, which is not set here: each node runs each firing",
            ]
        );
    }

    #[test]
    fn only_commands_without_a_shell_are_odd() {
        let spec = |command: &str| {
            let text = format!("[process]\ncommand = {command}\n");
            FunctionSpec::parse("f", Path::new("/r/f"), &text).unwrap()
        };
        assert_eq!(
            of_function(&spec("[\"serve\", \"$PORT\"]")),
            [
                "/r/f/function.toml: process.command: $PORT is passed as it is, because no shell runs the command; %port is the port"
            ]
        );
        assert!(of_function(&spec("[\"/bin/sh\", \"-c\", \"serve $PORT\"]")).is_empty());
    }
}
