//! `unifaas errors`: failures of requests, in groups.

use super::{
    client::{Client, Subject},
    error::CommandError,
    ps::string,
    terminal::{Cell, Output, Style, Table, number, text, words},
};
use crate::cli::client::Errors;

/// Prints the groups, the last failure first.
///
/// # Errors
/// Those of the client.
pub async fn run(arguments: &Errors, output: &Output) -> Result<(), CommandError> {
    let mut client = Client::new(&arguments.daemon)?;
    let page = match &arguments.function {
        None => client.page("/debug/errors", Subject::None).await?,
        Some(name) => {
            let subject = Subject::Function(name);
            let page = client.page(&format!("/debug/errors?function={name}"), subject).await?;
            // Failures of removed functions are kept. Without any, the name may be wrong.
            if page["errors"].as_array().is_none_or(Vec::is_empty) {
                client.page(&format!("/debug/functions/{name}"), subject).await?;
            }
            page
        }
    };
    if arguments.daemon.json {
        return output.line(&page["errors"].to_string());
    }
    let columns = [
        number("COUNT"),
        text("CODE"),
        text("FUNCTION"),
        text("FIRST"),
        text("LAST"),
        text("INSTANCE"),
        text("MESSAGE"),
    ];
    let mut table = Table::new(&columns);
    for error in page["errors"].as_array().into_iter().flatten() {
        table.row(vec![
            Cell::from(&error["count"]),
            Cell::from(string(&error["code"])).in_style(Some(Style::Bad)),
            string(&error["function"]).into(),
            string(&error["first"]).into(),
            string(&error["last"]).into(),
            string(&error["instance"]).into(),
            string(&error["message"]).into(),
        ]);
    }
    if table.is_empty() {
        words("no errors");
        return Ok(());
    }
    output.table(&table)
}
