//! Which topic filters of MQTT a topic matches. Pure.

/// Returns whether a topic matches a filter. A shared subscription's filter is behind its group.
pub fn matches(topic: &str, filter: &str) -> bool {
    let filter = match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').map_or(shared, |(_, filter)| filter),
        None => filter,
    };
    // Wildcards at the beginning do not match the broker's own topics.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut levels, mut filters) = (topic.split('/'), filter.split('/'));
    loop {
        match (levels.next(), filters.next()) {
            (_, Some("#")) | (None, None) => return true,
            (Some(_), Some("+")) => {}
            (Some(level), Some(wanted)) if level == wanted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (topic, filter) in [
            ("a/b", "a/b"),
            ("a/b/c", "a/#"),
            ("a", "a/#"),
            ("a/b", "a/+"),
            ("a/", "a/+"),
            ("/a", "+/a"),
            ("/a", "#"),
            ("ü", "+"),
            ("a/b", "$share/group/a/+"),
            ("$SYS/x", "$SYS/#"),
        ] {
            assert!(matches(topic, filter), "{topic} {filter}");
        }
        for (topic, filter) in [
            ("a/b", "a"),
            ("a", "a/b"),
            ("a", "a/+"),
            ("a/b/c", "a/+"),
            ("A", "a"),
            ("$SYS/x", "#"),
            ("$SYS/x", "+/x"),
            ("a/b", "$share/group/b"),
        ] {
            assert!(!matches(topic, filter), "{topic} {filter}");
        }
    }
}
