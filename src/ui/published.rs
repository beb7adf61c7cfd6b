//! Published functions on the page of the cluster: their versions, what this node has, and which nodes serve what.

use maud::{Markup, html};
use unifaas_actors::cluster::{ClusterReport, NodeVersions};

use super::layout::{heads, state, table, to_function};
use crate::cluster::{FunctionVersions, FunctionsReport};

/// Returns the section. It is empty where nothing was ever published.
pub fn published(report: &ClusterReport, published: &FunctionsReport) -> Markup {
    html! {
        @if !published.functions.is_empty() {
            h2 { "Published functions" }
            @if let Some(trouble) = &published.trouble {
                p { "The catalogue is not followed: " (trouble) }
            }
            (table(
                "Published functions",
                "published",
                &heads(&["Function", "Wanted", "Trial", "Here", "Served by", "Failed on", "Why"]),
                &html! { @for (name, versions) in &published.functions { (row(report, name, versions)) } },
            ))
        }
    }
}

fn row(report: &ClusterReport, name: &str, versions: &FunctionVersions) -> Markup {
    let serving = nodes(report, name, |of| of.serves.iter().cloned().collect());
    let failed = nodes(report, name, |of| of.failed.clone());
    html! {
        tr data-key=(name) {
            th scope="row" { (to_function(name)) }
            td { @if let Some(wanted) = versions.wanted { code { (wanted.short()) } } @else { "–" } }
            td {
                @if let Some(trial) = versions.trial { code { (trial.version.short()) } " on " (trial.percent) " %" } @else { "–" }
            }
            td { (state(versions.state.name())) }
            td { (serving) }
            td { (failed) }
            td { @if let Some(problem) = &versions.problem { (problem) } }
        }
    }
}

/// Returns the nodes that have versions of a function, each with its versions.
fn nodes(report: &ClusterReport, function: &str, of: impl Fn(&NodeVersions) -> Vec<String>) -> Markup {
    let peers = report.peers.iter().map(|peer| (&peer.name, &peer.versions));
    let found = std::iter::once((&report.name, &report.versions)).chain(peers).filter_map(|(name, versions)| {
        let versions = versions.get(function).map(&of).filter(|versions| !versions.is_empty())?;
        Some((name, versions))
    });
    html! {
        @for (position, (name, versions)) in found.enumerate() {
            @if position > 0 { " · " }
            (name) " " code { (versions.join(", ")) }
        }
    }
}
