//! The answers, and that wrong work is noticed.

use super::*;

fn ask(target: &str) -> (&'static str, String) {
    let reply = answer("GET", target);
    assert!(reply.headers.starts_with("x-bench-us: ") && reply.headers.ends_with("\r\n"), "{}", reply.headers);
    (reply.status, String::from_utf8_lossy(&reply.body).trim().to_owned())
}

#[test]
fn work_has_its_known_result() {
    for (target, expected) in [
        ("/hello", "Hello"),
        ("/delay?us=1", "ok"),
        ("/hold?mib=1", "1 MiB"),
        // Modulo 2^64.
        ("/fib?n=90", "2880067194370816120"),
        ("/fib?n=1000", "817770325994397771"),
        ("/fft?n=1024", "129"),
        ("/alloc?mib=2", "512 pages"),
    ] {
        assert_eq!(ask(target), ("200 OK", expected.to_owned()), "{target}");
    }
    for target in ["/burn?us=100", "/matrix?n=33", "/matrix?n=0", "/info", "/fib?n=0"] {
        assert_eq!(ask(target).0, "200 OK", "{target}");
    }
    assert_eq!(answer("GET", "/static?mib=3").body.len(), 3 << 20);
}

#[test]
fn requests_out_of_range_are_refused() {
    for target in ["/delay", "/delay?us=-1", "/delay?us=60000001", "/fft?n=1000", "/hold?mib=x"] {
        assert_eq!(ask(target).0, "400 Bad Request", "{target}");
    }
    assert_eq!(ask("/nothing").0, "404 Not Found");
}

#[test]
fn work_takes_as_long_as_it_says() {
    let micros = |target| -> u64 {
        let headers = answer("GET", target).headers;
        headers.trim_start_matches("x-bench-us: ").trim().parse().unwrap()
    };
    assert!(micros("/delay?us=20000") >= 20_000);
    assert!(micros("/burn?us=20000") >= 20_000);
}

#[test]
fn checksum_is_that_of_zip() {
    assert_eq!(files::crc32(b"123456789"), 0xcbf4_3926);
}
