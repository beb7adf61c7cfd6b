//! `unifaas boots`: where the time of starts went, as bars.

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::{members, string},
    terminal::{Output, Style, millis, printable, words},
};
use crate::cli::client::Boots;

/// Columns of the bars, unless the terminal is narrow.
const BAR: usize = 60;
/// Columns beside the bars.
const BESIDE: usize = 36;

/// Prints the starts.
///
/// # Errors
/// Those of the client.
pub async fn run(arguments: &Boots, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let boots = find(&mut client, arguments).await?;
    if arguments.daemon.json {
        return output.line(&Value::from(boots).to_string());
    }
    if boots.is_empty() {
        words("no starts");
    }
    for (position, boot) in boots.iter().enumerate() {
        if position > 0 {
            output.line("")?;
        }
        print(boot, output)?;
    }
    Ok(())
}

async fn find(client: &mut Client, arguments: &Boots) -> Result<Vec<Value>, CommandError> {
    let (list, limit) = (if arguments.slowest { "slowest" } else { "boots" }, arguments.limit);
    let path = format!("/debug/boots?limit={limit}");
    let mut page = match arguments.name.as_deref().map(Subject::named) {
        Some(subject @ Subject::Instance(id)) => {
            let mut page = client.page(&format!("/debug/instances/{id}"), subject).await?;
            return Ok(vec![page["boot"].take()]);
        }
        Some(subject @ Subject::Function(name)) => {
            let page = client.page(&format!("{path}&function={name}"), subject).await?;
            if page["boots"].as_array().is_none_or(Vec::is_empty) {
                client.page(&format!("/debug/functions/{name}"), subject).await?;
            }
            page
        }
        _ => client.page(&path, Subject::None).await?,
    };
    Ok(page[list].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn print(boot: &Value, output: &Output) -> Result<(), CommandError> {
    let result = string(&boot["result"]);
    let style = if result == "ready" { Style::Good } else { Style::Bad };
    let whose = format!("{}/{}", string(&boot["function"]), string(&boot["instance"]));
    let took = millis(boot["took_us"].as_f64().unwrap_or_default() / 1e3);
    output.line(&format!(
        "{}  {}  {}  {} after {took}  {}",
        output.styled(Style::Heading, &whose),
        string(&boot["kind"]),
        string(&boot["origin"]),
        output.styled(style, result),
        output.styled(Style::Faint, string(&boot["wanted"])),
    ))?;
    if let Some(exit) = boot["exit"].as_str() {
        output.line(&output.styled(Style::Bad, &format!("  {}", printable(exit))))?;
    }
    let evicted: Vec<_> = boot["evicted"].as_array().into_iter().flatten().map(evicted).collect();
    if !evicted.is_empty() {
        output.line(&format!("  made room: {}", evicted.join(", ")))?;
    }
    let width = output.width().map_or(BAR, |width| width.saturating_sub(BESIDE).clamp(10, BAR));
    let (steps, end) = (steps(boot), last(boot));
    for Step { name, from, to } in steps {
        let (blank, bar) = bar(from, to, end, width);
        let fill = " ".repeat(width.saturating_sub(blank.chars().count() + bar.chars().count()));
        let bar = output.styled(Style::Note, &bar);
        output.line(&format!("  {name:16} {blank}{bar}{fill} {:>12}", millis((to - from) as f64 / 1e3)))?;
    }
    Ok(())
}

fn evicted(instance: &Value) -> String {
    let [function, id, to] = ["function", "instance", "to"].map(|key| string(&instance[key]));
    printable(&format!("{function}/{id} ({to})"))
}

/// A phase, or the time until a mark of the instance, in microseconds.
#[derive(Debug, PartialEq)]
struct Step {
    name: String,
    from: u64,
    to: u64,
}

/// Returns the phases and marks in the order in which they ended.
fn steps(boot: &Value) -> Vec<Step> {
    let phases = members(&boot["phases"]).filter_map(|(name, at)| Some((at.as_u64()?, name.clone())));
    let marks = boot["marks"].as_array().into_iter().flatten();
    let marks = marks.filter_map(|mark| Some((mark["at_us"].as_u64()?, printable(string(&mark["name"])))));
    let mut ends: Vec<_> = phases.chain(marks).collect();
    ends.sort();
    let mut from = 0;
    let step = |(to, name)| Step { name, from: std::mem::replace(&mut from, to), to };
    ends.into_iter().map(step).collect()
}

/// Returns when the last phase ended, which is the end of the axis.
fn last(boot: &Value) -> u64 {
    steps(boot).last().map_or(1, |step| step.to.max(1))
}

/// Returns the blanks before a bar, and the bar; eighths of a column are shown.
fn bar(from: u64, to: u64, end: u64, width: usize) -> (String, String) {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = |at: u64| (u128::from(at) * width as u128 * 8 / u128::from(end)) as usize;
    let start = eighths(from) / 8;
    let length = (eighths(to).saturating_sub(start * 8)).max(1).min((width - start.min(width)) * 8);
    let blank = " ".repeat(start.min(width));
    (blank, "█".repeat(length / 8) + PARTS[length % 8])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_are_in_the_order_in_which_they_ended() {
        let boot = json!({
            "phases": { "admitted": 10, "ready": 90, "started": 40, "first_output": 95 },
            "marks": [{ "name": "imports", "at_us": 60 }],
        });
        let step = |name: &str, from, to| Step { name: name.into(), from, to };
        assert_eq!(
            steps(&boot),
            [
                step("admitted", 0, 10),
                step("started", 10, 40),
                step("imports", 40, 60),
                step("ready", 60, 90),
                step("first_output", 90, 95)
            ]
        );
        assert_eq!((last(&boot), last(&json!({}))), (95, 1));
    }

    #[test]
    fn bars_lie_on_one_axis() {
        let shown = |from, to| {
            let (blank, bar) = bar(from, to, 80, 10);
            blank + &bar
        };
        assert_eq!(shown(0, 80), "██████████");
        assert_eq!(shown(40, 80), "     █████");
        assert_eq!(shown(8, 20), " █▌");
        assert_eq!(shown(0, 0), "▏");
        // Even at the end of the axis, nothing is wider than it.
        assert_eq!(shown(80, 80).chars().count(), 10);
    }
}
