//! Writes the files of a function.

use std::{fmt::Write, fs, path::Path};

use crate::home::Home;

/// A function of the registry.
///
/// The default is the function under test, run as a process that calls back.
#[derive(Debug, Clone)]
pub struct Function {
    name: String,
    program: Option<String>,
    keys: Vec<(String, String)>,
    process_keys: Vec<(String, String)>,
    env: Vec<(String, String)>,
    async_keys: Vec<(String, String)>,
    tables: Vec<String>,
    flags: Vec<String>,
    text: Option<String>,
}

impl Function {
    /// Returns the function under test, with a name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            program: None,
            keys: Vec::new(),
            process_keys: Vec::new(),
            env: Vec::new(),
            async_keys: Vec::new(),
            tables: Vec::new(),
            flags: Vec::new(),
            text: None,
        }
    }

    /// Returns a function with the given text as `function.toml`.
    pub fn verbatim(name: &str, text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..Self::new(name) }
    }

    /// Runs another program of this workspace.
    pub fn program(self, name: &str) -> Self {
        Self { program: Some(name.to_owned()), ..self }
    }

    /// Sets a top-level key to a TOML value; strings need quotes.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.keys.retain(|(present, _)| present != key);
        self.keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Ends instances that were idle for so many seconds, rather than pausing them.
    pub fn ends_after(self, seconds: impl ToString) -> Self {
        self.set("keepalive", seconds).set("keep-paused", 0)
    }

    /// Sets a key of `[process]`.
    pub fn process(mut self, key: &str, value: impl ToString) -> Self {
        self.process_keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds a table at the end, such as a `[[cron]]`.
    pub fn table(mut self, text: &str) -> Self {
        self.tables.push(format!("\n{text}\n"));
        self
    }

    /// Sets a key of `[async]`.
    pub fn asynchronous(mut self, key: &str, value: impl ToString) -> Self {
        self.async_keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Sets a variable of `[env]`.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), toml_string(value)));
        self
    }

    /// Adds a flag of the function under test; see `src/bin/testfn/options.rs`.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Returns the name of the function.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes or replaces the function in a directory, as an editor would. Its program is that of `home`.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[track_caller]
    pub fn write(&self, directory: &Path, home: &Home) {
        let directory = directory.join(&self.name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("function.toml"), self.toml(home)).unwrap();
    }

    fn toml(&self, home: &Home) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        let program = self.program.as_ref().map_or_else(|| home.testfn(), |name| home.program(name));
        let mut command = vec![program.to_string_lossy().into_owned(), "%callback".to_owned()];
        command.extend(["--token".to_owned(), home.token().to_owned()]);
        command.extend(self.flags.iter().cloned());
        let command: Vec<_> = command.iter().map(|word| toml_string(word)).collect();
        let mut text = lines(&self.keys);
        let _ = write!(text, "\n[process]\ncommand = [{}]\n{}", command.join(", "), lines(&self.process_keys));
        let _ = write!(text, "\n[env]\n{}\n[async]\n{}", lines(&self.env), lines(&self.async_keys));
        text + &self.tables.concat()
    }
}

/// Returns the path at which the function under test sends raw pieces, `ms` milliseconds apart. `then` is `keep`, `close` or
/// `reset`; the connection ends after another `ms` milliseconds.
pub fn verbatim(function: &str, pieces: &[&str], ms: u64, then: &str) -> String {
    let hex = |piece: &&str| piece.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pieces: Vec<_> = pieces.iter().map(hex).collect();
    format!("/invoke/{function}/verbatim?then={then}&ms={ms}&hex={}", pieces.join(","))
}

fn lines(keys: &[(String, String)]) -> String {
    keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
