//! Placeholders: the `%words` in commands and kernel command lines that are replaced for each instance.

use super::keys::{listing, nearest};

/// The placeholders of `[process] command`.
pub const PROCESS_WORDS: [&str; 4] = ["callback", "ip", "port", "unifaas"];
/// The placeholders of `[container] command`.
pub const CONTAINER_WORDS: [&str; 3] = ["callback", "ip", "port"];
/// The placeholders of `[vm] cmdline`.
pub const VM_WORDS: [&str; 4] = ["callback", "gateway", "ip", "netmask"];
/// All placeholders.
const WORDS: [&str; 6] = ["callback", "gateway", "ip", "netmask", "port", "unifaas"];

/// Replaces every `%word` for which `value` returns a text. All other text stays, including unknown words.
///
/// A word ends before the next character that is no letter, digit or underscore, so `%portal` does not contain `%port`.
/// Inserted values are not substituted again.
pub fn substitute<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> String {
    let (before, pieces) = split(text);
    let mut result = String::with_capacity(text.len());
    result.push_str(before);
    for (word, rest) in pieces {
        match value(word) {
            Some(known) => result.push_str(known),
            None => {
                result.push('%');
                result.push_str(word);
            }
        }
        result.push_str(rest);
    }
    result
}

/// Returns whether the text contains this placeholder.
pub fn has_placeholder(text: &str, word: &str) -> bool {
    split(text).1.any(|(found, _)| found == word)
}

/// Returns the text before the first `%`, and each word with the text that follows it.
fn split(text: &str) -> (&str, impl Iterator<Item = (&str, &str)>) {
    let mut pieces = text.split('%');
    let before = pieces.next().unwrap_or_default();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (before, pieces.map(move |piece| piece.split_at(piece.find(|c| !is_part(c)).unwrap_or(piece.len()))))
}

/// Returns why a word of the text is most likely meant to be a placeholder, and is none of `known`. Words of other
/// languages stay: `date +%H:%M`, `${name%suffix}`.
pub(super) fn objection(text: &str, known: &[&'static str]) -> Option<String> {
    let unknown = |(word, _): &(&str, &str)| !known.contains(word);
    split(text).1.filter(unknown).find_map(|(word, _)| {
        let meant = similar(word, &WORDS)?;
        let list = || {
            let known: Vec<_> = known.iter().map(|word| format!("%{word}")).collect();
            listing(&known, "and")
        };
        Some(match known.contains(&meant) {
            true => format!("%{word} is no placeholder; did you mean %{meant}?"),
            false => format!("%{word} is not replaced here: only {} are", list()),
        })
    })
}

/// Returns why the text contains an unknown word of two letters or more, where only placeholders have a `%`.
pub(super) fn strict_objection(text: &str, known: &[&'static str]) -> Option<String> {
    let is_name = |word: &str| {
        let letters = word.bytes().take_while(u8::is_ascii_alphabetic).count();
        // Two hexadecimal digits are an encoded byte.
        letters > 1 && !(word.len() == 2 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    objection(text, known).or_else(|| {
        let (word, _) = split(text).1.find(|(word, _)| !known.contains(word) && is_name(word))?;
        let known: Vec<_> = known.iter().map(|word| format!("%{word}")).collect();
        Some(format!("%{word} is no placeholder: there are {}", listing(&known, "and")))
    })
}

/// Returns the placeholder that a word looks like.
fn similar(word: &str, words: &[&'static str]) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase();
    let begins = |known: &&&'static str| {
        let rest = lower.strip_prefix(**known);
        rest.is_some_and(|rest| known.len() > 4 || rest.is_empty() || rest.starts_with('_'))
    };
    // A word with one other letter than a short placeholder is a word of its own, most often.
    let is_typo = |known: &&str| known.len() > 4 || known.len() != lower.len() || letters(known) == letters(&lower);
    words.iter().find(begins).copied().or_else(|| nearest(&lower, words).filter(is_typo))
}

fn letters(word: &str) -> Vec<u8> {
    let mut letters = word.as_bytes().to_vec();
    letters.sort_unstable();
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> String {
        substitute(text, |word| match word {
            "ip" => Some("127.0.0.1"),
            "port" => Some("8080"),
            "callback" => Some("http://h/%port"),
            _ => None,
        })
    }

    #[test]
    fn replaces_known_words() {
        assert_eq!(replaced("--listen=%ip:%port"), "--listen=127.0.0.1:8080");
        assert_eq!(replaced("%port%port"), "80808080");
        assert_eq!(replaced("ip=%ip::é"), "ip=127.0.0.1::é");
    }

    #[test]
    fn keeps_all_other_text() {
        for text in ["", "%", "100%", "%%", "%unknown", "%portal", "%port_x", "% port", "date +%H:%M", "%é"] {
            assert_eq!(replaced(text), text);
        }
    }

    #[test]
    fn does_not_substitute_inserted_values() {
        assert_eq!(replaced("%callback"), "http://h/%port");
    }

    #[test]
    fn misspelled_placeholders_are_named() {
        let meant = |word: &str| objection(&format!("a=%{word} b"), &PROCESS_WORDS);
        for (word, known) in [
            ("calback", "callback"),
            ("Callback", "callback"),
            ("callback_url", "callback"),
            ("callbackUrl", "callback"),
            ("PORT", "port"),
            ("prot", "port"),
            ("port_number", "port"),
            ("IP", "ip"),
            ("ip_address", "ip"),
            ("unifas", "unifaas"),
        ] {
            assert_eq!(meant(word), Some(format!("%{word} is no placeholder; did you mean %{known}?")));
        }
        let said = "%gateway is not replaced here: only %callback, %ip, %port and %unifaas are";
        assert_eq!(meant("gateway").as_deref(), Some(said));
        assert_eq!(meant("netmsk"), Some(said.replace("gateway", "netmsk")));
        for text in [
            "date +%H:%M",
            "printf %s %d %ld",
            "${f%txt}",
            "${f%part}",
            "%unknown",
            "100%",
            "%ip:%port",
            "%i %p",
            "%portal",
        ] {
            assert_eq!(objection(text, &PROCESS_WORDS), None, "{text}");
        }
    }

    #[test]
    fn command_line_of_kernel_has_no_other_words() {
        let said = "%hostname is no placeholder: there are %callback, %gateway, %ip and %netmask";
        assert_eq!(strict_objection("ip=%ip host=%hostname", &VM_WORDS).as_deref(), Some(said));
        assert!(strict_objection("%port", &VM_WORDS).unwrap().contains("not replaced here"));
        for text in ["core=core.%e.%p", "a=b%20c%2Fd%aF", "100%", "%ip::%gateway:%netmask %callback", "a%%b"] {
            assert_eq!(strict_objection(text, &VM_WORDS), None, "{text}");
        }
    }
}
