//! Which file of a crate knows which, by the paths that stand in it. A test of any crate can include this file, and call it with its
//! own sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// By module, the modules that it names. A module is a file, as a path from the root of the crate; the root itself is the empty path.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The graph of the crate whose sources are in `src`. Comments and tests at the end of a file are not looked at.
pub(crate) fn graph(src: &Path) -> Graph {
    let mut sources = BTreeMap::new();
    read(src, "", &mut sources);
    let modules: BTreeSet<&String> = sources.keys().collect();
    sources.iter().map(|(module, text)| (module.clone(), named_in(module, text, &modules))).collect()
}

/// The same with every folder as one module.
pub(crate) fn folders(graph: &Graph) -> Graph {
    let folder = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut folders = Graph::new();
    for (module, others) in graph {
        let own = folder(module);
        let others = others.iter().map(|other| folder(other)).filter(|other| *other != own);
        folders.entry(own.clone()).or_default().extend(others);
    }
    folders
}

/// The modules that know each other, by whatever way.
pub(crate) fn circles(graph: &Graph) -> BTreeSet<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            open.extend(graph.get(module).into_iter().flatten().filter(|other| seen.insert((*other).clone())));
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|module| (module, reached(module))).collect();
    let circle = |module: &&String| {
        let back = |other: &&String| reached.get(other).is_some_and(|others| others.contains(*module));
        reached[*module].iter().filter(back).cloned().collect::<Vec<_>>()
    };
    graph.keys().map(|module| circle(&module)).filter(|circle| circle.len() > 1).collect()
}

fn read(folder: &Path, parent: &str, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let module = if parent.is_empty() { name.to_owned() } else { format!("{parent}::{name}") };
        if path.is_dir() {
            read(&path, &module, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default());
            let module = match name {
                "lib" => String::new(),
                "mod" => parent.to_owned(),
                _ => module,
            };
            into.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

fn named_in(module: &str, text: &str, modules: &BTreeSet<&String>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (base, rest) in beginnings(module, text, modules) {
        follow(base, rest, modules, &mut named);
    }
    named.remove(module);
    named
}

/// Where the paths of a text begin that lead to a module of the crate: a module, and what follows it.
fn beginnings<'a>(module: &str, text: &'a str, modules: &BTreeSet<&String>) -> Vec<(String, &'a str)> {
    let parent = |module: &str| module.rsplit_once("::").map_or(String::new(), |(parent, _)| parent.to_owned());
    let mut begun: Vec<(String, &str)> = vec![];
    let children = modules.iter().filter(|other| !other.is_empty() && parent(other) == *module && ***other != *module);
    let children: Vec<&str> = children.map(|child| child.rsplit("::").next().unwrap_or(child)).collect();
    for (at, _) in text.match_indices("::") {
        let before = &text[..at];
        let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |start| start + 1);
        let (word, rest) = (&before[start..], &text[at + 2..]);
        if before[..start].ends_with("::") {
            continue;
        }
        match word {
            "crate" => begun.push((String::new(), rest)),
            "self" => begun.push((module.to_owned(), rest)),
            "super" => begun.push((parent(module), rest)),
            child if children.contains(&child) => begun.push((module.to_owned(), &text[start..])),
            _ => {}
        }
    }
    begun
}

/// Follows a path, or each path of a list in braces, as long as it names modules.
fn follow(base: String, rest: &str, modules: &BTreeSet<&String>, named: &mut BTreeSet<String>) {
    let rest = rest.trim_start();
    if let Some(list) = rest.strip_prefix('{') {
        let mut depth = 0_i32;
        let end = list.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0
        });
        let list = &list[..end.unwrap_or(list.len())];
        let (mut depth, mut from) = (0_i32, 0);
        for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 {
                let item = list[from..at].trim();
                if !item.is_empty() {
                    follow(base.clone(), item, modules, named);
                }
                from = at + 1;
            }
        }
        return;
    }
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    if word == "super" {
        let parent = base.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned();
        return follow(parent, after.strip_prefix("::").unwrap_or_default(), modules, named);
    }
    let child = if base.is_empty() { word.to_owned() } else { format!("{base}::{word}") };
    if !modules.contains(&child) {
        named.insert(base);
    } else if let Some(after) = after.strip_prefix("::") {
        follow(child, after, modules, named);
    } else {
        named.insert(child);
    }
}
