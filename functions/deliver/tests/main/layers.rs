//! Which module depends on which: there is no circle, and no file or function that nobody can overlook.

use std::collections::BTreeSet;
use std::path::Path;

use crate::module_graph::{circles, folders, graph};

#[test]
fn modules_depend_on_each_other_without_a_circle() {
    let files = graph(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.values().map(BTreeSet::len).sum::<usize>() > 30, "dependencies are read: {files:?}");
    assert_eq!(circles(&files), BTreeSet::new());
    assert_eq!(circles(&folders(&files)), BTreeSet::new());
}
