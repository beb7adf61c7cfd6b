//! Problems that only the disk shows.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::spec::{FunctionSpec, SPEC_FILE, SpecError, files::reason, kernel::tests::bzimage};

const CONTAINER: &str = "[container]\nimage = \"i\"\n";

pub(super) struct Function {
    _root: TempDir,
    directory: PathBuf,
}

impl Function {
    fn named(name: &str) -> Function {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(name);
        fs::create_dir(&directory).unwrap();
        Function { _root: root, directory }
    }

    pub(super) fn with(content: impl AsRef<[u8]>) -> Function {
        let function = Function::named("hello");
        function.write(SPEC_FILE, content);
        function
    }

    pub(super) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        fs::write(self.directory.join(file), content).unwrap();
    }

    pub(super) fn load(&self) -> Result<FunctionSpec, SpecError> {
        FunctionSpec::load(&self.directory)
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Returns the messages of a check, without the path of the directory.
    pub(super) fn messages(&self) -> String {
        let directory = format!("{}/", self.directory.display());
        FunctionSpec::check(&self.directory).unwrap_err().to_string().replace(&directory, "")
    }
}

#[test]
fn a_function_is_named_like_its_directory() {
    let function = Function::with(CONTAINER);
    let spec = function.load().unwrap();
    assert_eq!(spec.name, "hello");
    assert_eq!(spec.directory, function.directory);
    assert_eq!(spec, FunctionSpec::parse("hello", &function.directory, CONTAINER).unwrap());
}

#[test]
fn a_relative_directory_becomes_absolute() {
    let spec = FunctionSpec::load(Path::new("no/such/./place")).unwrap_err();
    assert!(spec.file.is_absolute());
    assert!(spec.file.ends_with("no/such/place/function.toml"), "{}", spec.file.display());
    assert!(!FunctionSpec::load(Path::new("")).unwrap_err().problems.is_empty());
}

#[test]
fn an_invalid_name_of_the_directory_is_a_problem() {
    let function = Function::named("no name");
    function.write(SPEC_FILE, CONTAINER);
    assert!(function.messages().contains("function.toml: the directory cannot be a function: a function's name"));
    let spelled = FunctionSpec::load(&function.directory.join("..")).unwrap_err();
    assert!(spelled.to_string().contains("does not exist"), "{spelled}");
}

#[test]
fn a_file_that_cannot_be_read_as_text_is_a_problem() {
    assert_eq!(Function::named("hello").messages(), "function.toml: does not exist");
    assert_eq!(Function::with("").messages(), "function.toml: the file is empty");
    assert_eq!(Function::with(b"a = 1\nb = \"\xff\"").messages(), "function.toml:2: is not UTF-8");
    let padded = |size: usize| format!("{CONTAINER}{}", "#".repeat(size - CONTAINER.len()));
    assert_eq!(Function::with(padded(65_537)).messages(), "function.toml: is larger than 64 KiB");
    Function::with(padded(65_536)).load().unwrap();
}

#[test]
fn other_than_regular_files_are_problems_and_never_block() {
    let function = Function::named("hello");
    let path = function.directory.join(SPEC_FILE);
    fs::create_dir(&path).unwrap();
    assert_eq!(function.messages(), "function.toml: is a directory, not a file");
    fs::remove_dir(&path).unwrap();
    let _socket = UnixListener::bind(&path).unwrap();
    assert_eq!(function.messages(), "function.toml: is not a regular file");
}

#[test]
fn the_files_of_a_vm_have_to_exist() {
    let function = Function::with(
        "cpus = 1\n[vm]\nkernel = \"kernel\"\nimage = \"disk\"\ninitrd = \"initrd\"\nhypervisor.type = \"qemu\"\n\
         cmdline = \"%callback\"\n",
    );
    fs::create_dir(function.directory.join("disk")).unwrap();
    let expected = [
        "function.toml:1: cpus: unknown key in the file's top level; it belongs to [process], [container] or [vm]",
        "function.toml:3: vm.kernel: \"kernel\" does not exist",
        "function.toml:4: vm.image: \"disk\" is a directory, not a file",
        "function.toml:5: vm.initrd: \"initrd\" does not exist",
    ];
    assert_eq!(function.messages(), expected.join("\n"));
}

#[test]
fn loads_a_vm_whose_files_exist() {
    let vm = "[vm]\nkernel = \"kernel\"\nimage = \"disk\"\ncmdline = \"%callback\"\n\
        hypervisor = { type = \"qemu\", disk-type = \"9p\" }\n";
    let function = Function::with(vm);
    function.write("kernel", bzimage(70 << 20));
    function.write("disk", "");
    assert_eq!(function.messages(), "function.toml:3: vm.image: \"disk\" is not a directory");
    fs::remove_file(function.directory.join("disk")).unwrap();
    fs::create_dir(function.directory.join("disk")).unwrap();
    function.load().unwrap();
}

#[test]
fn a_kernel_that_the_vmm_cannot_boot_is_a_problem() {
    let vm = "[vm]\nkernel = \"kernel\"\ncmdline = \"%callback\"\nhypervisor.type = ";
    let function = Function::with(format!("{vm}\"firecracker\"\n"));
    function.write("kernel", bzimage(70 << 20));
    let said = function.messages();
    assert!(said.starts_with("function.toml:2: vm.kernel: \"kernel\" is a bzImage, which Firecracker"), "{said}");
    function.write(SPEC_FILE, format!("{vm}\"qemu\"\n"));
    function.load().unwrap();
    function.write("kernel", "#!/bin/sh\n");
    assert!(function.messages().contains("is not a kernel"));
}

#[test]
fn a_program_given_by_path_has_to_be_executable() {
    let function = Function::with("[process]\ncommand = [\"./f\", \"%callback\"]\n");
    assert_eq!(function.messages(), "function.toml:2: process.command: \"f\" does not exist");
    function.write("f", "#!/bin/sh\n");
    let program = function.directory.join("f");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(function.messages(), "function.toml:2: process.command: \"f\" is not executable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o645)).unwrap();
    function.load().unwrap();
}

#[test]
fn a_program_that_is_resolved_later_is_not_checked() {
    for program in ["%unifaas", "./%port/f"] {
        Function::with(format!("[process]\ncommand = [{program:?}]\n")).load().unwrap();
    }
}

#[test]
fn describes_errors_of_the_system() {
    assert_eq!(reason(&io::Error::from(ErrorKind::PermissionDenied)), "may not be read by the daemon's user");
    assert!(reason(&io::Error::other("boom")).contains("boom"));
}

#[test]
fn the_functions_of_the_repository_are_valid() {
    let registry = Path::new(env!("CARGO_MANIFEST_DIR")).join("../registry");
    let mut checked = 0;
    for entry in fs::read_dir(registry).unwrap() {
        let directory = entry.unwrap().path();
        // Not `load`: kernels and images may have to be built first.
        if let Ok(text) = fs::read_to_string(directory.join(SPEC_FILE)) {
            let name = directory.file_name().unwrap().to_str().unwrap();
            FunctionSpec::parse(name, &directory, &text).unwrap_or_else(|error| panic!("{error}"));
            checked += 1;
        }
    }
    assert!(checked > 0);
}
