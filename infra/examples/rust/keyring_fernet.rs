//! Reads a keyring of the format fernet, by <https://github.com/fernet/spec/blob/master/Spec.md>.
use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::key_id::key_id;
use super::secret::{Secret, text};

/// Version, 8 bytes of time, 16 of initialisation vector, ciphertext, 32 of HMAC.
fn open(key: &[u8], token: &[u8]) -> Option<Vec<u8>> {
    let (signing, encrypting) = key.split_at_checked(16)?;
    let (signed, tag) = token.split_at_checked(token.len().checked_sub(32)?)?;
    let (header, ciphertext) = signed.split_at_checked(25).filter(|(header, _)| header.first() == Some(&0x80))?;
    Hmac::<Sha256>::new_from_slice(signing).ok()?.chain_update(signed).verify_slice(tag).ok()?;
    let decryptor = cbc::Decryptor::<Aes128>::new_from_slices(encrypting, header.get(9..)?).ok()?;
    let mut buffer = ciphertext.to_vec();
    decryptor.decrypt_padded::<Pkcs7>(&mut buffer).ok().map(<[u8]>::to_vec)
}

/// The keys, the primary one first.
pub(crate) struct Keyring(Vec<Vec<u8>>);

impl Keyring {
    pub(crate) fn read(secret: &Secret, member: &str) -> Option<Self> {
        text(secret, member)?.split(',').map(|one| URL_SAFE.decode(one.trim()).ok()).collect::<Option<_>>().map(Self)
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.iter().map(|key| key_id(key)).collect()
    }

    pub(crate) fn decrypt(&self, stored: &str) -> Option<Vec<u8>> {
        let token = URL_SAFE.decode(stored).ok()?;
        self.0.iter().find_map(|key| open(key, &token))
    }
}
