//! What all pages have in common: the document, the sections that are replaced when they change, and small parts.

use maud::{DOCTYPE, Markup, html};

use super::page::Page;

/// A part of a page that is replaced as a whole when it changes.
pub struct Section {
    /// Unique on its page.
    pub id: &'static str,
    pub body: Markup,
}

/// What a page shows.
pub struct Content {
    pub title: String,
    /// In front of the title: how it leads back.
    pub trail: Vec<(String, String)>,
    /// In the order of the page. A section that has nothing to show is empty.
    pub sections: Vec<Section>,
    /// What is not replaced: the output of an instance, which the script continues.
    pub log: Option<Markup>,
    /// Behind which event the output goes on.
    pub last: Option<u64>,
}

impl Content {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), trail: Vec::new(), sections: Vec::new(), log: None, last: None }
    }

    pub fn section(mut self, id: &'static str, body: Markup) -> Self {
        self.sections.push(Section { id, body });
        self
    }
}

impl Section {
    /// Returns the section as an element.
    pub fn element(&self) -> Markup {
        html! { section id=(self.id) hidden[self.body.0.is_empty()] { (self.body) } }
    }
}

/// How pages look: as the client's system does, or as its user has chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    /// Returns the choice that a cookie has.
    pub fn parse(text: &str) -> Self {
        match text {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::System,
        }
    }

    const fn attribute(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Light => Some("light"),
            Self::Dark => Some("dark"),
        }
    }
}

/// Returns the document of a page. `has_nodes`: the daemon is in a cluster.
pub fn document(page: &Page, content: &Content, theme: Theme, has_nodes: bool) -> Markup {
    let mut entries = vec![
        ("Overview", "/ui/", matches!(page, Page::Overview(_))),
        ("Errors", "/ui/errors", matches!(page, Page::Errors(_))),
        ("Boots", "/ui/boots", matches!(page, Page::Boots(_) | Page::Boot(_))),
        ("Memory", "/ui/memory", *page == Page::Memory),
    ];
    if has_nodes {
        entries.push(("Nodes", "/ui/nodes", *page == Page::Nodes));
    }
    html! {
        (DOCTYPE)
        html lang="en" data-theme=[theme.attribute()] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (content.title) " – UniFaaS" }
                link rel="icon" href="/ui/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/ui/style.css";
                script type="module" src="/ui/ui.js" {}
            }
            body data-page=(page) data-last=[content.last] {
                a.skip href="#main" { "Skip to the content" }
                header {
                    div.bar {
                        a.brand href="/ui/" { (logo()) "UniFaaS" }
                        nav aria-label="Pages" {
                            ul {
                                @for (name, address, is_current) in entries {
                                    li { a href=(address) aria-current=[is_current.then_some("page")] { (name) } }
                                }
                            }
                        }
                        div.tools hidden {
                            button #live type="button" aria-pressed="true" { span.dot {} span { "Live" } }
                            label {
                                span.unseen { "Colours" }
                                select #theme {
                                    option value="system" selected[theme == Theme::System] { "System" }
                                    option value="light" selected[theme == Theme::Light] { "Light" }
                                    option value="dark" selected[theme == Theme::Dark] { "Dark" }
                                }
                            }
                        }
                    }
                    div #lost.banner role="alert" hidden {}
                    noscript { p.banner { "Without scripts this page shows the state of the moment when it was loaded." } }
                }
                main #main tabindex="-1" {
                    @if !content.trail.is_empty() {
                        nav.trail aria-label="Where this page is" {
                            ol { @for (name, address) in &content.trail { li { a href=(address) { (name) } } } }
                        }
                    }
                    @for section in &content.sections { (section.element()) }
                    @if let Some(log) = &content.log { (log) }
                }
                footer {
                    p {
                        "UniFaaS " (env!("CARGO_PKG_VERSION")) " · times are UTC · the same as JSON: "
                        a href="/debug" { "/debug" }
                    }
                }
            }
        }
    }
}

