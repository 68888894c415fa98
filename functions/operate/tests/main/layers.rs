//! Which module depends on which: there is no circle, and no file or function that nobody can overlook.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn sources(under: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { sources(&path, into) } else { into.push(path) }
    }
}

/// Every file under `src` but the crate's root, by its module, with its text.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    sources(&root, &mut files);
    let module = |path: &Path| {
        let name = path.strip_prefix(&root).unwrap().with_extension("").to_str().unwrap().replace('/', "::");
        name.strip_suffix("::mod").map(str::to_owned).unwrap_or(name)
    };
    let files = files.into_iter().map(|path| (module(&path), std::fs::read_to_string(&path).unwrap()));
    files.filter(|(module, _)| !["lib", "main"].contains(&module.as_str())).collect()
}

/// The modules that a text names after `crate::`, braces after a path included.
fn named(text: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches("::");
        let group = rest[end..].strip_prefix('{').and_then(|group| group.split_once('}'));
        let paths = match group {
            None => vec![path.to_owned()],
            Some((group, _)) => group.split(',').map(|name| format!("{path}::{}", name.trim())).collect(),
        };
        for path in paths {
            let parts: Vec<&str> = path.split("::").collect();
            let longest = (1..=parts.len()).rev().map(|some| parts[..some].join("::"));
            found.extend(longest.into_iter().find(|path| modules.contains_key(path)));
        }
    }
    found
}

#[test]
fn modules_depend_on_each_other_without_a_circle() {
    let modules = modules();
    let mut graph: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in &modules {
        assert!(!text.contains("super::"), "{module} names a module by super::, which is not read here");
        let mut known = named(text, &modules);
        known.remove(module);
        graph.insert(module, known);
    }
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > 50, "dependencies are read: {graph:?}");
    // Whatever depends on nothing that is left has no part in a circle.
    while let Some(leaf) = graph.iter().find(|(_, known)| !known.iter().any(|other| graph.contains_key(other.as_str())))
    {
        let leaf = *leaf.0;
        graph.remove(leaf);
    }
    assert!(graph.is_empty(), "in a circle, or above one: {graph:#?}");
}

#[test]
fn no_file_is_over_500_lines_and_no_function_over_60() {
    for (module, text) in modules() {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= 500, "{module} has {} lines", lines.len());
        let mut begun: Option<(usize, usize, &str)> = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if line.trim_start().contains("fn ") && !line.trim_start().starts_with("//") && begun.is_none() {
                begun = Some((number, indent, line));
            }
            let ends = line.trim_start().starts_with('}') || line.trim_end().ends_with(';') || line.ends_with('}');
            if let Some((first, own, name)) = begun
                && indent == own
                && ends
            {
                let length = number + 1 - first;
                assert!(length <= 60, "{module}: {length} lines: {name}");
                begun = None;
            }
        }
    }
}
