//! Substitutes `%words` in commands and kernel command lines.

/// Replaces every `%word` for which `value` returns a text. All other text stays, including unknown words.
///
/// A word ends before the next character that is no letter, digit or underscore, so `%portal` does not contain `%port`.
/// Inserted values are not substituted again.
pub fn substitute<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut pieces = text.split('%');
    result.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len());
        let (word, rest) = piece.split_at(end);
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
}