fn logo() -> Markup {
    html! {
        svg.logo viewBox="0 0 16 16" aria-hidden="true" {
            rect x="1" y="1" width="6" height="6" rx="1.5" {}
            rect x="9" y="1" width="6" height="6" rx="3" {}
            rect x="1" y="9" width="6" height="6" rx="3" {}
            rect x="9" y="9" width="6" height="6" rx="1.5" {}
        }
    }
}

/// Returns a state as a word with a shape and a colour of its own.
pub fn state(word: &str) -> Markup {
    let (class, path) = match word {
        "serving" | "ready" | "idle" | "connected" | "waiting" | "current" => {
            ("good", "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z")
        }
        "busy" => ("good", "M3 2l11 6-11 6Z"),
        "launching" | "booting" | "connecting" | "firing" | "unknown" | "behind" | "unlisted" => {
            ("calm", "M8 2a6 6 0 0 1 0 12Z")
        }
        "failing" | "error" => ("bad", "M4 2 8 6l4-4 2 2-4 4 4 4-2 2-4-4-4 4-2-2 4-4-4-4Z"),
        "misconfigured" | "warning" | "no broker" | "waiting for the clock" | "shadowed" => {
            ("poor", "M8 1l7.5 13.5H.5ZM7 6v4h2V6ZM7 11v2h2v-2Z")
        }
        "stopping" | "reaping" | "draining" | "stopped" => ("calm", "M3 3h10v10H3Z"),
        "pausing" | "paused" | "resuming" => ("calm", "M3 2h3.5v12H3ZM9.5 2H13v12H9.5Z"),
        "gone" | "removed" => ("calm", "M2 7h12v2H2Z"),
        _ => ("bad", "M8 1l7 7-7 7-7-7Z"),
    };
    html! {
        span.state.(class) {
            svg viewBox="0 0 16 16" aria-hidden="true" { path d=(path) fill-rule="evenodd" {} }
            (word)
        }
    }
}

/// Returns a table with a caption, which scrolls sideways where there is little space.
pub fn table(caption: &str, class: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.(class) {
                caption.unseen { (caption) }
                thead { tr { (head) } }
                tbody { (rows) }
            }
        }
    }
}

/// Returns column heads; those of numbers begin with `#`.
pub fn heads(names: &[&str]) -> Markup {
    html! {
        @for name in names {
            @match name.strip_prefix('#') {
                Some(name) => { th.number scope="col" { (name) } }
                None => { th scope="col" { (name) } }
            }
        }
    }
}

/// Returns names with values. Names that begin with `*` have a line of their own.
pub fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in facts {
                div.long[name.starts_with('*')] { dt { (name.trim_start_matches('*')) } dd { (value) } }
            }
        }
    }
}

/// Returns buttons that act, each with the address of its action and, if it needs one, a question. They need scripts.
pub fn actions(actions: &[(&str, String, Option<String>)]) -> Markup {
    html! {
        div.actions data-key="actions" {
            span role="status" {}
            @for (name, address, question) in actions {
                button type="button" data-post=(address) data-question=[question] { (name) }
            }
        }
    }
}

/// Returns a link to a function.
pub fn to_function(name: &str) -> Markup {
    html! { a href=(Page::Function(name.to_owned())) { (name) } }
}

/// Returns the content of a page whose subject does not exist.
pub fn not_found(page: &Page) -> Content {
    let what = match page {
        Page::Function(name) => format!("There is no function {name}"),
        Page::Instance(id) => format!("There is no instance {id}"),
        Page::Boot(id) => format!("No start of an instance {id} is remembered"),
        _ => "There is no such page".to_owned(),
    };
    let why = match page {
        Page::Function(_) => "It was removed from the registry, or its name is spelled differently.",
        Page::Nodes => "This daemon runs without --cluster.",
        _ => "The last 20 ended instances of a function are remembered, 256 in all, until the daemon restarts.",
    };
    let body = html! { h1 { (what) } p { (why) } p { a href="/ui/" { "Back to the overview" } } };
    Content::new(what).section("missing", body)
}
