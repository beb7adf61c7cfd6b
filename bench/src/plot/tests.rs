//! Plots are well-formed, complete, inside of their view box, and the same as before.

use std::{env, fs, path::Path};

use roxmltree::Document;

use super::*;

fn texts(title: &str) -> Texts {
    Texts {
        title: title.to_owned(),
        description: "A <test> & nothing else.".to_owned(),
        x: "time, ms".to_owned(),
        y: "share".to_owned(),
    }
}

/// Returns values that look like latencies: skewed, with an outlier.
fn values(count: u32, centre: f64) -> Vec<f64> {
    (0..count).map(|n| centre * (1.0 + f64::from(n * 37 % 101) / 300.0) * if n == 7 { 3.0 } else { 1.0 }).collect()
}

fn rows() -> Vec<BoxRow> {
    let row = |name: &str, centre, group| BoxRow {
        name: name.to_owned(),
        values: values(40, centre),
        interval: Some((centre * 1.1, centre * 1.2)),
        is_emulated: name.contains("emulated"),
        group,
    };
    vec![
        row("hello", 4.0, 0),
        row("a function with a name that has no room beside the plot", 30.0, 0),
        row("hello, pause", 1.0, 1),
        row("linux, emulated", 900.0, 0),
    ]
}

fn all() -> Vec<(&'static str, String)> {
    let curves: Vec<_> = rows().into_iter().map(|row| Curve { name: row.name, values: row.values }).collect();
    let point = |x: f64, y: f64| LinePoint { x, y, band: Some((y * 0.9, y * 1.3)) };
    let line = |name: &str, slope: f64| Line {
        name: name.to_owned(),
        points: [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].map(|x| point(x, 5.0 + slope * x)).into(),
    };
    let part = |name: &str, boot: f64| PartsRow { name: name.to_owned(), parts: vec![0.1, 0.2, boot, 1.0, 0.3] };
    vec![
        ("boxes", boxes(&texts("Boxes"), &rows())),
        ("ecdf", ecdf(&texts("Distribution"), &curves)),
        ("lines", lines(&texts("Lines"), &[line("hello", 0.8), line("microvm", 20.0), line("a third one", 3.0)])),
        (
            "parts",
            parts(
                &texts("Parts"),
                &["connect", "queue", "boot", "upstream", "rest"],
                &[part("hello", 3.0), part("vm", 40.0)],
            ),
        ),
    ]
}

/// Returns the coordinates of an element.
fn points(node: roxmltree::Node<'_, '_>) -> Vec<(f64, f64)> {
    let number = |name: &str| node.attribute(name).and_then(|text| text.parse::<f64>().ok());
    let pair = |x: &str, y: &str| number(x).zip(number(y));
    let mut found: Vec<_> =
        [pair("x", "y"), pair("cx", "cy"), pair("x1", "y1"), pair("x2", "y2")].into_iter().flatten().collect();
    if let (Some((x, y)), Some((width, height))) = (pair("x", "y"), pair("width", "height")) {
        found.push((x + width, y + height));
    }
    let listed = node.attribute("points").unwrap_or_default().split_whitespace();
    found.extend(listed.filter_map(|point| {
        let (x, y) = point.split_once(',')?;
        Some((x.parse().ok()?, y.parse().ok()?))
    }));
    found
}

#[test]
fn plots_are_well_formed_and_inside_of_their_view_box() {
    for (name, svg) in all() {
        let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{name}: {error}"));
        let root = document.root_element();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
        let size: Vec<f64> = root.attribute("viewBox").unwrap().split(' ').map(|text| text.parse().unwrap()).collect();
        for node in root.descendants() {
            for (x, y) in points(node) {
                assert!(
                    (0.0..=size[2]).contains(&x) && (0.0..=size[3]).contains(&y),
                    "{name}: {node:?} is at {x}, {y}"
                );
            }
        }
        let child = |tag: &str| root.children().find(|node| node.has_tag_name(tag)).and_then(|node| node.text());
        assert!(child("title").is_some(), "{name}");
        assert_eq!(child("desc"), Some("A <test> & nothing else."), "{name}");
        for forbidden in ["script", "image", "foreignObject", "style"] {
            assert!(root.descendants().all(|node| !node.tag_name().name().eq(forbidden)), "{name}: {forbidden}");
        }
    }
}

#[test]
fn every_value_has_a_mark() {
    let svg = boxes(&texts("Boxes"), &rows());
    let document = Document::parse(&svg).unwrap();
    let marks = document.descendants().filter(|node| node.has_tag_name("circle")).count();
    assert_eq!(marks, rows().iter().map(|row| row.values.len()).sum::<usize>());
}

#[test]
fn plots_without_values_are_plots() {
    let nothing: [String; 4] = [
        boxes(&texts("x"), &[]),
        ecdf(&texts("x"), &[Curve { name: "f".to_owned(), values: Vec::new() }]),
        lines(&texts("x"), &[]),
        parts(&texts("x"), &[], &[]),
    ];
    for svg in nothing {
        assert!(Document::parse(&svg).is_ok() && !svg.contains("NaN") && !svg.contains("could not"), "{svg}");
    }
    let one = ecdf(&texts("x"), &[Curve { name: "f".to_owned(), values: vec![3.0] }]);
    assert!(!one.contains("NaN") && !one.contains("could not"), "{one}");
}

#[test]
fn dashes_go_round_corners_and_gaps_stay_empty() {
    let corner = canvas::dashes([(0, 0), (6, 0), (6, 20)], 8.0, 4.0);
    assert_eq!(corner, [vec![(0, 0), (6, 0), (6, 2)], vec![(6, 6), (6, 14)], vec![(6, 18), (6, 20)]]);
    assert!(canvas::dashes([], 8.0, 4.0).is_empty() && canvas::dashes([(1, 1)], 8.0, 4.0).is_empty());
    assert!(canvas::dashes([(1, 1), (1, 1)], 8.0, 4.0).iter().flatten().all(|point| *point == (1, 1)));
}

/// `UNIFAAS_GOLDEN=write cargo test -p unifaas-bench plot` writes them; look at them before they are committed.
#[test]
fn plots_are_those_of_the_golden_files() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, svg) in all() {
        let path = directory.join(format!("{name}.svg"));
        if env::var("UNIFAAS_GOLDEN").is_ok_and(|wish| wish == "write") {
            fs::write(&path, &svg).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        let differs = expected.lines().zip(svg.lines()).find(|(expected, found)| expected != found);
        assert!(expected == svg, "{name} differs from its golden file: {differs:?}");
    }
}
