//! AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce before the ciphertext and a 128-bit tag behind it.

use std::time::SystemTime;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce};
use rand::RngCore as _;
use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::{Cipher, KeyMaterial};

const NONCE_BYTES: usize = 12;

/// A key, and what stands before each of its ciphertexts.
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
    fn seal(&self, plaintext: &[u8], _: SystemTime, rng: &mut StdRng) -> Option<Vec<u8>> {
        let mut nonce = Nonce::<Aes256Gcm>::default();
        rng.fill_bytes(&mut nonce);
        let sealed = self.cipher.encrypt(&nonce, plaintext).ok()?;
        Some([&self.prefix, nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = ciphertext.strip_prefix(self.prefix.as_slice())?.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::<Aes256Gcm>::try_from(nonce).ok()?;
        self.cipher.decrypt(&nonce, sealed).ok().map(Zeroizing::new)
    }
}
