//! Values of `[env]` are never shown.

use super::{FULL_PROCESS, good, parse};

const SECRET: &str = "hunter2";

#[test]
fn problems_contain_no_value_of_env() {
    for text in [
        "env = \"hunter2\"",
        "env = [\"hunter2\"]",
        "[env]\nA = [\"hunter2\"]",
        "[env]\nA = { B = \"hunter2\" }",
        "[env]\n\"A=hunter2\" = \"\"",
        "[env]\nA = \"hunter2\\u0000\"",
        "[env]\nA = \"hunter2",
        "[env]\nA = hunter2",
        "[env]\nA = \"hunter2\\q\"",
        "[env]\nA = \"hunter2\"\nA = \"hunter2\"",
        "[env]\nA = \"hunter2\"\n[vm]",
        "[enviroment]\nA = \"hunter2\"",
        "[container.env]\nA = \"hunter2\"",
        "[[container]]\n[container.env]\nA = \"hunter2\"",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!error.to_string().contains(SECRET), "{error}");
        assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    }
}

#[test]
fn a_shown_spec_has_only_the_names() {
    let shown = serde_json::to_value(good(&FULL_PROCESS.replace("hello", SECRET))).unwrap();
    assert_eq!(shown["env"], serde_json::json!(["EMPTY", "GREETING"]));
    assert!(!shown.to_string().contains(SECRET), "{shown}");
    let printed = format!("{:?}", good(&FULL_PROCESS.replace("hello", SECRET)));
    assert!(printed.contains("GREETING") && !printed.contains(SECRET), "{printed}");
}
