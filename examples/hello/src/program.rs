//! Answers each request with the output of a program, so that a script is a function.

use std::{
    ffi::OsString,
    io::{self, BufRead, Read, Write},
    process::{Child, Command, Stdio},
    thread,
};

use super::{
    Answer, listen,
    request::{Request, copy_body, malformed},
};

/// Largest output of a program, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub struct Program(Vec<OsString>);

/// Serves like [`run`](super::run), and answers with the output of a program.
///
/// The program gets the body of the request as standard input, and `REQUEST_METHOD`, `PATH_INFO` and `QUERY_STRING` in its
/// environment. Unless it exits with status 0, the answer is 500.
///
/// # Errors
/// As `run`, and without a program.
pub fn run_program(callback: Option<String>, program: Vec<OsString>) -> io::Result<()> {
    listen(callback, &Answer::Program(Program::new(program)?))
}

impl Program {
    pub fn new(words: Vec<OsString>) -> io::Result<Self> {
        if words.is_empty() { Err(malformed("there is no program to run")) } else { Ok(Self(words)) }
    }

    /// Runs the program for a request, and returns status and body of the answer.
    ///
    /// # Errors
    /// When the body of the request breaks off.
    pub fn run(&self, request: &Request<'_>, reader: &mut impl BufRead) -> io::Result<(&'static str, Vec<u8>)> {
        let mut child = match self.spawn(request) {
            Ok(child) => child,
            Err(error) => {
                copy_body(reader, request.body, &mut io::sink())?;
                return Ok(failed(&format!("cannot run {}: {error}", self.0[0].display())));
            }
        };
        let stdout = child.stdout.take();
        // Read meanwhile: a program may print before it has read everything.
        let output = thread::spawn(move || {
            let mut output = Vec::new();
            stdout.map(|stdout| stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output)).transpose().map(|_| output)
        });
        let body = copy_body(reader, request.body, &mut Lossy(child.stdin.take()));
        let (status, output) = (child.wait()?, output.join());
        body?;
        Ok(match output {
            // A program that wants to print more than is read is ended by SIGPIPE.
            Ok(Ok(output)) if output.len() as u64 > MAX_OUTPUT => {
                failed(&format!("the output is larger than {} MiB", MAX_OUTPUT >> 20))
            }
            Ok(Ok(output)) if status.success() => ("200 OK", output),
            _ => failed(&status.to_string()),
        })
    }

    fn spawn(&self, request: &Request<'_>) -> io::Result<Child> {
        let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("REQUEST_METHOD", request.method).env("PATH_INFO", path).env("QUERY_STRING", query);
        command.spawn()
    }
}

fn failed(why: &str) -> (&'static str, Vec<u8>) {
    let _ = writeln!(io::stderr(), "{why}");
    ("500 Internal Server Error", format!("{why}\n").into_bytes())
}

/// The standard input of a program that may stop to read it.
struct Lossy<W>(Option<W>);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.as_mut().is_some_and(|writer| writer.write_all(bytes).is_err()) {
            self.0 = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
