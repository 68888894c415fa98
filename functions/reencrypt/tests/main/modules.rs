//! Which module may know which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The modules that a source names after `crate::`, without comments, in which links stand.
fn known_to(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut known = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        // One name, or several in braces.
        let several = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let named = several.map_or_else(|| vec![rest], |(names, _)| names.split(',').collect());
        let name = |text: &str| text.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
        known.extend(named.into_iter().filter_map(name).filter(|name| !name.is_empty()));
    }
    known
}

#[test]
fn modules_know_each_other_one_way_only() {
    let sources = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let sources = sources.map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let roots = ["lib", "main"];
    let mut left: BTreeMap<String, BTreeSet<String>> = sources
        .map(|path| (name(&path), known_to(&std::fs::read_to_string(path).unwrap())))
        .filter(|(name, _)| !roots.contains(&name.as_str()))
        .collect();
    assert!(left.len() > 10, "{left:?}");
    // What knows none of those that are left goes, until nothing is left, or a circle.
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, known| !known.is_disjoint(&names));
        if left.len() == names.len() {
            break;
        }
    }
    assert!(left.is_empty(), "these know each other in a circle: {left:?}");
}
