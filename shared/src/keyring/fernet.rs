//! `fernet`: Fernet keys, comma-separated, the primary first: what Python's `MultiFernet` and Airflow's `FERNET_KEY` take.
//!
//! A list cannot say which key is staged: in a JSON secret `NAME_RING` beside it does; keys that it does not list are
//! secondary. The format of tokens is that of the [Fernet specification](https://github.com/fernet/spec/blob/master/Spec.md).

use std::time::{SystemTime, UNIX_EPOCH};

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngCore as _;
use rand::rngs::StdRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::format::{StagedKey, assemble};
use super::states::ring_member;
use super::text::{decode_list, decode_with, list};
use super::{Cipher, Ciphers, Key, KeyMaterial, Keyring, KeyringError, Place, States, WireFormat};
use crate::document::{Document, FieldName};
use crate::error::RotationError;
use crate::secret::SecretText;

const EXPECTED: &str = "a Fernet key: 32 bytes in base64url with padding, 44 characters";

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Fernet;

impl WireFormat for Fernet {
    fn members(&self, field: &FieldName) -> Vec<FieldName> {
        vec![field.clone(), ring_member(field)]
    }

    fn parse(&self, document: &Document) -> Result<Keyring, RotationError> {
        let mut keys = decode_list(&document.secret()?, document.field(), decode)?.into_iter();
        // A list has at least one item.
        let primary = keys.next().ok_or(RotationError::EmptyValue)?;
        Ok(assemble(primary, StagedKey::Listed, keys, States::read(document)?.as_ref())?)
    }

    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let states = States::read(document)?;
        if states.is_none() && ring.staged().is_some() {
            return Err(KeyringError::NoPlaceForStaged.into());
        }
        let document = states.map_or_else(|| Ok(document.clone()), |states| states.write(document, ring))?;
        document.with_secret(&list(ring.keys().map(|(_, key)| key), encode))
    }

    fn first(&self, primary: &Key) -> SecretText {
        encode(primary)
    }

    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError> {
        let ring = self.parse(document)?;
        let cipher = |key: &Key| Box::new(FernetCipher(key.material().clone())) as Box<dyn Cipher>;
        Ok(Ciphers(ring.keys().map(|(_, key)| (key.id(), cipher(key))).collect()))
    }
}

fn encode(key: &Key) -> SecretText {
    SecretText::new(URL_SAFE.encode(key.material().expose()))
}

fn decode(text: &str, place: &dyn Fn() -> Place) -> Result<Key, KeyringError> {
    decode_with(&URL_SAFE, text, EXPECTED, place)
}

const VERSION: u8 = 0x80;
const IV_BYTES: usize = 16;
const HMAC_BYTES: usize = 32;
/// Version, time, initialisation vector.
const HEADER_BYTES: usize = 1 + 8 + IV_BYTES;

/// A Fernet key: 16 bytes for HMAC-SHA256, 16 bytes for AES-128-CBC.
struct FernetCipher(KeyMaterial);

impl FernetCipher {
    fn signature(&self) -> Option<Hmac<Sha256>> {
        Hmac::new_from_slice(&self.0.expose()[..16]).ok()
    }

    fn encryption_key(&self) -> &[u8] {
        &self.0.expose()[16..]
    }
}

impl Cipher for FernetCipher {
    fn seal(&self, plaintext: &[u8], now: SystemTime, rng: &mut StdRng) -> Option<Vec<u8>> {
        let mut iv = [0; IV_BYTES];
        rng.fill_bytes(&mut iv);
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut token = [&[VERSION][..], &seconds.to_be_bytes(), &iv].concat();
        // Padding takes 1 to 16 bytes.
        let mut text = Zeroizing::new([plaintext, &[0; 16]].concat());
        let encryptor = cbc::Encryptor::<Aes128>::new_from_slices(self.encryption_key(), &iv).ok()?;
        token.extend_from_slice(encryptor.encrypt_padded::<Pkcs7>(&mut text, plaintext.len()).ok()?);
        let signature = self.signature()?.chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&signature);
        Some(URL_SAFE.encode(token).into_bytes())
    }

    fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let token = URL_SAFE.decode(ciphertext).ok()?;
        let (signed, signature) = token.split_at_checked(token.len().checked_sub(HMAC_BYTES)?)?;
        self.signature()?.chain_update(signed).verify_slice(signature).ok()?;
        let (header, encrypted) = signed.split_at_checked(HEADER_BYTES)?;
        if header[0] != VERSION {
            return None;
        }
        let iv = &header[HEADER_BYTES - IV_BYTES..];
        let mut text = Zeroizing::new(encrypted.to_vec());
        let decryptor = cbc::Decryptor::<Aes128>::new_from_slices(self.encryption_key(), iv).ok()?;
        let length = decryptor.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}
