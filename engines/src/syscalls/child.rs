//! A child process from its creation to the execution of its program, and the memory that it uses meanwhile.
//!
//! It uses the memory of its creator (`CLONE_VM`), as after vfork(2). To copy the page tables of even a small process, and
//! to drop the copy at exec, takes several times as long as all other steps. Unlike after vfork(2), the creator is not
//! suspended: a child that is stopped, or waits for a disk, delays no other.
//!
//! Other processes of the child's new user must not trace it. The kernel ensures that: a change of the user makes the
//! memory not dumpable, also for the creator.
//!
//! `steps.rs` is what the child does.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        LazyLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use ::syscalls::{Sysno, syscall3};
use nix::{
    libc,
    unistd::{Pid, getpid},
};
use rustix::{
    io::{Errno, ioctl_fionbio, read, write},
    process::Gid,
};

use super::launch::{Failed, Launch, Program, REPORT, Step};

/// Standard input, output and error of a child.
pub const STANDARD: usize = 3;
/// The stack of a child, in bytes.
const STACK: usize = 32 << 10;
const STACK_ALIGNMENT: usize = 16;
/// Executes a script without a first line that names its interpreter.
pub(super) const SHELL: &CStr = c"/bin/sh";

/// Whether a change of the user leaves the memory dumpable.
static SUID_DUMPABLE: LazyLock<bool> =
    LazyLock::new(|| fs::read_to_string("/proc/sys/fs/suid_dumpable").is_ok_and(|value| value.trim() == "1"));

/// A child that has not executed its program. Without an [`outcome`](Self::outcome), the memory that it uses is never
/// freed.
#[derive(Debug)]
pub struct NewChild {
    pub pid: Pid,
    /// Contains the failure, and ends after the child has left the memory.
    report: OwnedFd,
    failed: Option<Failed>,
    /// `None` once it was freed.
    memory: Option<NonNull<Memory>>,
}

/// What a child uses until it executes its program.
pub(super) struct Memory {
    pub launch: Launch,
    pub groups: Vec<Gid>,
    pub arguments: Strings,
    /// As `arguments`, for [`SHELL`].
    pub script: Strings,
    pub environment: Strings,
    /// The child's copies of descriptors.
    pub standard: [BorrowedFd<'static>; STANDARD],
    report: BorrowedFd<'static>,
    pub creator: Pid,
    stack: Box<[MaybeUninit<u8>]>,
}

/// Pointers to strings of the same [`Memory`], and a null pointer at the end.
pub(super) struct Strings(Vec<AtomicPtr<c_char>>);

impl Launch {
    /// Creates a child, which executes its program or exits. All signals of the calling thread must be blocked, and all
    /// descriptors but the standard ones closed at exec.
    ///
    /// # Errors
    /// If the child could not be created.
    pub fn start(self, standard: [OwnedFd; STANDARD]) -> Result<NewChild, Failed> {
        let shares = self.may_share_memory() && !*SUID_DUMPABLE;
        self.start_sharing(standard, shares)
    }

