//! The proof of a keyring by canaries.

use rand::RngCore as _;
use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::keyring::{Cipher, Ciphers, KeyFormat, KeyId, Keyring};
use rotation::kind::Subject;

/// Proves that `new`, with the keyring `ring`, decrypts what each key of `old` encrypts, and what its own primary key encrypts.
pub(crate) fn prove_ring(
    subject: &Subject<'_>,
    old: Option<&Document>,
    (new, ring): (&Document, &Keyring),
    rng: &mut StdRng,
) -> Result<(), RotationError> {
    let wire = KeyFormat::of(subject.policy).wire();
    let readers = wire.ciphers(new)?;
    let writers = old.map(|old| wire.ciphers(old)).transpose()?;
    for (id, writer) in writers.iter().flat_map(Ciphers::iter) {
        canary(subject, id, writer, &readers, rng)?;
    }
    let primary = ring.primary().id();
    match readers.get(primary) {
        Some(writer) => canary(subject, primary, writer, &readers, rng),
        None => Err(RotationError::KeyringUnproven { problem: format!("it has no primary key {primary}") }),
    }
}

/// Encrypts a canary with one key, and decrypts it with the key of the same id in the other ring.
fn canary(
    subject: &Subject<'_>,
    id: KeyId,
    writer: &dyn Cipher,
    readers: &Ciphers,
    rng: &mut StdRng,
) -> Result<(), RotationError> {
    let unproven = |problem: &str| RotationError::KeyringUnproven { problem: format!("{problem} key {id}") };
    let reader = readers.get(id).ok_or_else(|| unproven("it lacks"))?;
    let mut text = [0; 32];
    rng.fill_bytes(&mut text);
    let sealed = writer.seal(&text, subject.now, rng).ok_or_else(|| unproven("nothing can be encrypted with"))?;
    let opened = reader.open(&sealed).filter(|opened| opened.as_slice() == text);
    opened.map(drop).ok_or_else(|| unproven("it does not decrypt a canary under"))
}
