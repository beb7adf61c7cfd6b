//! What the metrics are.

use serde::{Deserialize, Serialize};

/// What is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Times, memory.
    Lower,
    /// Rates.
    Higher,
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    /// Its name in files.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// From when to when, and the unit behind a comma.
    pub meaning: &'static str,
    /// What the numbers of its contestants count. Empty: they have none.
    pub count: &'static str,
    /// What is an improvement.
    pub better: Better,
    /// Whether values may be compared as ratios. Differences may be close to zero.
    pub has_ratios: bool,
}

impl Definition {
    const BASE: Self = Self { id: "", title: "", meaning: "", count: "", better: Better::Lower, has_ratios: true };

    /// The time of a cold start.
    pub const COLD: Self = Self {
        id: "cold",
        title: "Cold start",
        meaning: "from before connect(2) to the first byte of the response, ms",
        ..Self::BASE
    };

    const fn warm(id: &'static str, title: &'static str) -> Self {
        Self { id, title, meaning: "from the first write(2) to the first byte of the response, ms", ..Self::BASE }
    }

    const fn overhead(id: &'static str, title: &'static str) -> Self {
        Self { id, title, meaning: "difference of the medians of each round, ms", has_ratios: false, ..Self::BASE }
    }

    /// Warm requests without pauses: directly, through the daemon, and the difference.
    pub const WARM: [Self; 3] = [
        Self::warm("warm-direct", "Warm request, directly"),
        Self::warm("warm-daemon", "Warm request through the daemon"),
        Self::overhead("warm-overhead", "What the daemon adds to a warm request"),
    ];
    /// Warm requests with pauses.
    pub const WARM_PAUSES: [Self; 3] = [
        Self::warm("warm-direct-pauses", "Warm request, directly, 10 ms pauses"),
        Self::warm("warm-daemon-pauses", "Warm request through the daemon, 10 ms pauses"),
        Self::overhead("warm-overhead-pauses", "What the daemon adds to a warm request, 10 ms pauses"),
    ];

    const fn burst(id: &'static str, title: &'static str, meaning: &'static str) -> Self {
        Self { id, title, meaning, count: "at once", ..Self::BASE }
    }

    /// Bursts.
    pub const BURST: [Self; 4] = [
        Self::burst("burst-first", "Burst, first answer", "to the first byte of the first response, ms"),
        Self::burst("burst-median", "Burst, median answer", "to the median of the first bytes, ms"),
        Self::burst("burst-p95", "Burst, 95th percentile", "to the 95th percentile of the first bytes, ms"),
        Self::burst(
            "burst-last",
            "Burst, last answer",
            "from the first write(2) to the first byte of the last response, ms",
        ),
    ];

    const fn work(id: &'static str, title: &'static str) -> Self {
        Self { id, title, meaning: "from the first write(2) to the first byte of the response, ms", ..Self::BASE }
    }

    /// The work of the benchmark function, by its name in variants.
    pub const WORK: [(&'static str, Self); 6] = [
        ("fib", Self::work("cpu-fib", "Integers: Fibonacci number 1,000,000,000")),
        ("fft", Self::work("cpu-fft", "Floating point: Fourier transform of 1,048,576 samples")),
        ("matrix", Self::work("cpu-matrix", "Memory bandwidth: product of matrices of 1,024 by 1,024")),
        ("alloc", Self::work("alloc", "Allocation of 50 MiB")),
        ("read", Self::work("read", "Reading a file of 50 MiB")),
        ("unzip", Self::work("unzip", "Unpacking 10 files of together 50 MiB")),
    ];

    /// Answers in a closed loop.
    pub const THROUGHPUT: Self = Self {
        id: "throughput",
        title: "Throughput",
        meaning: "answers per second in a closed loop, 1/s",
        count: "connections",
        better: Better::Higher,
        ..Self::BASE
    };

    const fn load(id: &'static str, title: &'static str) -> Self {
        let meaning = "from when the request should have been sent to the first byte of the response, ms";
        Self { id, title, meaning, count: "load", ..Self::BASE }
    }

    /// Latencies of an open loop.
    pub const LOAD: [Self; 3] = [
        Self::load("load-p50", "Open load, median latency"),
        Self::load("load-p99", "Open load, 99th percentile"),
        Self::load("load-p99.9", "Open load, 99.9th percentile"),
    ];

    /// Large responses.
    pub const TRANSFER: Self = Self {
        id: "transfer",
        title: "Transfer of 50 MiB",
        meaning: "bytes from the first write(2) to the last read(2), MiB/s",
        count: "connections",
        better: Better::Higher,
        ..Self::BASE
    };

    const fn memory(id: &'static str, title: &'static str, meaning: &'static str) -> Self {
        Self { id, title, meaning, ..Self::BASE }
    }

    /// Memory of an idle instance.
    pub const MEMORY: [Self; 3] = [
        Self::memory(
            "memory-available",
            "Memory of an idle instance, available memory of the host",
            "slope of the decrease of MemAvailable over the number of instances, MiB",
        ),
        Self::memory(
            "memory-pss",
            "Memory of an idle instance, proportional set size",
            "slope of the proportional set size of its processes over the number of instances, MiB",
        ),
        Self::memory(
            "memory-cgroup",
            "Memory of an idle instance, cgroup",
            "slope of what the cgroups of its processes count over the number of instances, MiB",
        ),
    ];

    /// Processor time of an idle instance.
    pub const IDLE_CPU: Self = Self {
        id: "idle-cpu",
        title: "Processor time of an idle instance",
        meaning: "time on processors of all threads for each instance and second, µs",
        ..Self::BASE
    };
    /// Context switches of an idle instance.
    pub const IDLE_SWITCHES: Self = Self {
        id: "idle-switches",
        title: "Context switches of an idle instance",
        meaning: "context switches of all threads for each instance and second, 1/s",
        ..Self::BASE
    };

    /// Keep-alive policies: requests that start an instance, memory over time, and response times.
    pub const REPLAY: [Self; 3] = [
        Self {
            id: "replay-cold",
            title: "Requests that wait for a start",
            meaning: "share of the requests that were answered, %",
            has_ratios: false,
            ..Self::BASE
        },
        Self {
            id: "replay-memory",
            title: "Memory of instances over time",
            meaning: "what --memory-budget counts, over the seconds of the replay, MiB·s",
            ..Self::BASE
        },
        Self {
            id: "replay-slowdown",
            title: "Slowdown",
            meaning: "median of the time from when a request should have been sent to its last byte, relative to its work, times",
            ..Self::BASE
        },
    ];

    /// Returns the unit.
    pub fn unit(&self) -> &'static str {
        self.meaning.rsplit_once(", ").map_or("", |(_, unit)| unit)
    }
}