    fn start_sharing(self, standard: [OwnedFd; STANDARD], shares: bool) -> Result<NewChild, Failed> {
        let (report, writer) = io::pipe().map_err(Failed::at(Step::Descriptors))?;
        let (report, writer) = (OwnedFd::from(report), OwnedFd::from(writer));
        ioctl_fionbio(&report, true).map_err(Failed::at(Step::Descriptors))?;
        let memory = NonNull::from(Box::leak(Box::new(Memory::new(self, &standard, &writer))));
        let flags = libc::SIGCHLD | if shares { libc::CLONE_VM } else { 0 };
        // SAFETY: `enter` keeps to the rules of `steps.rs`. Its stack and all else that it uses is in `memory`, which is
        // freed after the child has left it.
        let pid = unsafe { libc::clone(enter, memory.as_ref().stack_top(), flags, memory.as_ptr().cast()) };
        let mut child = NewChild { pid: Pid::from_raw(pid), report, failed: None, memory: Some(memory) };
        if pid < 0 {
            let error = io::Error::last_os_error();
            child.free();
            return Err(Failed::at(Step::Clone)(error));
        }
        Ok(child)
    }
}

extern "C" fn enter(memory: *mut c_void) -> c_int {
    // SAFETY: `start_sharing` passes a pointer to it.
    let memory = unsafe { &*memory.cast::<Memory>() };
    let failed = memory.become_program();
    let _ = write(memory.report, &failed.report());
    libc::EXIT_FAILURE
}

impl NewChild {
    /// Returns whether the start has failed. `None`: the child is not that far.
    ///
    /// A child killed before it has executed its program counts as killed later.
    pub fn outcome(&mut self) -> Option<Result<(), Failed>> {
        let mut report = [0; REPORT];
        loop {
            match read(&self.report, &mut report) {
                // exec replaces the memory before it closes descriptors, as does the end of a process.
                Ok(0) => {
                    self.free();
                    return Some(self.failed.map_or(Ok(()), Err));
                }
                Ok(_) => self.failed = Some(Failed::parse(report)),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Frees the memory, which no child uses.
    fn free(&mut self) {
        // SAFETY: it is from a `Box`, and nothing else frees it.
        self.memory.take().into_iter().for_each(|memory| drop(unsafe { Box::from_raw(memory.as_ptr()) }));
    }
}

impl AsFd for NewChild {
    /// Returns a descriptor that is readable once there may be an [`outcome`](Self::outcome).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

impl Memory {
    fn new(launch: Launch, standard: &[OwnedFd; STANDARD], report: &OwnedFd) -> Self {
        // SAFETY: the child's copy of it is open until it executes its program.
        let copy = |descriptor: &OwnedFd| unsafe { BorrowedFd::borrow_raw(descriptor.as_raw_fd()) };
        let user = launch.confinement.as_ref().and_then(|confinement| confinement.user.as_ref());
        let groups = user.into_iter().flat_map(|(_, _, groups)| groups).map(|group| Gid::from_raw(*group));
        let Program { arguments, environment, .. } = &launch.program;
        let rest = arguments.iter().skip(1).map(CString::as_c_str);
        Self {
            groups: groups.collect(),
            arguments: Strings::new(arguments.iter().map(CString::as_c_str)),
            script: Strings::new([SHELL, c""].into_iter().chain(rest)),
            environment: Strings::new(environment.iter().map(CString::as_c_str)),
            standard: standard.each_ref().map(copy),
            report: copy(report),
            creator: getpid(),
            stack: Box::new_uninit_slice(STACK),
            launch,
        }
    }

    fn stack_top(&self) -> *mut c_void {
        let end = self.stack.as_ptr_range().end;
        end.wrapping_sub(end.addr() % STACK_ALIGNMENT).cast_mut().cast()
    }
}

impl Strings {
    fn new<'s>(strings: impl Iterator<Item = &'s CStr>) -> Self {
        let pointers = strings.map(|string| AtomicPtr::new(string.as_ptr().cast_mut()));
        Self(pointers.chain([AtomicPtr::default()]).collect())
    }

    /// Replaces the string after the first one.
    pub(super) fn set_second(&self, string: &CStr) {
        if let Some(pointer) = self.0.get(1) {
            pointer.store(string.as_ptr().cast_mut(), Ordering::Relaxed);
        }
    }
}

/// Executes a file. Returns the error. The arguments are of one [`Memory`].
pub(super) fn execve(file: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    let (arguments, environment) = (arguments.0.as_ptr().addr(), environment.0.as_ptr().addr());
    // SAFETY: both end with a null pointer, and what they point to lives as long as the `Memory`.
    match unsafe { syscall3(Sysno::execve, file.as_ptr().addr(), arguments, environment) } {
        Err(errno) => Errno::from_raw_os_error(errno.into_raw()),
        // It returns errors only.
        Ok(_) => Errno::INVAL,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, Permissions},
        io::Read,
        os::unix::fs::PermissionsExt,
        thread,
    };

    use nix::errno::Errno as LibcErrno;
    use rustix::process::{Pid as RustixPid, WaitOptions, waitpid};

    use super::{super::launch::Confinement, *};

    fn launch(files: &[&CStr], arguments: &[&CStr]) -> Launch {
        let own = |strings: &[&CStr]| strings.iter().map(|string| (*string).to_owned()).collect();
        let program = Program { files: own(files), arguments: own(arguments), environment: vec![c"A=b".to_owned()] };
        Launch { program, directory: c"/".to_owned(), confinement: None }
    }

    /// Returns the exit status and the output.
    fn run(launch: Launch, shares: bool) -> Result<(Option<i32>, String), Failed> {
        let (mut reader, writer) = io::pipe().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let mut child = launch.start_sharing([null(), writer.into(), null()], shares)?;
        let outcome = loop {
            match child.outcome() {
                Some(outcome) => break outcome,
                None => thread::yield_now(),
            }
        };
        let errno = LibcErrno::last_raw();
        let status = waitpid(RustixPid::from_raw(child.pid.as_raw()), WaitOptions::empty()).unwrap().unwrap().1;
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        LibcErrno::set_raw(errno);
        outcome.map(|()| (status.exit_status(), output))
    }

    #[test]
    fn program_gets_its_arguments_environment_and_directory() {
        for shares in [true, false] {
            let mut launch = launch(&[c"/bin/sh"], &[c"sh", c"-c", c"echo $0 $1 $A $(pwd); exit 3", c"x", c"y z"]);
            launch.directory = c"/proc".to_owned();
            assert_eq!(run(launch, shares), Ok((Some(3), "x y z b /proc\n".to_owned())));
        }
    }

    #[test]
    fn tries_files_as_execvp_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
        };
        let (text, script) = (file("text", "echo no", 0o644), file("script", "echo $0 $1", 0o755));
        let missing = c"/no/such/file";
        let errno = |files: &[&CStr]| run(launch(files, &[c"x"]), true).unwrap_err();
        assert_eq!(errno(&[missing, missing]), Failed { step: Step::Exec, errno: libc::ENOENT });
        assert_eq!(errno(&[&text, missing]), Failed { step: Step::Exec, errno: libc::EACCES });
        // It would not be a script.
        let damaged = file("damaged", "\x7fELF", 0o755);
        assert_eq!(errno(&[&damaged]), Failed { step: Step::Exec, errno: libc::ENOEXEC });
        // As it does not name its interpreter.
        let output = run(launch(&[missing, &text, &script], &[c"x", c"argument"]), true).unwrap().1;
        assert_eq!(output, format!("{} argument\n", script.to_str().unwrap()));
    }

