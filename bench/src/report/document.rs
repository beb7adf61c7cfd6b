//! The report as a list of blocks, written as Markdown and as one HTML file without scripts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{figures::Figure, table::Table};

/// A part of the report.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading of a section.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// A list.
    List(Vec<String>),
    /// Warnings.
    Warnings(Vec<String>),
    /// A table.
    Table(Table),
    /// A plot.
    Figure(Figure),
    /// Text that is kept as it is.
    Code(String),
}

/// The report.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// Its parts.
    pub blocks: Vec<Block>,
}

const STYLE: &str = include_str!("style.css");

impl Document {
    /// Returns it as Markdown, with links to the plots.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", self.title);
        for block in &self.blocks {
            text.push('\n');
            text += &match block {
                Block::Heading(heading) => format!("## {heading}\n"),
                Block::Text(paragraph) => format!("{paragraph}\n"),
                Block::List(lines) | Block::Warnings(lines) => lines.iter().map(|line| format!("- {line}\n")).collect(),
                Block::Table(table) => table.markdown(),
                Block::Figure(figure) => format!("![{}](plots/{}.svg)\n", figure.caption, figure.id),
                Block::Code(code) => format!("```text\n{}\n```\n", code.trim_end()),
            };
        }
        text
    }

    /// Returns it as HTML. It loads nothing, as the plots are inside.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (self.title) }
                        (contents(&self.blocks))
                        @for block in &self.blocks { (markup(block)) }
                    }
                }
            }
        };
        page.into_string()
    }
}

fn contents(blocks: &[Block]) -> Markup {
    let headings = blocks.iter().filter_map(|block| match block {
        Block::Heading(heading) => Some(heading),
        _ => None,
    });
    html! {
        nav aria-label="Contents" { ul { @for heading in headings { li { a href={ "#" (anchor(heading)) } { (heading) } } } } }
    }
}

fn markup(block: &Block) -> Markup {
    match block {
        Block::Heading(heading) => html! { h2 id=(anchor(heading)) { (heading) } },
        Block::Text(text) => html! { p { (inline(text)) } },
        Block::List(lines) => html! { ul { @for line in lines { li { (inline(line)) } } } },
        Block::Warnings(lines) => html! { ul.warnings { @for line in lines { li { (inline(line)) } } } },
        Block::Table(table) => table.html(),
        Block::Figure(figure) => html! { figure.plot { (PreEscaped(&figure.svg)) figcaption { (figure.caption) } } },
        Block::Code(code) => html! { pre tabindex="0" { code { (code) } } },
    }
}

fn anchor(heading: &str) -> String {
    heading.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect()
}

/// Returns text with its code in backticks marked.
fn inline(text: &str) -> Markup {
    let parts = text.split('`').enumerate();
    html! { @for (place, part) in parts { @if place % 2 == 1 { code { (part) } } @else { (part) } } }
}
