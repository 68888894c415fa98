//! Which module may know which.

use std::collections::BTreeSet;
use std::path::Path;

use crate::module_graph::{circles, folders, graph};

#[test]
fn modules_know_each_other_one_way_only() {
    let files = graph(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.values().map(BTreeSet::len).sum::<usize>() > 40, "what they know is read: {files:?}");
    assert_eq!(circles(&files), BTreeSet::new());
    assert_eq!(circles(&folders(&files)), BTreeSet::new());
}
