//! The public name of a key, by which an application reports that it holds it.
use sha2::{Digest as _, Sha256};

pub(crate) fn key_id(key: &[u8]) -> String {
    let digest = Sha256::new().chain_update(b"rotation.key-id.v1\0").chain_update(key).finalize();
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
