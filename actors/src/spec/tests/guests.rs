//! The function.toml texts of `docs/guests.md` and `docs/functions.md` are accepted as they stand there.

use std::path::Path;

use toml::Table;

use super::{FunctionSpec, disk::Function};
use crate::spec::{elf, kernel::tests::bzimage};

/// Returns the TOML blocks of a document.
fn examples(text: &str) -> Vec<&str> {
    text.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block).collect()
}

#[test]
fn examples_of_guests_document_are_accepted() {
    let examples = examples(include_str!("../../../../docs/guests.md"));
    assert_eq!(examples.len(), 6, "unikernel, Nanos, OSv, Unikraft, and Linux twice");
    for text in examples {
        let function = Function::with(text);
        let table: Table = text.parse().unwrap();
        for key in ["kernel", "initrd", "image"] {
            match table["vm"].get(key).and_then(|file| file.as_str()) {
                Some(file @ "vmlinuz") => function.write(file, bzimage(70 << 20)),
                Some(file) if key == "kernel" => function.write(file, elf::tests::kernel(1 << 20)),
                Some(file) => function.write(file, "content"),
                None => {}
            }
        }
        if let Err(error) = function.load() {
            panic!("{text}\n{error}");
        }
    }
}

#[test]
fn examples_of_functions_document_are_accepted() {
    let examples = examples(include_str!("../../../../docs/functions.md"));
    assert_eq!(examples.len(), 2, "a schedule, and a program per request");
    for text in examples {
        FunctionSpec::parse("f", Path::new("/registry/f"), text).unwrap();
    }
}
