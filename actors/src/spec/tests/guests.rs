//! The function.toml texts of `docs/guests.md` and the README are accepted as they stand there.

use std::path::Path;

use toml::Table;

use super::{
    FunctionSpec,
    disk::{BZIMAGE_START, Function},
};

/// The beginning of an ELF file for x86-64.
const ELF_START: [u8; 64] = {
    let mut start = [0; 64];
    (start[0], start[1], start[2], start[3], start[18]) = (0x7f, b'E', b'L', b'F', 62);
    start
};

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
                Some(file @ "vmlinuz") => function.write(file, BZIMAGE_START),
                Some(file) if key == "kernel" => function.write(file, ELF_START),
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
fn examples_of_readme_are_accepted() {
    let examples = examples(include_str!("../../../../README.md"));
    assert_eq!(examples.len(), 4, "a process with and without a callback, a container, a virtual machine");
    for text in examples {
        FunctionSpec::parse("f", Path::new("/registry/f"), text).unwrap();
    }
}
