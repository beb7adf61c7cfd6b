//! The command line, and the configuration file as JSON.

use serde_json::{Value, json};

use crate::host::{
    Outcome::{Exits, Panics, Resets, Runs},
    remove, set, with_each,
};

#[test]
fn arguments() {
    with_each(async |host| {
        let config = host.file("config.json", host.config().to_string().as_bytes());
        let (config, place) = (config.as_str(), host.files.path().display().to_string());
        let (long, longest) = ("x".repeat(65), "x".repeat(64));
        let product = ["--id", "i-1", "--no-api", "--config-file", config, "--level", "Error"];
        host.check_arguments("as the daemon writes it", &product, Runs).await;
        let api = ["--api-sock", "api.sock", "--config-file", config];
        host.check_arguments("without --no-api", &api, Runs).await;
        for more in [&["--level", "Warn"][..], &["--level", "off"], &["--boot-timer"], &["--id", &longest]] {
            let all = [&["--no-api", "--config-file", config], more].concat();
            host.check_arguments(&format!("{more:?}"), &all, Runs).await;
        }
        for (more, error) in [
            (&["--frob"][..], "UnexpectedArgument(\"frob\")"),
            (&["--id=x"], "UnexpectedArgument(\"id=x\")"),
            (&["--no-api"], "DuplicateArgument(\"no-api\")"),
            (&["--config-file", config], "DuplicateArgument(\"config-file\")"),
            (&["--id", "a", "--id", "b"], "DuplicateArgument(\"id\")"),
            (&["--id"], "MissingValue(\"id\")"),
            (&["--id", "--level", "Warn"], "MissingValue(\"id\")"),
        ] {
            let all = [&["--no-api", "--config-file", config], more].concat();
            let words: &'static str = format!("Error: ParseArguments({error})").leak();
            host.check_arguments(error, &all, Exits(153, words)).await;
        }
        let missing = Exits(153, "Error: ParseArguments(MissingArgument(\"config-file\"))");
        host.check_arguments("only --no-api", &["--no-api"], missing).await;
        let level = ["--no-api", "--config-file", config, "--level", "loud"];
        host.check_arguments("an unknown level", &level, Exits(152, "Error: InvalidLogLevel(")).await;
        for id in ["a_b", &long, ""] {
            let panic = Panics("Firecracker panicked at src/firecracker/src/main.rs:");
            host.check_arguments(id, &["--no-api", "--config-file", config, "--id", id], panic).await;
        }
        for (path, words) in [
            (
                "no-such-file",
                "configuration file: Os { code: 2, kind: NotFound, message: \"No such file or directory\" }",
            ),
            (&place, "configuration file: Os { code: 21, kind: IsADirectory, message: \"Is a directory\" }"),
        ] {
            host.check_arguments(path, &["--no-api", "--config-file", path], Panics(words)).await;
        }
    });
}

#[test]
fn log_level_silences_what_is_no_error() {
    with_each(async |host| {
        let config = host.file("config.json", host.config().to_string().as_bytes());
        for (level, lines) in [("Info", true), ("Error", false)] {
            let arguments = ["--id", "i-1", "--no-api", "--config-file", &config, "--level", level];
            let said = host.check_arguments(level, &arguments, Runs).await;
            assert_eq!(said.contains(" [i-1:main] Running Firecracker"), lines, "{said}");
        }
    });
}

#[test]
fn json() {
    with_each(async |host| {
        let whole = host.config().to_string();
        let open = whole.strip_suffix('}').unwrap();
        for (name, text, expected) in [
            ("empty", String::new(), parsing!("InvalidJson(Error(\"EOF while parsing a value\"")),
            ("not JSON", "{".to_owned(), parsing!("InvalidJson(Error(\"EOF while parsing an object\"")),
            ("trailing comma", format!("{open},}}"), parsing!("InvalidJson(Error(\"trailing comma\"")),
            (
                "duplicate key",
                format!("{open},\"drives\":[]}}"),
                parsing!("InvalidJson(Error(\"duplicate field `drives`\""),
            ),
            ("byte order mark", format!("\u{feff}{whole}"), parsing!("InvalidJson(Error(\"expected value\"")),
            (
                "array",
                "[]".to_owned(),
                parsing!("InvalidJson(Error(\"invalid length 0, expected struct VmmConfig with 13 elements\""),
            ),
        ] {
            host.check_text(name, &text, expected).await;
        }
        for (pointer, expected) in [
            ("/frob", Runs),
            (
                "/boot-source/frob",
                parsing!("InvalidJson(Error(\"unknown field `frob`, expected one of `kernel_image_path`"),
            ),
            (
                "/machine-config/frob",
                parsing!("InvalidJson(Error(\"unknown field `frob`, expected one of `vcpu_count`, `mem"),
            ),
            (
                "/network-interfaces/0/frob",
                parsing!("InvalidJson(Error(\"unknown field `frob`, expected one of `iface_id`, `host_dev_name`"),
            ),
        ] {
            host.check(pointer, set(pointer, json!(1)), expected).await;
        }
        for (pointer, expected) in [
            ("/boot-source", parsing!("InvalidJson(Error(\"missing field `boot-source`\"")),
            ("/drives", parsing!("InvalidJson(Error(\"missing field `drives`\"")),
            ("/machine-config", Runs),
            ("/network-interfaces", Resets),
        ] {
            host.check(pointer, remove(pointer), expected).await;
        }
        for (pointer, expected) in [
            ("/boot-source", parsing!("InvalidJson(Error(\"invalid type: null, expected struct BootSourceConfig\"")),
            ("/drives", parsing!("InvalidJson(Error(\"invalid type: null, expected a sequence\"")),
            ("/machine-config", Runs),
            ("/network-interfaces", parsing!("InvalidJson(Error(\"invalid type: null, expected a sequence\"")),
        ] {
            host.check(pointer, set(pointer, Value::Null), expected).await;
        }
        let underscore = |config: &mut Value| {
            let source = config["boot-source"].take();
            *config = json!({ "boot_source": source, "drives": [] });
        };
        host.check("boot_source", underscore, parsing!("InvalidJson(Error(\"missing field `boot-source`\"")).await;
    });
}
