//! Tests of the order of the sources. The environment, of which a process has only one, is left to the black-box tests.

use std::fs;

use tempfile::NamedTempFile;

use super::*;

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    file
}

fn parse_with(file: &NamedTempFile, arguments: &[&str]) -> Result<Configuration, ConfigError> {
    let mut all: Vec<OsString> = vec!["unifaas".into()];
    all.extend(arguments.iter().map(Into::into));
    all.extend(["--config".into(), file.path().into()]);
    parse(all).map(|parsed| parsed.configuration.unwrap())
}

fn source(configuration: &Configuration, key: &str) -> (Option<String>, String) {
    let setting = configuration.settings.iter().find(|setting| setting.key == key).unwrap();
    (setting.value.clone(), setting.source.to_string())
}

#[test]
fn the_command_line_precedes_the_file_and_the_file_defaults() {
    let file = file("\ntap-pool = 7\nmax-connections = 5\n");
    for command in [&[][..], &["serve"], &["config"], &["config", "--json"]] {
        let configuration = parse_with(&file, &[command, &["-r", "x", "--max-connections=6"]].concat()).unwrap();
        assert_eq!(configuration.serve.tap_pool, 7);
        assert_eq!(source(&configuration, "tap-pool"), (Some("7".into()), format!("{}:2", file.path().display())));
        assert_eq!(source(&configuration, "max-connections"), (Some("6".into()), "command line".into()));
        assert_eq!(source(&configuration, "max-connections-per-client"), (Some("3".into()), "default".into()));
        assert_eq!(source(&configuration, "drain-grace"), (Some("10".into()), "default".into()));
        assert_eq!(source(&configuration, "admin-listen"), (None, "default".into()));
    }
}

#[test]
fn an_option_finds_the_one_that_it_needs_in_the_file() {
    let file = file("tls-key = 'k'\n");
    let configuration = parse_with(&file, &["--tls-cert", "c"]).unwrap();
    assert_eq!((configuration.serve.tls_cert, configuration.serve.tls_key), (Some("c".into()), Some("k".into())));
    let error = parse_with(&file, &[]).unwrap_err().to_string();
    assert!(error.contains("--tls-cert <FILE>"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_its_line_and_clap_s_words() {
    for (line, hint) in [
        ("listen = 'nonsense'", "invalid value 'nonsense' for '--listen <HOST:PORT>': expected HOST:PORT"),
        ("max-connections = 0", "invalid value '0' for '--max-connections <COUNT>': expected a number, one or more"),
        ("drain-grace = -1", "zero or more"),
        ("log-level = 'loud'", "[possible values: error, warn"),
        ("max-starts = true", "invalid digit"),
    ] {
        let file = file(&format!("tap-pool = 1\n\n{line}\n"));
        let error = parse_with(&file, &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:3: ", file.path().display())), "{error}");
        assert!(error.contains(hint) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_wrong_argument_is_refused_as_without_a_file() {
    let file = file("listen = '127.0.0.1:1'\n");
    for arguments in [&["--listen", "nonsense"][..], &["--lsten", "x"], &["nonsense"]] {
        let error = parse_with(&file, arguments).unwrap_err();
        assert!(matches!(&error, ConfigError::Usage(error) if error.exit_code() == 2), "{error:?}");
        assert!(error.to_string().starts_with("error: "), "{error}");
    }
}

#[test]
fn differences_are_found_when_the_file_is_read_again() {
    let file = file("tap-pool = 1\n");
    let before = parse_with(&file, &["--log-level=warn"]).unwrap();
    fs::write(&file, "tap-pool = 2\nlog-level = 'debug'\ndrain-grace = 10\n").unwrap();
    let after = before.reread().unwrap();
    assert_eq!(after.differences(&before), ["tap-pool"]);
    fs::write(&file, "tap-pol = 2\n").unwrap();
    assert!(before.reread().unwrap_err().to_string().contains("did you mean `tap-pool`?"));
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = parse(["unifaas", "--config", "/no/such/file"].map(Into::into).into()).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}

#[test]
fn shown_settings_are_a_file_with_the_same_settings() {
    let file = file("registry = '/a \"b\" # c'\nmemory-budget = '80%'\nclient-timeout = 0.5\n");
    let shown = parse_with(&file, &["--listen", "[::1]:80"]).unwrap().to_toml();
    let again = parse_with(&self::file(&shown), &[]).unwrap();
    assert_eq!(again.serve.registry, Some("/a \"b\" # c".into()));
    assert_eq!(again.serve.listen.to_string(), "[::1]:80");
    assert_eq!(again.serve.client_timeout.as_millis(), 500);
    let values = |configuration: &Configuration| -> Vec<_> {
        configuration.settings.iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect()
    };
    assert_eq!(values(&again), values(&parse_with(&file, &["--listen", "[::1]:80"]).unwrap()));
}

#[test]
fn every_option_has_a_variable_named_like_it() {
    for option in Serve::augment_args(clap::Command::new("serve")).get_arguments() {
        let name = option.get_long().unwrap().to_uppercase().replace('-', "_");
        assert_eq!(option.get_env().and_then(|name| name.to_str()), Some(format!("UNIFAAS_{name}").as_str()));
    }
}

#[test]
fn the_packaged_file_has_the_defaults() {
    let text = include_str!("../../packaging/unifaas.toml");
    let lines = text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' '));
    let settings: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    assert!(settings.len() > 4, "{settings:?}");
    let shown = parse_with(&file(&settings.join("\n")), &[]).unwrap();
    let defaults = parse_with(&file("registry = '/etc/unifaas/registry'"), &[]).unwrap();
    assert_eq!(shown.differences(&defaults), Vec::<&str>::new());
    let (packaged, without) = (parse_with(&file(text), &[]).unwrap(), parse_with(&file(""), &[]).unwrap());
    assert_eq!(packaged.differences(&without), ["admin-read"]);
}