    #[test]
    fn failure_names_the_first_step_that_failed() {
        let failed = |change: &dyn Fn(&mut Launch), shares| {
            let mut launch = launch(&[c"/bin/sh"], &[c"sh"]);
            change(&mut launch);
            run(launch, shares).unwrap_err().to_string()
        };
        let confined =
            |confinement: Confinement| move |launch: &mut Launch| launch.confinement = Some(confinement.clone());
        for shares in [true, false] {
            let chdir = failed(&|launch| launch.directory = c"/no/such/directory".to_owned(), shares);
            assert_eq!(chdir, "chdir: No such file or directory (os error 2)");
            let cgroups = vec![c"/proc/self/status".to_owned(), c"/no/such/tasks".to_owned()];
            let cgroup = failed(&confined(Confinement { cgroups, ..Confinement::default() }), shares);
            assert!(cgroup.starts_with("cgroup: "), "{cgroup}");
            let open_files = Some((u64::MAX - 1, u64::MAX - 1));
            let limit = failed(&confined(Confinement { open_files, ..Confinement::default() }), shares);
            assert_eq!(limit, "setrlimit: Operation not permitted (os error 1)");
        }
    }

    #[test]
    fn errno_is_the_creators() {
        const UNUSED: i32 = 4_000;
        for _ in 0..100 {
            LibcErrno::set_raw(UNUSED);
            run(launch(&[c"/no/such/file", c"/no/such/file"], &[c"x"]), true).unwrap_err();
            assert_eq!(LibcErrno::last_raw(), UNUSED);
        }
        let mut launch = launch(&[c"/bin/true"], &[c"true"]);
        launch.directory = c"/no/such/directory".to_owned();
        run(launch, true).unwrap_err();
        assert_eq!(LibcErrno::last_raw(), UNUSED);
    }
}
