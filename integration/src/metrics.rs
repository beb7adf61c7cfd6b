//! `/metrics`: its samples, and the parser of PyPI's `prometheus_client`, which accepts nothing that the format forbids.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::{Daemon, SOON, eventually, tools, within};

/// The parser, and what it must be.
const PARSER: &str = "prometheus_client==0.26.0 \
    --hash=sha256:fa93d06737aa02bacd05794768508bb97d2fbee28cb3bca04eaae92f0ca953d6";

/// Reads a text from standard input and prints the number of its samples.
const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(sum(len(family.samples) for family in text_string_to_metric_families(sys.stdin.read())))";

/// The samples of one scrape.
#[derive(Clone)]
pub struct Metrics {
    /// The whole text.
    pub text: String,
    /// How long the scrape took.
    pub took: Duration,
    samples: BTreeMap<String, f64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(&String, &f64)| !name.contains("_bucket{") && **value != 0.0;
        out.debug_map().entries(self.samples.iter().filter(shown)).finish()
    }
}

impl Metrics {
    /// Returns the value of the sample with that name and those labels: `unifaas_requests_total{function="f",outcome="ok"}`.
    pub fn value(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// Returns the sum of all samples whose name and labels begin like that.
    pub fn sum(&self, beginning: &str) -> f64 {
        self.of(beginning).map(|(_, value)| value).sum()
    }

    /// Returns the samples that begin like that.
    pub fn of(&self, beginning: &str) -> impl Iterator<Item = (&str, f64)> {
        self.samples.iter().filter(move |(name, _)| name.starts_with(beginning)).map(|(name, value)| (&**name, *value))
    }

    /// Returns the number of samples.
    pub fn series(&self) -> usize {
        self.samples.len()
    }

    /// Returns the names of all metrics, also of those without samples; that of a counter ends in `_total`.
    pub fn names(&self) -> BTreeSet<String> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect()
    }

    /// Checks that no counter of an earlier scrape has decreased or disappeared.
    ///
    /// # Panics
    /// When one has.
    #[track_caller]
    pub fn check_counters(&self, earlier: &Self) {
        let is_counter = |name: &str| ["_total", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix));
        for (sample, before) in &earlier.samples {
            let name = sample.split('{').next().unwrap_or_default();
            if is_counter(name) {
                let now = self.value(sample);
                assert!(now.is_some_and(|now| now >= *before), "{sample} was {before} and is {now:?}");
            }
        }
    }
}

impl Daemon {
    /// Scrapes `/metrics`.
    ///
    /// # Panics
    /// When there are none, or a sample is malformed.
    pub async fn metrics(&self) -> Metrics {
        let page = self.page("/metrics").await.ok();
        let kind = page.header("content-type");
        assert_eq!(kind.as_deref(), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
        let text = page.text();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        Metrics { samples: lines.map(sample).collect(), took: page.took, text }
    }

    /// Waits until `/metrics` satisfies a condition, and returns it.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn measured(&self, what: &str, condition: impl Fn(&Metrics) -> bool) -> impl Future<Output = Metrics> {
        eventually(SOON, what, async || self.metrics().await, condition)
    }
}

/// Installs the parser below a directory. `None`: Python is missing, or there is no network.
///
/// # Panics
/// When it cannot be installed, and this is CI.
#[allow(clippy::print_stderr, reason = "the test runner shows it")]
pub async fn openmetrics_parser(directory: &Path) -> Option<OpenMetricsParser> {
    let python = tools::program("python3")?;
    let packages = directory.join("prometheus_client");
    if !packages.join("prometheus_client/openmetrics").exists() {
        let wanted = directory.join("prometheus_client.txt");
        fs::write(&wanted, PARSER).expect("a file");
        let options = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
        let pinned = ["--only-binary", ":all:", "--require-hashes", "--root-user-action=ignore"];
        let mut install = Command::new(&python);
        install.args(options).args(pinned).arg("--target").arg(&packages).arg("--requirement").arg(&wanted);
        let installed = within(Duration::from_secs(120), "the installation", install.output()).await.expect("pip");
        if !installed.status.success() {
            assert!(std::env::var("CI").is_err(), "{installed:?}");
            eprintln!("skipped: the parser cannot be installed: {}", String::from_utf8_lossy(&installed.stderr));
            return None;
        }
    }
    Some(OpenMetricsParser { python, packages })
}

/// The parser, installed.
#[derive(Debug)]
pub struct OpenMetricsParser {
    python: PathBuf,
    packages: PathBuf,
}

impl OpenMetricsParser {
    /// Returns the number of samples of a text.
    ///
    /// # Panics
    /// When the text is malformed.
    pub async fn samples(&self, text: &str) -> usize {
        let mut command = Command::new(&self.python);
        command.args(["-c", PARSE]).env("PYTHONPATH", &self.packages);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut parser = command.spawn().expect("python");
        let mut input = parser.stdin.take().expect("its input");
        input.write_all(text.as_bytes()).await.expect("it reads");
        drop(input);
        let output =
            within(Duration::from_secs(60), "the parser", parser.wait_with_output()).await.expect("its output");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }
}
