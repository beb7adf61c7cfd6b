//! `Server-Timing`: where the time of a request went.

use std::{
    io::{self, Write},
    time::Duration,
};

use actix_http::header::HeaderValue;
use unifaas_actors::{BootClock, Phase, Wait};

/// Bytes of the longest value: three durations, and those of the phases of a boot.
const MAX_LENGTH: usize = 512;

/// The phases of a boot behind its admission, by their names in the header.
const PHASES: [(Phase, &str); 5] = [
    (Phase::Resources, ", boot-resources"),
    (Phase::Created, ", boot-created"),
    (Phase::Started, ", boot-started"),
    (Phase::FirstOutput, ", boot-first-output"),
    (Phase::Ready, ", boot-ready"),
];

/// Returns the header: how long the request waited for a slot and for a boot, and for the head of the response. A request
/// that waited for a boot or a restore gets its phases, by `clock`.
pub fn server_timing(wait: &Wait, upstream: Duration, clock: &BootClock) -> HeaderValue {
    let mut text = [0; MAX_LENGTH];
    let mut rest = &mut text[..];
    // There is room for the longest durations.
    let _ = write(&mut rest, wait, upstream, clock);
    let unused = rest.len();
    HeaderValue::from_bytes(&text[..text.len() - unused]).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Returns the header of an answer of another node, which has its own besides: how long it took from here.
pub fn peer_timing(took: Duration) -> HeaderValue {
    let mut text = Vec::with_capacity(32);
    // A vector takes what is written.
    let _ = write_entry(&mut text, "peer", took);
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn write(out: &mut impl Write, wait: &Wait, upstream: Duration, clock: &BootClock) -> io::Result<()> {
    if wait.queue.is_zero() && wait.boot.is_zero() {
        out.write_all(b"queue;dur=0.000, boot;dur=0.000")?;
        return write_entry(out, ", upstream", upstream);
    }
    write_entry(out, "queue", wait.queue)?;
    if let Some(reason) = wait.queue_for {
        out.write_all(b";desc=\"")?;
        out.write_all(reason.as_str().as_bytes())?;
        out.write_all(b"\"")?;
    }
    write_entry(out, ", boot", wait.boot)?;
    if let Some(origin) = wait.boot_from {
        write!(out, ";desc=\"{origin}\"")?;
    }
    write_entry(out, ", upstream", upstream)?;
    if wait.is_cold() {
        write_phases(out, clock)?;
    }
    Ok(())
}

/// Writes how long each phase of a boot took. They add up to the whole boot.
fn write_phases(out: &mut impl Write, clock: &BootClock) -> io::Result<()> {
    let (Some(mut before), Some(ready)) = (clock.offset(Phase::Admitted), clock.offset(Phase::Ready)) else {
        return Ok(());
    };
    for (phase, name) in PHASES {
        // The first output may come late, or before the phase that precedes it.
        if let Some(end) = clock.offset(phase).filter(|end| (before..=ready).contains(end)) {
            write_entry(out, name, end - before)?;
            before = end;
        }
    }
    Ok(())
}

fn write_entry(out: &mut impl Write, name: &str, duration: Duration) -> io::Result<()> {
    out.write_all(name.as_bytes())?;
    out.write_all(b";dur=")?;
    write_milliseconds(out, duration)
}

/// Writes a duration as milliseconds with three decimals. Integers: a float costs ten times as much to write.
fn write_milliseconds(out: &mut impl Write, duration: Duration) -> io::Result<()> {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let (whole, rest) = (micros / 1000, (micros % 1000) as u16);
    out.write_all(itoa::Buffer::new().format(whole).as_bytes())?;
    out.write_all(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)])
}

fn digit(number: u16) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use unifaas_actors::{Origin, WaitedFor};

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn durations_are_milliseconds_with_three_decimals() {
        let clock = BootClock::new(Instant::now());
        let value = server_timing(&Wait::default(), Duration::from_nanos(1_234_567), &clock);
        assert_eq!(value, "queue;dur=0.000, boot;dur=0.000, upstream;dur=1.234");
        let wait = Wait { queue: ms(70_000), queue_for: Some(WaitedFor::Host), ..Wait::default() };
        assert_eq!(
            server_timing(&wait, ms(20), &clock),
            "queue;dur=70000.000;desc=\"host\", boot;dur=0.000, upstream;dur=20.000"
        );
    }

    #[test]
    fn a_request_that_waited_for_a_boot_gets_its_phases() {
        let origin = Instant::now();
        let clock = BootClock::new(origin);
        for (phase, at) in [
            (Phase::Admitted, 5),
            (Phase::Resources, 6),
            (Phase::Started, 16),
            (Phase::FirstOutput, 300),
            (Phase::Ready, 36),
            (Phase::FirstByte, 40),
        ] {
            clock.mark_at(phase, origin + ms(at));
        }
        let wait = Wait { boot: ms(31), boot_from: Some(Origin::Cold), ..Wait::default() };
        assert_eq!(
            server_timing(&wait, ms(4), &clock),
            "queue;dur=0.000, boot;dur=31.000;desc=\"cold\", upstream;dur=4.000, boot-resources;dur=1.000, \
             boot-started;dur=10.000, boot-ready;dur=20.000"
        );
        let wait = Wait { boot: ms(1), boot_from: Some(Origin::Resumed), ..Wait::default() };
        assert_eq!(
            server_timing(&wait, ms(4), &clock),
            "queue;dur=0.000, boot;dur=1.000;desc=\"resumed\", upstream;dur=4.000"
        );
    }

    #[test]
    fn there_is_room_for_the_longest_durations() {
        let origin = Instant::now();
        let clock = BootClock::new(origin);
        for (position, phase) in Phase::ALL.into_iter().enumerate() {
            clock.mark_at(phase, origin + Duration::from_secs(1_000_000_000 * (position as u64 + 1)));
        }
        let (queue_for, boot_from) = (Some(WaitedFor::Slot), Some(Origin::Restored));
        let wait = Wait { queue: Duration::MAX, queue_for, boot: Duration::MAX, boot_from };
        let value = server_timing(&wait, Duration::MAX, &clock);
        assert!(value.to_str().unwrap().ends_with(", boot-ready;dur=1000000000000.000"), "{value:?}");
    }
}
