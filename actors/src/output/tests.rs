use super::{OutputStream::*, *};

#[test]
fn joins_lines_that_arrive_in_pieces() {
    let log = OutputLog::default();
    log.write(Out, b"one\ntw");
    log.write(Out, b"o\nthr");
    assert_eq!(log.texts(10), ["one", "two", "thr"]);
    assert_eq!(log.texts(2), ["two", "thr"]);
    assert_eq!(log.summary(2), "two | thr");
}

#[test]
fn keeps_the_pieces_of_two_streams_apart() {
    let log = OutputLog::default();
    log.write(Out, b"a");
    log.write(Err, b"x");
    log.write(Out, b"b\nc");
    log.write(Err, b"y\n");
    log.note("ready");
    log.end(Out);
    log.end(Err);
    let shown: Vec<_> = log.tail(9).iter().map(|line| (line.number, line.stream, line.text.to_string())).collect();
    let expected = [(1, Out, "ab"), (2, Err, "xy"), (3, Platform, "ready"), (4, Out, "c")];
    assert_eq!(shown, expected.map(|(number, stream, text)| (number, stream, text.to_owned())));
}

#[test]
fn numbers_continue_when_lines_are_dropped() {
    let log = OutputLog::default();
    for line in 0..250 {
        log.write(Console, format!("line {line}\n").as_bytes());
    }
    log.write(Console, b"unfinished");
    let tail = log.tail(MAX_LINES + 1);
    assert_eq!((tail.len(), tail[0].number), (MAX_LINES + 1, 151));
    assert_eq!((tail[100].number, &*tail[100].text), (251, "unfinished"));
    assert!(tail.windows(2).all(|pair| pair[0].time <= pair[1].time));
}

#[test]
fn bounds_lines_and_their_length() {
    let log = OutputLog::default();
    log.write(Out, &vec![b'x'; 1 << 20]);
    for line in 0..10_000 {
        log.write(Out, format!("\nline {line}").as_bytes());
    }
    assert_eq!(log.tail(usize::MAX).len(), MAX_LINES + 1);
    assert_eq!(log.texts(1), ["line 9999"]);
    let log = OutputLog::default();
    log.write(Out, &vec![b'x'; 1 << 20]);
    assert_eq!(log.texts(1)[0].len(), MAX_LINE_BYTES);
}

#[test]
fn redacts_secrets_at_the_end_of_truncated_lines() {
    let token = crate::id::ReadyToken::random();
    let redactor = Redactor::new(token, &Default::default());
    let log = OutputLog::of("f".into(), InstanceId::random(), redactor, Arc::default(), BootClock::new(Instant::now()));
    let secret = token.reveal();
    log.write(Out, format!("callback=http://x/ready/{secret} ro\n").as_bytes());
    assert_eq!(log.texts(1), ["callback=http://x/ready/… ro"]);
    log.note(&format!("ended: {secret}"));
    assert_eq!(log.texts(1), ["ended: …"]);
    for before in MAX_LINE_BYTES - 40..=MAX_LINE_BYTES {
        log.write(Err, format!("{}{secret} and more", "x".repeat(before)).as_bytes());
        for line in log.texts(1) {
            assert!(!line.contains(&secret[..4]), "{before}: {line}");
            assert!(line.len() <= MAX_LINE_BYTES);
        }
        log.write(Err, b"\n");
    }
}

#[test]
fn replaces_invalid_text_and_control_characters() {
    let log = OutputLog::default();
    log.write(Out, b"\xff\x00\x1b[31mred\r\n");
    assert_eq!(log.texts(1), ["\u{fffd}\u{fffd}\u{fffd}[31mred"]);
}

#[test]
fn lines_are_serialised_with_stable_names() {
    let log = OutputLog::default();
    log.write(Err, b"oops\n");
    let line = serde_json::to_value(&log.tail(1)[0]).unwrap();
    assert_eq!((&line["number"], &line["stream"], &line["text"]), (&1.into(), &"err".into(), &"oops".into()));
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
}

#[test]
fn lines_since_an_event_are_kept_ones_and_losses_are_known() {
    let log = OutputLog::default();
    log.write(Out, b"one\ntwo\n");
    let first = log.tail(2)[0].sequence;
    let texts = |lines: Vec<Arc<OutputLine>>| lines.iter().map(|line| line.text.to_string()).collect::<Vec<_>>();
    let (since, is_incomplete) = log.since(first);
    assert_eq!((texts(since), is_incomplete), (vec!["two".to_owned()], false));
    log.write(Out, b"more\nunfinished");
    assert_eq!(texts(log.complete(2)), ["two", "more"]);
    for _ in 0..MAX_LINES {
        log.note("x");
    }
    assert!(log.since(first).1 && !log.since(log.tail(1)[0].sequence).1);
}
