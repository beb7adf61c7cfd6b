//! Formats, sums and seeds; policies on six arrivals, against figures worked out by hand.

use std::fs;

use super::{
    convert::{Conversion, convert},
    *,
};

fn six() -> Trace {
    let rows = "time_s,function,duration_ms\n0,a,1000\n3,a,1000\n4,b,1000\n10,a,1000\n10.5,a,1000\n12,b,1000\n";
    Trace::parse(rows.as_bytes()).unwrap()
}

fn simulated(text: &str) -> (Outcome, Vec<(u64, u64)>) {
    let model = Model { start_s: 1.0, memory_mib: 100.0, length_s: 20.0 };
    let found = simulate(&six(), &policy(text).unwrap(), model);
    let counts = found.by_function.values().copied().collect();
    (found, counts)
}

#[test]
fn a_short_keepalive_starts_often() {
    // a: 0 to 7 (busy for 3 s), 10 to 15 and 10.5 to 15.5 (2 s each); b: 4 to 9 and 12 to 17 (2 s each).
    let (found, counts) = simulated("keepalive=3");
    assert_eq!((counts, found.cold()), (vec![(3, 4), (2, 2)], (5, 6)));
    assert_eq!((found.memory_mib_s, found.idle_mib_s), (2700.0, 1600.0));
    assert_eq!(found.slowdowns, [2.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    // A paused instance is there as well.
    let (paused, _) = simulated("keepalive=1+keep-paused=2");
    assert_eq!(paused, found);
}

#[test]
fn a_long_keepalive_holds_memory() {
    // a: 0 to 20 (busy for 4 s) and 10.5 to 20 (2 s); b: 4 to 20 (3 s).
    let (found, counts) = simulated("keepalive=600");
    assert_eq!((counts, found.memory_mib_s, found.idle_mib_s), (vec![(2, 4), (1, 2)], 4550.0, 3650.0));
}

#[test]
fn a_budget_of_one_instance_evicts_and_lets_requests_wait() {
    // a: 0 to 4 (busy for 3 s), 10 to 13 (3 s); b: 4 to 10 (2 s), 13 to 20 (2 s). The request of 10.5 waits until 12.
    let (found, counts) = simulated("budget=100+keepalive=600");
    assert_eq!((counts, found.memory_mib_s, found.idle_mib_s), (vec![(2, 4), (2, 2)], 2000.0, 1000.0));
    assert_eq!(found.slowdowns, [2.0, 1.0, 2.0, 2.0, 2.5, 3.0]);
}

#[test]
fn instances_that_are_kept_ready_are_there_from_the_begin() {
    // a: 0 to 14 (busy for 3 s) and 10.5 to 20 (2 s); b: 0 to 20 (2 s).
    let (found, counts) = simulated("min-instances=1+keepalive=3");
    assert_eq!((counts, found.memory_mib_s, found.idle_mib_s), (vec![(1, 4), (0, 2)], 4350.0, 3650.0));
}

#[test]
fn synthetic_traces_depend_on_their_seed_alone() {
    let shape = Shape { functions: 50, minutes: 20, load: 0.3 };
    let trace = generate(&shape, 7);
    assert_eq!(trace.csv(), generate(&shape, 7).csv());
    assert_ne!(trace.csv(), generate(&shape, 8).csv());
    assert!(trace.0.iter().all(|invocation| (0.0..1200.0).contains(&invocation.time_s)));
    let busy: f64 = trace.0.iter().map(|invocation| invocation.duration_ms).sum::<f64>() / 1000.0 / 1200.0;
    assert!((0.01..0.5).contains(&busy), "{busy} processors");
    // Rare functions are most of them, and a few frequent ones have most of the invocations.
    let mut counts: Vec<_> = trace
        .functions()
        .iter()
        .map(|name| trace.0.iter().filter(|invocation| invocation.function == *name).count())
        .collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    let top: usize = counts.iter().take(10).sum();
    assert!(counts.len() < 50 && top as f64 / trace.0.len() as f64 > 0.97, "{counts:?}");
}

#[test]
fn the_canonical_form_survives_and_broken_rows_have_their_line() {
    let trace = generate(&Shape { functions: 9, minutes: 30, load: 0.1 }, 3);
    let again = Trace::parse(trace.csv().as_bytes()).unwrap();
    assert_eq!((again.csv(), again.0.len()), (trace.csv(), trace.0.len()));
    let with_memory = "time_s,function,duration_ms,memory_mib\n1.000000,f,2.000,64.0\n2.000000,f,2.000,\n";
    assert_eq!(Trace::parse(with_memory.as_bytes()).unwrap().csv(), with_memory);
    for (text, line) in [
        ("time,f\n", "line 1: expected time_s"),
        ("time_s,function,duration_ms\n1,f,5\nx,f,5\n", "line 3: "),
        ("time_s,function,duration_ms\n-1,f,5\n", "line 2: expected a time"),
        ("time_s,function,duration_ms\n1,f,NaN\n", "line 2: expected a time"),
        ("time_s,function,duration_ms\n1,,5\n", "line 2: expected a time"),
    ] {
        let error = Trace::parse(text.as_bytes()).unwrap_err();
        assert!(error.starts_with(line), "{text}: {error}");
    }
}

/// Files of a data set, and how they are converted.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text).unwrap());
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn convert(&self, format: Format, change: impl FnOnce(&mut Conversion<'_>)) -> Result<Trace, String> {
        let (file, durations, memory) = (self.path("counts"), self.path("durations"), self.path("memory"));
        let mut conversion = Conversion {
            format,
            file: &file,
            durations: durations.exists().then_some(durations.as_path()),
            memory: memory.exists().then_some(memory.as_path()),
            window: (0, 3),
            functions: 100,
            spread: Spread::Even,
            default_ms: 100.0,
            seed: 1,
        };
        change(&mut conversion);
        convert(&conversion).map_err(|error| error.to_string())
    }
}

const AZURE: &str = "HashOwner,HashApp,HashFunction,Trigger,1,2,3,4\no,app,x,http,2,0,1,9\no,app,y,timer,1,1,1,1\no,app,z,queue,0,0,0,5\n";

#[test]
fn azure_2019_has_counts_durations_and_memory() {
    let files = Files::new(&[
        ("counts", AZURE),
        ("durations", "HashOwner,HashApp,HashFunction,Average,Count\no,app,x,250,3\n"),
        ("memory", "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,app,9,170\n"),
    ]);
    let trace = files.convert(Format::Azure2019, |_| {}).unwrap();
    let text = "time_s,function,duration_ms,memory_mib\n15.000000,app/x,250.000,170.0\n30.000000,app/y,100.000,170.0\n\
                45.000000,app/x,250.000,170.0\n90.000000,app/y,100.000,170.0\n150.000000,app/x,250.000,170.0\n\
                150.000000,app/y,100.000,170.0\n";
    assert_eq!(trace.csv(), text);
    let later = files.convert(Format::Azure2019, |conversion| conversion.window = (3, 1)).unwrap();
    assert_eq!((later.0.len(), later.functions().len()), (15, 3), "the sums of the fourth minute");
    assert!(later.0.iter().all(|invocation| invocation.time_s < 60.0));
}

#[test]
fn sums_are_kept_however_they_are_spread_and_seeds_decide() {
    let files = Files::new(&[("counts", AZURE)]);
    for spread in [Spread::Poisson, Spread::Even, Spread::Start] {
        let of = |seed| {
            let change = |conversion: &mut Conversion<'_>| {
                (conversion.spread, conversion.seed, conversion.window) = (spread, seed, (0, 4))
            };
            files.convert(Format::Azure2019, change).unwrap()
        };
        let trace = of(1);
        let in_minute =
            |minute: u64| trace.0.iter().filter(|invocation| invocation.time_s as u64 / 60 == minute).count();
        assert_eq!([0, 1, 2, 3].map(in_minute), [3, 1, 2, 15], "{spread:?}");
        assert_eq!(trace.csv(), of(1).csv());
        assert_eq!(trace.csv() == of(2).csv(), spread != Spread::Poisson, "{spread:?}");
    }
}

#[test]
fn functions_are_drawn_of_all_rates() {
    let rows: String = (1..=100).map(|n| format!("o,app,f{n},http,{n}\n")).collect();
    let files = Files::new(&[("counts", &format!("HashOwner,HashApp,HashFunction,Trigger,1\n{rows}"))]);
    let trace = files.convert(Format::Azure2019, |conversion| conversion.functions = 4).unwrap();
    let mut rates: Vec<_> = trace
        .functions()
        .iter()
        .map(|name| trace.0.iter().filter(|invocation| invocation.function == *name).count())
        .collect();
    rates.sort_unstable();
    let quarters: Vec<_> = rates.iter().map(|rate| (rate - 1) / 25).collect();
    assert_eq!(quarters, [0, 1, 2, 3], "{rates:?}");
}

#[test]
fn azure_2021_has_an_invocation_in_each_row() {
    let rows = "app,func,end_timestamp,duration\na,f,61.5,1.5\na,f,10,0.25\nb,g,500,1\n";
    let files = Files::new(&[("counts", rows)]);
    let trace = files.convert(Format::Azure2021, |_| {}).unwrap();
    assert_eq!(trace.csv(), "time_s,function,duration_ms\n9.750000,a/f,250.000\n60.000000,a/f,1500.000\n");
    let broken = Files::new(&[("counts", "app,func,end_timestamp,duration\na,f,61.5,1.5\na,f,x,1\n")]);
    let error = broken.convert(Format::Azure2021, |_| {}).unwrap_err();
    assert!(error.contains("line 3: expected a number as end_timestamp"), "{error}");
}

#[test]
fn huawei_has_a_column_for_each_function() {
    let minutes = "day,time,0,1\n3,180,2,\n3,240,0,1.0\n3,300,1,0\n3,360,7,7\n";
    let trace = Files::new(&[("counts", minutes)]).convert(Format::HuaweiMinute, |_| {}).unwrap();
    let times: Vec<_> = trace.0.iter().map(|one| (one.time_s, &*one.function)).collect();
    assert_eq!(times, [(15.0, "f0"), (45.0, "f0"), (90.0, "f1"), (150.0, "f0")]);
    let seconds = "day,time,0\n0,0,2\n0,1,1\n";
    let trace = Files::new(&[("counts", seconds)]).convert(Format::HuaweiSecond, |_| {}).unwrap();
    let times: Vec<_> = trace.0.iter().map(|one| one.time_s).collect();
    assert_eq!(times, [0.25, 0.75, 1.5]);
    let broken = Files::new(&[("counts", "day,time,0\n0,0,2\n0,60,-1\n")]);
    let error = broken.convert(Format::HuaweiMinute, |_| {}).unwrap_err();
    assert!(error.contains("line 3: expected a count, found \"-1\""), "{error}");
    let other = Files::new(&[("counts", AZURE)]).convert(Format::HuaweiMinute, |_| {}).unwrap_err();
    assert!(other.contains("line 1: there is no column day"), "{other}");
}
