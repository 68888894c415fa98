//! `fernet`: a comma-separated list of Fernet keys, the primary key first, in JSON and text secrets alike.
//!
//! The tokens follow the [Fernet specification](https://github.com/fernet/spec/blob/master/Spec.md). A record has no
//! time to live.

use std::time::{SystemTime, UNIX_EPOCH};

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Cipher, Key, KeyMaterial};
use crate::secrets::Unusable;

const VERSION: u8 = 0x80;
const BLOCK_BYTES: usize = 16;
/// Version, time, initialisation vector.
const HEADER_BYTES: usize = 1 + 8 + BLOCK_BYTES;
const HMAC_BYTES: usize = 32;

pub(super) fn keys(list: &str) -> Result<Vec<Key>, Unusable> {
    list.split(',')
        .map(|text| {
            // Python's MultiFernet accepts both alphabets.
            let bytes = super::raw::base64(text.trim_ascii());
            let material = bytes.and_then(|bytes| KeyMaterial::new(&bytes)).ok_or(Unusable::NotAKey)?;
            Ok(Key::new(material, Cipher::Fernet))
        })
        .collect()
}

/// Makes a token. `None` for a plaintext that is too long.
pub(super) fn seal(key: &KeyMaterial, plaintext: &[u8], now: SystemTime, rng: &mut impl CryptoRng) -> Option<String> {
    let (signing, encrypting) = halves(key);
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut iv = [0; BLOCK_BYTES];
    rng.fill_bytes(&mut iv);
    let encryptor = cbc::Encryptor::<Aes128>::new_from_slices(encrypting, &iv).ok()?;
    // The padding takes 1 to 16 bytes.
    let mut text = Zeroizing::new([plaintext, &[0; BLOCK_BYTES]].concat());
    let encrypted = encryptor.encrypt_padded::<Pkcs7>(&mut text, plaintext.len()).ok()?;
    let mut token = [&[VERSION], seconds.to_be_bytes().as_slice(), &iv, encrypted].concat();
    let signature = signature(signing)?.chain_update(&token).finalize().into_bytes();
    token.extend_from_slice(&signature);
    Some(URL_SAFE.encode(token))
}

/// Decrypts a token. `None` when the text is no token, or the key is another.
pub(super) fn open(key: &KeyMaterial, token: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (signing, encrypting) = halves(key);
    let token = URL_SAFE.decode(token).ok()?;
    let (signed, hmac) = token.split_at_checked(token.len().checked_sub(HMAC_BYTES)?)?;
    let (header, encrypted) = signed.split_at_checked(HEADER_BYTES)?;
    if header.first() != Some(&VERSION) {
        return None;
    }
    // `verify_slice` compares in constant time.
    signature(signing)?.chain_update(signed).verify_slice(hmac).ok()?;
    let iv = header.get(HEADER_BYTES - BLOCK_BYTES..)?;
    let decryptor = cbc::Decryptor::<Aes128>::new_from_slices(encrypting, iv).ok()?;
    let mut text = Zeroizing::new(encrypted.to_vec());
    let length = decryptor.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

/// The two halves of a Fernet key: 16 bytes sign, 16 bytes encrypt.
fn halves(key: &KeyMaterial) -> (&[u8], &[u8]) {
    key.0.split_at(BLOCK_BYTES)
}

fn signature(signing: &[u8]) -> Option<Hmac<Sha256>> {
    Hmac::new_from_slice(signing).ok()
}
