//! Which module may know which: what the documentation of the crate says.

use std::collections::BTreeSet;
use std::path::Path;

/// The layers, from the top. A module depends on its own layer and those below.
const LAYERS: [&[&str]; 5] = [
    &["lambda"],
    &["aws", "protocol", "telemetry"],
    &["kind", "archive", "marked_ring", "target"],
    &["moves", "store", "versions"],
    &[
        "deadline",
        "document",
        "environment",
        "error",
        "event",
        "keyring",
        "policy",
        "rows",
        "schedule",
        "secret",
        "time",
        "token",
    ],
];

/// What points up, which the documentation of the crate names.
const UP: [(&str, &str); 1] = [("error", "store")];

/// The sources of a module, without comments, in which examples stand.
fn source(path: &Path, into: &mut String) {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| source(&entry.unwrap().path(), into));
    } else {
        let text = std::fs::read_to_string(path).unwrap();
        into.extend(text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]));
    }
}

/// The modules that a source names after `crate::`.
fn known_to(source: &str) -> BTreeSet<String> {
    let names = source.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn dependencies_between_layers_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let (mut found, mut up) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs").to_owned();
        if module == "lib" || !found.insert(module.clone()) {
            continue;
        }
        let own = layer(&module).unwrap_or_else(|| panic!("{module} stands in no layer"));
        let mut text = String::new();
        [root.join(format!("{module}.rs")), root.join(&module)]
            .iter()
            .filter(|path| path.exists())
            .for_each(|path| source(path, &mut text));
        for other in known_to(&text) {
            let other_layer =
                layer(&other).unwrap_or_else(|| panic!("{module} knows {other}, which stands in no layer"));
            if other_layer < own {
                up.insert((module.clone(), other));
            }
        }
    }
    assert_eq!(found.len(), LAYERS.iter().map(|layer| layer.len()).sum::<usize>());
    let expected: BTreeSet<_> = UP.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    assert_eq!(up, expected);
}
