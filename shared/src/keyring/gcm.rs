//! AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce before the ciphertext and a 128-bit tag after it.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce, Payload};
use rand::RngCore as _;
use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::wire::Cipher;
use crate::key::KeyMaterial;

/// The length of the nonce before a ciphertext, in bytes.
pub(crate) const NONCE_BYTES: usize = 12;
/// The length of the tag after a ciphertext, in bytes.
pub(crate) const TAG_BYTES: usize = 16;

/// A key, and the prefix of all its ciphertexts.
pub(super) struct AesGcm {
    cipher: Aes256Gcm,
    prefix: Vec<u8>,
}

impl AesGcm {
    pub(super) fn new(key: &KeyMaterial, prefix: Vec<u8>) -> Self {
        Self { cipher: Aes256Gcm::new(key.expose().into()), prefix }
    }
}

impl Cipher for AesGcm {
    fn seal_bytes(&self, plaintext: &[u8], aad: &[u8], _: u64, rng: &mut StdRng) -> Option<Vec<u8>> {
        let mut nonce = Nonce::<Aes256Gcm>::default();
        rng.fill_bytes(&mut nonce);
        let sealed = self.cipher.encrypt(&nonce, Payload { msg: plaintext, aad }).ok()?;
        Some([&self.prefix, nonce.as_slice(), &sealed].concat())
    }

    fn open_bytes(&self, ciphertext: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = ciphertext.strip_prefix(self.prefix.as_slice())?.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::<Aes256Gcm>::try_from(nonce).ok()?;
        self.cipher.decrypt(&nonce, Payload { msg: sealed, aad }).ok().map(Zeroizing::new)
    }

    fn is_named_by(&self, ciphertext: &[u8]) -> bool {
        !self.prefix.is_empty() && ciphertext.starts_with(&self.prefix)
    }
}
