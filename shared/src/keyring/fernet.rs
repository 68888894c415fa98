//! `fernet`: Fernet keys, comma-separated, the primary first, as Python's `MultiFernet` and Airflow's `FERNET_KEY`
//! accept them.
//!
//! Keys in the standard alphabet, which `MultiFernet` accepts too, and white space after the commas are read and stay.
//! New keys are written like the first key.
//!
//! A list cannot say which key is staged. In a JSON secret the member `NAME_RING` says it; keys that `NAME_RING` does
//! not list are secondary. Tokens have the format of the [Fernet
//! specification](https://github.com/fernet/spec/blob/master/Spec.md).
//!
//! The ciphers of all formats come from RustCrypto. The crate `ring` lacks AES-CBC, which Fernet needs, and does not
//! wipe its keys.

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

use super::ring::Keyring;
use super::states::{States, ring_member};
use super::text::{self, Accepted, Style, read_list};
use super::wire::{Cipher, Ciphers, StagedKey, WireFormat, assemble};
use crate::document::{Document, FieldName};
use crate::error::{KeyringError, RotationError};
use crate::key::{Key, KeyMaterial};
use crate::secret::SecretText;

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Fernet;

impl WireFormat for Fernet {
    fn members(&self, field: &FieldName) -> Vec<FieldName> {
        vec![field.clone(), ring_member(field)]
    }

    fn parse(&self, document: &Document) -> Result<Keyring, RotationError> {
        let mut keys =
            read_list(&document.secret()?, document.field(), Accepted::Fernet)?.into_iter().map(|key| key.key);
        // A list has at least one item.
        let primary = keys.next().ok_or(RotationError::EmptyValue)?;
        Ok(assemble(primary, StagedKey::Listed, keys, States::read(document)?.as_ref())?)
    }

    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let style = style(document)?;
        let states = States::read(document)?;
        if states.is_none() && ring.staged().is_some() {
            return Err(KeyringError::NoPlaceForStaged.into());
        }
        let document = states.map_or_else(|| Ok(document.clone()), |states| states.write(document, ring))?;
        document.with_secret(&style.list(ring.keys().map(|(_, key)| key)))
    }

    fn first(&self, primary: &Key) -> SecretText {
        text::first(primary, Accepted::Fernet)
    }

    fn fits(&self, document: &Document, key: &Key) -> Result<bool, RotationError> {
        Ok(style(document)?.fits(key))
    }

    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError> {
        let ring = self.parse(document)?;
        let cipher = |key: &Key| Box::new(FernetCipher::new(key.material())) as Box<dyn Cipher>;
        Ok(Ciphers(ring.keys().map(|(_, key)| (key.id(), cipher(key))).collect()))
    }
}

fn style(document: &Document) -> Result<Style, RotationError> {
    let list = document.secret()?;
    Ok(Style::of(&read_list(&list, document.field(), Accepted::Fernet)?, Some(&list), Accepted::Fernet))
}

const VERSION: u8 = 0x80;
const IV_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;
const HMAC_BYTES: usize = 32;
const HMAC_BLOCK_BYTES: usize = 64;
/// Version, time, initialisation vector.
const HEADER_BYTES: usize = 1 + 8 + IV_BYTES;

/// Whether the bytes have the shape of a token: the version, and whole blocks between header and signature.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    let encrypted = bytes.len().checked_sub(HEADER_BYTES + HMAC_BYTES);
    let whole = encrypted.is_some_and(|length| length > 0 && length.is_multiple_of(BLOCK_BYTES));
    whole && bytes.first() == Some(&VERSION)
}

/// The time in a token, in seconds of Unix time.
pub(crate) fn made_at(token: &[u8]) -> Option<u64> {
    token.get(1..9)?.try_into().ok().map(u64::from_be_bytes)
}

/// A Fernet key: 16 bytes for HMAC-SHA256, 16 bytes for AES-128-CBC.
struct FernetCipher {
    /// The HMAC has its key already: a job that re-encrypts rows signs with it millions of times.
    signature: Hmac<Sha256>,
    key: KeyMaterial,
}

impl FernetCipher {
    fn new(key: &KeyMaterial) -> Self {
        // HMAC pads a short key with zeros to a block (RFC 2104 §2). A key of a whole block can never be refused, so
        // the constructor cannot fail.
        let mut block = Zeroizing::new([0; HMAC_BLOCK_BYTES]);
        block[..16].copy_from_slice(&key.expose()[..16]);
        let signature = Hmac::new((&*block).into());
        Self { signature, key: key.clone() }
    }

    fn encryption_key(&self) -> &[u8] {
        &self.key.expose()[16..]
    }

    /// The signed part of a token, if the signature is by this key.
    fn signed<'a>(&self, token: &'a [u8]) -> Option<&'a [u8]> {
        let (signed, signature) = token.split_at_checked(token.len().checked_sub(HMAC_BYTES)?)?;
        self.signature.clone().chain_update(signed).verify_slice(signature).ok()?;
        Some(signed)
    }
}

impl Cipher for FernetCipher {
    fn seal_bytes(&self, plaintext: &[u8], aad: &[u8], seconds: u64, rng: &mut StdRng) -> Option<Vec<u8>> {
        if !aad.is_empty() {
            return None;
        }
        let mut iv = [0; IV_BYTES];
        rng.fill_bytes(&mut iv);
        let encryptor = cbc::Encryptor::<Aes128>::new_from_slices(self.encryption_key(), &iv).ok()?;
        // Padding takes 1 to 16 bytes. The plaintext is encrypted in place, in its final position.
        let mut token = Vec::with_capacity(HEADER_BYTES + plaintext.len() + BLOCK_BYTES + HMAC_BYTES);
        token.push(VERSION);
        token.extend_from_slice(&seconds.to_be_bytes());
        token.extend_from_slice(&iv);
        token.extend_from_slice(plaintext);
        token.resize(token.len() + BLOCK_BYTES, 0);
        let encrypted = encryptor.encrypt_padded::<Pkcs7>(&mut token[HEADER_BYTES..], plaintext.len()).ok()?.len();
        token.truncate(HEADER_BYTES + encrypted);
        let signature = self.signature.clone().chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&signature);
        Some(token)
    }

    fn open_bytes(&self, token: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (header, encrypted) = self.signed(token)?.split_at_checked(HEADER_BYTES)?;
        if header[0] != VERSION || !aad.is_empty() {
            return None;
        }
        let iv = &header[HEADER_BYTES - IV_BYTES..];
        let mut text = Zeroizing::new(encrypted.to_vec());
        let decryptor = cbc::Decryptor::<Aes128>::new_from_slices(self.encryption_key(), iv).ok()?;
        let length = decryptor.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    fn is_named_by(&self, token: &[u8]) -> bool {
        self.signed(token).is_some()
    }

    fn seal(&self, plaintext: &[u8], now: SystemTime, rng: &mut StdRng) -> Option<Vec<u8>> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.seal_bytes(plaintext, &[], seconds, rng).map(|token| URL_SAFE.encode(token).into_bytes())
    }

    fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.open_bytes(&URL_SAFE.decode(ciphertext).ok()?, &[])
    }
}
