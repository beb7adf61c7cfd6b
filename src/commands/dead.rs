//! `unifaas dead`: asynchronous invocations that were given up.

use serde_json::Value;

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::{or_dash, string},
    terminal::{Cell, Output, Style, Table, number, printable, text, words},
};
use crate::cli::client::{Dead, DeadAction};

/// Does what the arguments say.
///
/// # Errors
/// Those of the client; [`CommandError::Usage`] when no invocation is named.
pub async fn run(arguments: &Dead, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    match arguments.action {
        DeadAction::List => list(&mut client, arguments, output).await,
        DeadAction::Show => {
            for id in named(&mut client, arguments).await? {
                let letter = client.page(&format!("/debug/inbox/{id}"), Subject::None).await?;
                if arguments.daemon.json { output.line(&letter.to_string())? } else { show(&letter, output)? }
            }
            Ok(())
        }
        DeadAction::Redrive => act(&mut client, arguments, output, "redrive", "redriven").await,
        DeadAction::Purge => act(&mut client, arguments, output, "remove", "removed").await,
    }
}

async fn list(client: &mut Client, arguments: &Dead, output: &Output) -> Result<(), CommandError> {
    let letters = letters(client, arguments.function.as_deref()).await?;
    if arguments.daemon.json {
        return output.line(&Value::from(letters).to_string());
    }
    let columns =
        [text("INVOCATION"), text("FUNCTION"), text("REASON"), number("STATUS"), number("ATTEMPTS"), text("ENDED")];
    let mut table = Table::new(&columns);
    for letter in &letters {
        table.row(vec![
            string(&letter["id"]).into(),
            string(&letter["function"]).into(),
            Cell::from(string(&letter["reason"])).in_style(Some(Style::Bad)),
            or_dash(&letter["status"]),
            Cell::from(&letter["attempts"]),
            string(&letter["ended"]).into(),
        ]);
    }
    if table.is_empty() {
        words("no dead letters");
        return Ok(());
    }
    output.table(&table)
}

/// Reads all pages of dead letters.
async fn letters(client: &mut Client, function: Option<&str>) -> Result<Vec<Value>, CommandError> {
    let (mut letters, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let of = function.map(|function| format!("&function={function}")).unwrap_or_default();
        let mut page = client.page(&format!("/debug/inbox/dead?limit=1000&after={from}{of}"), Subject::None).await?;
        letters.extend(page["dead"].as_array_mut().map(std::mem::take).unwrap_or_default());
        after = page["after"].as_u64();
    }
    Ok(letters)
}

/// Returns the ids that the arguments name: themselves, or those of a function, or all.
async fn named(client: &mut Client, arguments: &Dead) -> Result<Vec<String>, CommandError> {
    if !arguments.invocations.is_empty() {
        return Ok(arguments.invocations.clone());
    }
    if arguments.function.is_none() && !arguments.all {
        return Err(CommandError::Usage("name invocations, or give --function or --all".to_owned()));
    }
    let letters = letters(client, arguments.function.as_deref()).await?;
    Ok(letters.iter().map(|letter| string(&letter["id"]).to_owned()).collect())
}

async fn act(
    client: &mut Client,
    arguments: &Dead,
    output: &Output,
    path: &str,
    done: &str,
) -> Result<(), CommandError> {
    let ids = named(client, arguments).await?;
    for id in &ids {
        let answer = client.act(&format!("/debug/inbox/{id}/{path}"), Subject::None).await?;
        output.line(&if arguments.daemon.json { answer.to_string() } else { format!("{id}: {done}") })?;
    }
    if ids.is_empty() {
        words("no dead letters");
    }
    Ok(())
}

fn show(letter: &Value, output: &Output) -> Result<(), CommandError> {
    let heading = format!("{}  {}  {}", string(&letter["id"]), string(&letter["function"]), string(&letter["reason"]));
    output.line(&output.styled(Style::Heading, &heading))?;
    for (name, message) in [("request", &letter["request"]), ("response", &letter["response"])] {
        if message.is_null() {
            output.line(&format!("{name}: not kept"))?;
            continue;
        }
        output.line(&format!("{name}: {}", printable(string(&message["line"]))))?;
        for header in message["headers"].as_array().into_iter().flatten() {
            output.line(&format!("  {}: {}", string(&header[0]), printable(string(&header[1]))))?;
        }
        let body = message["body"].as_str().map(printable);
        output.line(&format!("  {}", body.unwrap_or_else(|| format!("({} bytes)", message["bytes"]))))?;
    }
    Ok(())
}
