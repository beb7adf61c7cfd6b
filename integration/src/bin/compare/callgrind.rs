//! Reads callgrind's profiles: how many instructions each function executed itself.

use std::collections::HashMap;

/// Instructions by function, without callees.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Of the whole program, as callgrind counted them.
    pub total: u64,
    by_function: HashMap<String, u64>,
}

impl Profile {
    /// Parses a profile with one event type, which is callgrind's default.
    ///
    /// Numbers before names abbreviate the name from then on. The line after `calls=` is the cost of the callee.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut profile = Self::default();
        let (mut function, mut of_callee, mut total) = ("", false, None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
                let name = name_of(name, &mut names)?;
                if line.starts_with("fn=") {
                    function = name;
                }
            } else if line.starts_with("calls=") {
                of_callee = true;
            } else if let Some(count) = line.strip_prefix("totals:") {
                total = Some(number(count)?);
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                if std::mem::take(&mut of_callee) {
                    continue;
                }
                let cost = line.split_whitespace().nth(1).map_or(Ok(0), number)?;
                *profile.by_function.entry(tidy(function).to_owned()).or_default() += cost;
            }
        }
        profile.total = total.ok_or("no totals: the program did not end in order")?;
        Ok(profile)
    }

    /// Returns the additional instructions of a longer run per `times`: in total, and by function, largest first.
    pub fn growth(&self, longer: &Self, times: u64) -> (f64, Vec<(String, f64)>) {
        let each = |more: u64, less: u64| (more as f64 - less as f64) / times as f64;
        let before = |name: &String| self.by_function.get(name).copied().unwrap_or_default();
        let functions = longer.by_function.iter().map(|(name, count)| (name.clone(), each(*count, before(name))));
        let mut functions: Vec<_> = functions.collect();
        functions.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        (each(longer.total, self.total), functions)
    }
}

fn name_of<'a>(text: &'a str, names: &mut HashMap<&'a str, &'a str>) -> Result<&'a str, String> {
    let Some((id, name)) = text.strip_prefix('(').and_then(|rest| rest.split_once(')')) else { return Ok(text) };
    match name.trim_start() {
        "" => names.get(id).copied().ok_or_else(|| format!("number {id} stands for nothing")),
        name => {
            names.insert(id, name);
            Ok(name)
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("not a number: {text}"))
}

/// Removes the suffixes of callgrind and rustc: `'2` for a recursion, `::h0123456789abcdef` for a crate's version.
fn tidy(name: &str) -> &str {
    let name = match name.rsplit_once('\'') {
        Some((name, level)) if level.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    match name.rfind("::h") {
        Some(at) if name.len() - at == 19 && name[at + 3..].bytes().all(|byte| byte.is_ascii_hexdigit()) => &name[..at],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
# callgrind format
version: 1
cmd: unifaas -r registry
part: 1
positions: line
events: Ir
summary: 1234

ob=(1) /usr/bin/unifaas
fl=(1) main.rs
fn=(1) unifaas::main::h0123456789abcdef
10 5
+3 20
cfi=(2) serve.rs
cfn=(2) serve'2
calls=3 40
* 900
-1 1
fi=(3) inlined.rs
7 4

fl=(2)
fn=(2)
40 200
fn=(3) serve
* 104

totals: 334
";

    #[test]
    fn callees_are_not_counted() {
        let profile = Profile::parse(PROFILE).unwrap();
        assert_eq!(profile.total, 334);
        assert_eq!(profile.by_function["unifaas::main"], 30);
        // Recursion counts for the same function.
        assert_eq!(profile.by_function["serve"], 304);
        assert_eq!(profile.by_function.values().sum::<u64>(), profile.total);
    }

    #[test]
    fn growth_is_divided_and_sorted() {
        let short = Profile::parse(PROFILE).unwrap();
        let longer =
            PROFILE.replace("40 200", "40 800").replace("totals: 334", "totals: 954").replace("+3 20", "+3 40");
        let longer = Profile::parse(&longer).unwrap();
        let (each, functions) = short.growth(&longer, 10);
        assert_eq!(each, 62.0);
        assert_eq!(functions, [("serve".to_owned(), 60.0), ("unifaas::main".to_owned(), 2.0)]);
    }

    #[test]
    fn tidy_removes_only_suffixes() {
        assert_eq!(tidy("<a::B<'_> as c::D>::e"), "<a::B<'_> as c::D>::e");
        assert_eq!(tidy("a::hello"), "a::hello");
        assert_eq!(tidy("a::b::h0123456789abcdef'2"), "a::b");
    }

    #[test]
    fn truncated_profile_is_error() {
        assert!(Profile::parse(&PROFILE.replace("totals", "total")).is_err());
        assert!(Profile::parse("fn=(9)\n1 2\ntotals: 2\n").is_err());
    }
}
