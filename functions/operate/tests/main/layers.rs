//! Which module depends on which: there is no circle, and no file or function that nobody can overlook.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::module_graph::{circles, folders, graph};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(under: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(under).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn modules_depend_on_each_other_without_a_circle() {
    let files = graph(&src());
    assert!(files.values().map(BTreeSet::len).sum::<usize>() > 50, "dependencies are read: {files:?}");
    assert_eq!(circles(&files), BTreeSet::new());
    assert_eq!(circles(&folders(&files)), BTreeSet::new());
}

#[test]
fn no_file_is_over_500_lines_and_no_function_over_60() {
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= 500, "{} has {} lines", path.display(), lines.len());
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
                assert!(length <= 60, "{}: {length} lines: {name}", path.display());
                begun = None;
            }
        }
    }
}
