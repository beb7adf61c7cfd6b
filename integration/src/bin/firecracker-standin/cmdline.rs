//! The kernel command line: its capacity, and what Firecracker appends.

use crate::refusal::{Refusal, parsing, starting};

/// With the NUL at its end.
const CAPACITY: usize = 2048;
const SEPARATOR: &str = " -- ";
const DEFAULT: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0";
const TOO_LONG: &str = "Inserting string would make command line too long.";

/// Arguments of the kernel, and of its init.
#[derive(Debug, Clone)]
pub struct Cmdline {
    boot: String,
    init: String,
}

impl Cmdline {
    pub fn new(boot_args: Option<&str>) -> Result<Self, Refusal> {
        let text = boot_args.unwrap_or(DEFAULT);
        let is_outside_of_quotes = |at: usize| text[..at].matches('"').count().is_multiple_of(2);
        let separator = text.match_indices(SEPARATOR).map(|(at, _)| at).find(|at| is_outside_of_quotes(*at));
        let (boot, init) = separator.map_or((text, ""), |at| (&text[..at], &text[at + SEPARATOR.len()..]));
        let cmdline = Self { boot: boot.trim().to_owned(), init: init.trim().to_owned() };
        if cmdline.text().len() < CAPACITY {
            return Ok(cmdline);
        }
        let error = "Invalid cmdline capacity provided.";
        let debug_form = format!("BootSource(InvalidKernelCommandLine({error:?}))");
        Err(parsing(&debug_form, &format!("Boot source error: The kernel command line is invalid: {error}")))
    }

    fn text(&self) -> String {
        let Self { boot, init } = self;
        if init.is_empty() { boot.clone() } else { format!("{boot}{SEPARATOR}{init}") }
    }

    /// Inserts before the arguments of init. Returns false if there is no room.
    fn insert(&mut self, words: &str) -> bool {
        if !self.boot.is_empty() {
            self.boot.push(' ');
        }
        self.boot.push_str(words);
        self.text().len() < CAPACITY
    }

    pub fn append(&mut self, words: &str) -> Result<(), Refusal> {
        let fits = self.insert(words);
        let refusal =
            || starting(&format!("KernelCmdline({TOO_LONG:?})"), &format!("Invalid command line: {TOO_LONG}"));
        fits.then_some(()).ok_or_else(refusal)
    }

    /// Makes room for the `index`th device. QEMU appends its own text about it.
    pub fn append_device(&mut self, index: usize) -> Result<(), Refusal> {
        let mut whole = self.clone();
        for device in 0..=index {
            let words = format!("virtio_mmio.device=4K@0xc000{}000:{}", device + 1, device + 5);
            if !whole.insert(&words) {
                let debug_form = "AttachDevice(MmioTransport(Cmdline(TooLarge)))";
                return Err(starting(debug_form, &format!("Cannot attach a device: {TOO_LONG}")));
            }
        }
        Ok(())
    }

    /// Returns the line for QEMU.
    pub fn finish(&self) -> Result<String, Refusal> {
        let text = self.text();
        if text.contains('\0') {
            let message = "Cannot create cstring from cmdline string: NullTerminator".to_owned();
            return Err(Refusal::Panic { place: "src/vmm/src/arch/x86_64/mod.rs:262:10", message });
        }
        Ok(text)
    }
}
