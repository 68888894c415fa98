//! AES-256-GCM: a random nonce of 12 bytes, the ciphertext, a tag of 16 bytes.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::KeyMaterial;

const NONCE_BYTES: usize = 12;

/// Encrypts, and puts the prefix before the result. `None` for a plaintext that is too long.
pub(super) fn seal(key: &KeyMaterial, prefix: &[u8], plaintext: &[u8], rng: &mut impl CryptoRng) -> Option<Vec<u8>> {
    let mut nonce = Nonce::<Aes256Gcm>::default();
    rng.fill_bytes(&mut nonce);
    let sealed = cipher(key)?.encrypt(&nonce, plaintext).ok()?;
    Some([prefix, nonce.as_slice(), &sealed].concat())
}

/// Decrypts the bytes behind the prefix. `None` with another key.
pub(super) fn open(key: &KeyMaterial, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce = Nonce::<Aes256Gcm>::try_from(nonce).ok()?;
    cipher(key)?.decrypt(&nonce, sealed).ok().map(Zeroizing::new)
}

fn cipher(key: &KeyMaterial) -> Option<Aes256Gcm> {
    Aes256Gcm::new_from_slice(key.0.as_slice()).ok()
}
