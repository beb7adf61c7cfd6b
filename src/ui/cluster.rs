//! The page of the cluster: which nodes there are, why one is suspect, and where the last requests were placed. `published.rs`
//! has the published functions.

use maud::{Markup, html};
use unifaas_actors::{
    cluster::{Beat, ClusterReport, FunctionLoad, LinkState, NodeId, PeerReport, PlacementRecord},
    rounded_ms,
};

use super::{
    Known,
    format::{age, count, duration, mebibytes, plural, time},
    layout::{Content, heads, state, table, to_function},
    published::published,
};

/// Placements in the table.
const MAX_PLACEMENTS: usize = 20;

/// Returns the page. `None`: the daemon runs without a cluster.
pub async fn content(known: &Known<'_>) -> Option<Content> {
    let report = known.cluster().await?;
    let content = Content::new("Nodes").section("nodes", nodes(&report));
    let content = match known.published() {
        Some(functions) => content.section("published", published(&report, &functions)),
        None => content,
    };
    Some(content.section("placements", placements(&report)))
}

fn nodes(report: &ClusterReport) -> Markup {
    let fresh = report.peers.iter().filter(|peer| !peer.health.is_suspect()).count();
    html! {
        div.head {
            h1 { "Nodes" }
            p.lead {
                b { (report.name) } " of site " b { (report.site) } " knows "
                (plural(report.peers.len() as u64, "other node", "other nodes"))
                ", " (count(fresh as u64)) " fresh"
            }
        }
        p { (link(&report.link)) }
        @if report.is_frozen {
            p { "The directory is frozen: nodes are judged by their connections, and silence counts for nothing." }
        }
        (table(
            "Nodes",
            "nodes",
            &heads(&[
                "Node", "State", "#Heard", "#Round trip", "#Memory free", "#Functions", "#Slots free", "#Waiting", "Address", "Why",
            ]),
            &html! {
                @if let Some(beat) = &report.beat { (own_row(report, beat)) }
                @for peer in &report.peers { (peer_row(peer)) }
            },
        ))
    }
}

fn link(link: &LinkState) -> Markup {
    html! {
        "NATS server: "
        @match link {
            LinkState::Connected { server, version } => {
                (state("connected")) " " code { (server) } ", version " (version)
            }
            LinkState::Disconnected { error } => {
                (state("disconnected")) @if let Some(error) = error { " " (error) }
            }
            LinkState::Refused { why } => { (state("refused")) " " (why) }
        }
    }
}

fn own_row(report: &ClusterReport, beat: &Beat) -> Markup {
    html! {
        tr data-key="own" {
            th scope="row" { (report.name) " (this node)" }
            td { (state(if beat.is_draining { "draining" } else { "serving" })) }
            td.number { "–" }
            td.number { "–" }
            td.number { (mebibytes(beat.memory_free as f64)) }
            td.number { "–" }
            (slots(beat.loads.values()))
            td { code { (beat.address) } }
            td {}
        }
    }
}

fn peer_row(peer: &PeerReport) -> Markup {
    let word = match peer.health.is_suspect() {
        true => "suspect",
        false if peer.is_draining => "draining",
        false => "serving",
    };
    html! {
        tr data-key=(peer.node) {
            th scope="row" { (peer.name) }
            td { (state(word)) }
            td.number { (age(peer.age_ms / 1e3)) }
            td.number { @if let Some(ms) = peer.rtt_ms { (duration(ms / 1e3)) } @else { "–" } }
            td.number { (mebibytes(peer.memory_free as f64)) }
            td.number { (count(peer.functions as u64)) }
            (slots(peer.loads.values()))
            td { code { (peer.address) } }
            td { @if let Some(why) = &peer.why { (why) } }
        }
    }
}

/// Returns two fields: the free slots of all functions with instances, and the requests that wait.
fn slots<'a>(loads: impl Iterator<Item = &'a FunctionLoad>) -> Markup {
    let sum = |(free, capacity, waiting): (u64, u64, u64), load: &FunctionLoad| {
        (free + u64::from(load.free), capacity + u64::from(load.capacity), waiting + u64::from(load.waiting))
    };
    let (free, capacity, waiting) = loads.fold((0, 0, 0), sum);
    html! {
        td.number { (count(free)) " of " (count(capacity)) }
        td.number { (count(waiting)) }
    }
}

fn placements(report: &ClusterReport) -> Markup {
    let name = |node: Option<NodeId>| -> String {
        let Some(node) = node else { return report.name.to_string() };
        report
            .peers
            .iter()
            .find(|peer| peer.node == node)
            .map_or_else(|| node.to_string(), |peer| peer.name.to_string())
    };
    let row = |placement: &PlacementRecord| {
        let chosen = match placement.node {
            None if !placement.is_local => "no node".to_owned(),
            node => name(node),
        };
        html! {
            tr {
                td { (time(placement.at)) }
                td { (to_function(&placement.function)) }
                td { (chosen) }
                td {
                    @for (position, candidate) in placement.candidates.iter().enumerate() {
                        @if position > 0 { " · " }
                        (name(candidate.node)) " " (duration(rounded_ms(candidate.estimate) / 1e3))
                        " (" (count(candidate.free.into())) " free)"
                    }
                }
            }
        }
    };
    html! {
        h2 { "Last placements" }
        @if report.placements.is_empty() {
            p.none { "Every request has found a free slot here." }
        } @else {
            (table(
                "Last placements",
                "placements",
                &heads(&["At", "Function", "Served by", "Candidates: until it begins, and free slots"]),
                &html! { @for placement in report.placements.iter().take(MAX_PLACEMENTS) { (row(placement)) } },
            ))
        }
    }
}
