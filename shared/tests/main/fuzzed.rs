//! The functions of the fuzz targets, on their seeds: `tests/fuzz` is outside the workspace, and is held up to date by this.

use std::path::Path;

#[allow(unreachable_pub, reason = "it is the library of the fuzz targets")]
#[path = "../../../tests/fuzz/src/lib.rs"]
pub(crate) mod targets;

type Target = fn(&[u8]);

#[test]
fn fuzz_targets_hold_on_their_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let targets: [(&str, Target); 8] = [
        ("event", targets::event),
        ("document", targets::document),
        ("tags", targets::tags),
        ("raw_keyring", targets::raw_keyring),
        ("fernet_keyring", targets::fernet_keyring),
        ("tink_keyring", targets::tink_keyring),
        ("rows", targets::rows),
        ("target_answer", targets::target_answer),
    ];
    for (name, target) in targets {
        assert!(fuzz.join("fuzz_targets").join(name).with_extension("rs").is_file(), "{name}");
        let seeds: Vec<_> = std::fs::read_dir(fuzz.join("seeds").join(name)).unwrap().map(Result::unwrap).collect();
        assert!(seeds.len() > 1, "{name}");
        seeds.iter().for_each(|seed| target(&std::fs::read(seed.path()).unwrap()));
    }
    assert_eq!(std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count(), targets.len());
}
