//! `process_*`: the daemon's own process, by the names that every exporter gives them.

use std::fmt;

use procfs::{
    ProcResult, WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};
use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::MetricType::{Counter, Gauge},
    registry::Unit::{Bytes, Seconds},
};

use super::encode::describe;

#[derive(Debug)]
struct Figures {
    cpu_seconds: f64,
    resident: u64,
    virtual_size: u64,
    open_files: usize,
    /// `None`: without limit.
    max_files: Option<u64>,
    /// Since 1970.
    start_seconds: f64,
}

impl Figures {
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let per_second = procfs::ticks_per_second() as f64;
        let max_files = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        };
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / per_second,
            resident: stat.rss_bytes().get(),
            virtual_size: stat.vsize,
            open_files: process.fd_count()?,
            max_files,
            start_seconds: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / per_second,
        })
    }
}

/// Writes the metrics; none if the kernel does not tell.
pub fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Ok(figures) = Figures::read() else { return Ok(()) };
    let help = "Processor time of the daemon.";
    describe(encoder, Counter, "process_cpu", Some(&Seconds), help)?.counter(&[], figures.cpu_seconds)?;
    let help = "Memory of the daemon that is resident.";
    describe(encoder, Gauge, "process_resident_memory", Some(&Bytes), help)?.gauge(&[], figures.resident)?;
    let help = "Address space of the daemon.";
    describe(encoder, Gauge, "process_virtual_memory", Some(&Bytes), help)?.gauge(&[], figures.virtual_size)?;
    let help = "Open file descriptors of the daemon.";
    describe(encoder, Gauge, "process_open_fds", None, help)?.gauge(&[], figures.open_files)?;
    if let Some(limit) = figures.max_files {
        let help = "File descriptors that the daemon may have open.";
        describe(encoder, Gauge, "process_max_fds", None, help)?.gauge(&[], limit)?;
    }
    let help = "When the daemon was started, in seconds since 1970.";
    describe(encoder, Gauge, "process_start_time", Some(&Seconds), help)?.gauge(&[], figures.start_seconds)
}
