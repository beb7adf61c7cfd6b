//! Fuzz target of the journal: see `src/fuzz`.

use super::record::{Line, Replay};

/// Whatever the file says, it is read; what is torn or scribbled on costs nothing but itself; written anew, it says the same.
///
/// The first byte says where it is torn.
pub fn journal(data: &[u8]) {
    let Some((place, text)) = data.split_first() else { return };
    let replay = Replay::of(text);
    let lines = newlines(text);
    assert!(replay.resources.len() + replay.damaged <= lines);
    check_torn(text, text.len() * usize::from(*place) / 255);

    let anew = written_anew(&replay);
    assert_eq!(Replay::of(&anew), Replay { damaged: 0, ..replay });
    check_torn(&anew, anew.len() * usize::from(*place) / 255);
    check_changed(&anew);
}

/// Of a file that ends anywhere, all lines are there but the one that was being written.
fn check_torn(text: &[u8], end: usize) {
    let torn = &text[..end];
    let whole = torn.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    assert_eq!(Replay::of(torn), Replay::of(&torn[..whole]));
    let lost = Replay::of(text).resources.len().abs_diff(Replay::of(torn).resources.len());
    assert!(lost <= newlines(&text[whole..]));
}

/// What is added to a file changes what it speaks of, and nothing else.
fn check_changed(text: &[u8]) {
    let before = Replay::of(text);
    let scribbled = Replay::of(&[b"{\"enter\":{}}\n\xff\n", text, b"\n{\"strike\":1}\n{\"strike\""].concat());
    assert_eq!(scribbled.damaged, 3);
    assert_eq!(scribbled.resources, before.resources);

    let Some((number, (_, resource))) = before.resources.first_key_value() else { return };
    let (mut struck, mut amended) = (text.to_vec(), text.to_vec());
    Line::Strike { number: *number }.append_to(&mut struck);
    Line::Enter { number: *number, resource: resource.clone() }.append_to(&mut amended);
    let rest = before.resources.iter().skip(1);
    assert!(Replay::of(&struck).resources.iter().eq(rest.clone()));
    assert!(Replay::of(&amended).resources.iter().skip(1).eq(rest));
    assert_eq!(Replay::of(&amended).resources[number].1, *resource);
}

/// The same resources in as few lines as can be. Those of which nobody knows the origin come first.
fn written_anew(replay: &Replay) -> Vec<u8> {
    let mut text = Vec::new();
    let (of_nobody, of_somebody): (Vec<_>, Vec<_>) =
        replay.resources.iter().partition(|(_, (origin, _))| origin.is_none());
    for (number, (origin, resource)) in of_nobody.into_iter().chain(of_somebody) {
        let lines = origin.clone().map(Line::Daemon).into_iter();
        for line in lines.chain([Line::Enter { number: *number, resource: resource.clone() }]) {
            let before = newlines(&text);
            line.append_to(&mut text);
            assert_eq!(newlines(&text), before + 1, "a line is one");
        }
    }
    text
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}
