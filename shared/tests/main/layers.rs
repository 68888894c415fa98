//! Which module may know which: what the documentation of the crate says.

use std::collections::BTreeSet;
use std::path::Path;

use crate::module_graph::{Graph, circles, folders, graph};

/// The layers, from the top. A module depends on its own layer and those below.
const LAYERS: [&[&str]; 8] = [
    &["lambda", "topic"],
    &["aws", "protocol", "telemetry"],
    &["issue", "report", "rollback"],
    &["session"],
    &["archive", "delivery", "kind", "marked_ring", "target"],
    &["admission", "moves", "store", "testing"],
    &[
        "census",
        "document",
        "environment",
        "event",
        "keyring",
        "members",
        "notification",
        "pattern",
        "policy",
        "rows",
        "schedule",
        "token",
    ],
    &["deadline", "error", "key", "secret", "time", "versions"],
];

fn sources() -> Graph {
    graph(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn edges(edges: &[(&str, &[&str])]) -> Graph {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    edges.iter().map(|(module, others)| ((*module).to_owned(), names(others))).collect()
}

#[test]
fn dependencies_between_layers_point_one_way() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut known = folders(&sources());
    known.remove("");
    let names: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    assert_eq!(names, LAYERS.concat().into_iter().collect(), "every module stands in one layer");
    for (module, others) in &known {
        // The root holds no code of its own, but the names of macros.
        let others = others.iter().filter(|other| !other.is_empty());
        let up: Vec<_> = others.filter(|other| layer(other) < layer(module)).collect();
        assert!(up.is_empty(), "{module} knows {up:?}");
    }
}

#[test]
fn modules_do_not_know_each_other_in_a_circle() {
    let files = sources();
    assert_eq!(circles(&files), BTreeSet::new());
    assert_eq!(circles(&folders(&files)), BTreeSet::new());
}

#[test]
fn a_circle_is_found_through_lists_and_parents() {
    let folder = std::env::temp_dir().join(format!("module-graph-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("b")).unwrap();
    for (file, text) in [
        ("lib.rs", "mod a;\nmod b;\n// use a::X;\n"),
        ("a.rs", "use crate::{\n    b::{self, d::Thing},\n};\n"),
        ("b.rs", "pub mod c;\nmod d;\npub use c::C;\n"),
        ("b/c.rs", "use super::d::Thing;\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n"),
        ("b/d.rs", "fn f() {\n    crate::a::f();\n}\n"),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let found = graph(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    let expected = edges(&[("", &[]), ("a", &["b", "b::d"]), ("b", &["b::c"]), ("b::c", &["b::d"]), ("b::d", &["a"])]);
    assert_eq!(found, expected);
    let circle = ["a", "b", "b::c", "b::d"].map(str::to_owned).to_vec();
    assert_eq!(circles(&found), BTreeSet::from([circle]));
    let folder_circle = ["a", "b"].map(str::to_owned).to_vec();
    assert_eq!(circles(&folders(&found)), BTreeSet::from([folder_circle]));
}
