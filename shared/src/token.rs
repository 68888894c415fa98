//! The formats of admin tokens, and the generation of tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::{CryptoRng, Rng as _};
use zeroize::Zeroizing;

use crate::policy::{OVERLAP, RotationPolicy, Setting, Settings, TOKEN_PROMOTION, VERIFY, one_of};
use crate::secret::SecretText;

/// The least randomness of a token, in bytes. It is twice the 128 bits of OWASP ASVS 5.0 (7.2.3, reference tokens), so
/// that no policy can ask for a weak token.
pub const MIN_TOKEN_BYTES: usize = 32;
/// The most randomness of a token, in bytes. In hexadecimal digits such a token still fits an HTTP header comfortably.
pub const MAX_TOKEN_BYTES: usize = 256;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECKSUM_DIGITS: usize = 6;

/// The bytes of randomness in a new token, 32 to 256.
pub const TOKEN_BYTES: Setting<usize> = Setting {
    tag: "rotation:token-bytes",
    variable: Some("ROTATION_TOKEN_BYTES"),
    default_text: "48",
    default: |_| 48,
    read: |text, _| {
        let bytes = text.parse().ok().filter(|bytes| (MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES).contains(bytes));
        bytes.ok_or_else(|| format!("expected a number of bytes from {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES}"))
    },
};
/// The alphabet of a new token. The default is base62 with a prefix, else base64url.
pub const TOKEN_ENCODING: Setting<TokenEncoding> = Setting {
    tag: "rotation:token-encoding",
    variable: Some("ROTATION_TOKEN_ENCODING"),
    default_text: "base64url",
    default: |choices| {
        if choices.has(&TOKEN_PREFIX) { TokenEncoding::Base62 } else { TokenEncoding::Base64Url }
    },
    read: |text, choices| {
        let names =
            [("base64url", TokenEncoding::Base64Url), ("hex", TokenEncoding::Hex), ("base62", TokenEncoding::Base62)];
        match one_of(text, &names)? {
            encoding if encoding != TokenEncoding::Base62 && choices.has(&TOKEN_PREFIX) => {
                Err(format!("expected base62, because {} is set", TOKEN_PREFIX.tag))
            }
            encoding => Ok(encoding),
        }
    },
};
/// The prefix of a new token. Secret scanners recognise the token by it.
pub const TOKEN_PREFIX: Setting<Option<TokenPrefix>> = Setting {
    tag: "rotation:token-prefix",
    variable: Some("ROTATION_TOKEN_PREFIX"),
    default_text: "none",
    default: |_| None,
    read: |text, _| {
        let prefix = TokenPrefix::new(text);
        prefix.map(Some).ok_or_else(|| "expected 2 to 16 letters and digits, the first a letter".to_owned())
    },
};
/// The settings of kinds that make tokens. An application accepts the previous token for the overlap.
pub const TOKEN_SETTINGS: Settings =
    &[&OVERLAP, &VERIFY, &TOKEN_PROMOTION, &TOKEN_BYTES, &TOKEN_ENCODING, &TOKEN_PREFIX];

/// The alphabet of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEncoding {
    /// RFC 4648 §5 without padding: 48 bytes give 64 characters.
    Base64Url,
    /// Lower-case hexadecimal digits: 48 bytes give 96 characters.
    Hex,
    /// Digits and ASCII letters: 48 bytes give 65 characters.
    Base62,
}

/// The format of new tokens.
///
/// ```
/// use rand::{SeedableRng, rngs::StdRng};
/// use rotation::token::{TokenEncoding, TokenFormat};
///
/// let format = TokenFormat { bytes: 48, encoding: TokenEncoding::Base64Url, prefix: None };
/// let token = format.generate(&mut StdRng::seed_from_u64(1));
/// assert_eq!(token.len(), 64);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFormat {
    /// Bytes of randomness, [`MIN_TOKEN_BYTES`] to [`MAX_TOKEN_BYTES`].
    pub bytes: usize,
    /// The alphabet of the random part.
    pub encoding: TokenEncoding,
    /// The prefix, if there is one. A token with a prefix is `prefix_`, the random part in base62, and six base62
    /// digits of the random part's CRC-32 (ISO-HDLC), most significant first. A secret scanner recognises such a token
    /// without a look-up, as with GitHub's token format of 2021.
    pub prefix: Option<TokenPrefix>,
}

impl TokenFormat {
    /// The format that a secret's policy chooses.
    #[must_use]
    pub fn of(policy: &RotationPolicy) -> Self {
        let (bytes, encoding) = (policy.get(&TOKEN_BYTES), policy.get(&TOKEN_ENCODING));
        Self { bytes, encoding, prefix: policy.get(&TOKEN_PREFIX) }
    }

    /// Makes a new token of this format. All randomness comes from `rng`.
    pub fn generate(&self, rng: &mut impl CryptoRng) -> SecretText {
        match (&self.prefix, self.encoding) {
            (Some(prefix), _) => {
                let random = base62(self.bytes, rng);
                let checksum = checksum(&random);
                SecretText::new(concat(&[&prefix.0, "_", &random, &checksum]))
            }
            (None, TokenEncoding::Base62) => SecretText::new(concat(&[&base62(self.bytes, rng)])),
            (None, TokenEncoding::Base64Url) => {
                SecretText::new(URL_SAFE_NO_PAD.encode(&*random_bytes(self.bytes, rng)))
            }
            (None, TokenEncoding::Hex) => {
                let mut text = String::with_capacity(2 * self.bytes);
                for byte in random_bytes(self.bytes, rng).iter() {
                    for digit in [byte >> 4, byte & 15] {
                        text.extend(char::from_digit(u32::from(digit), 16));
                    }
                }
                SecretText::new(text)
            }
        }
    }
}

/// The prefix of a recognisable token: 2 to 16 ASCII letters and digits, the first a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPrefix(String);

impl TokenPrefix {
    /// Checks and takes a prefix; `None` if it does not have the form.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let form = (2..=16).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric())
            && text.starts_with(|c: char| c.is_ascii_alphabetic());
        form.then(|| Self(text.to_owned()))
    }
}

fn random_bytes(count: usize, rng: &mut impl CryptoRng) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; count]);
    rng.fill_bytes(&mut bytes);
    bytes
}

/// The fewest uniformly random base62 digits that hold at least `bytes` bytes of randomness.
fn base62(bytes: usize, rng: &mut impl CryptoRng) -> Zeroizing<String> {
    // log2(62) = 5.9541…; rounded down to a ratio, so the count is never too small.
    let digits = (bytes * 8 * 10_000).div_ceil(59_541);
    let mut text = Zeroizing::new(String::with_capacity(digits));
    for _ in 0..digits {
        text.push(char::from(BASE62[rng.random_range(0..BASE62.len())]));
    }
    text
}

fn checksum(random: &str) -> Zeroizing<String> {
    let mut rest = crc32fast::hash(random.as_bytes());
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    Zeroizing::new(digits.iter().map(|&d| char::from(d)).collect())
}

/// One allocation of the right size: a growing `String` would leave unwiped copies of the token behind.
fn concat(parts: &[&str]) -> String {
    let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        text.push_str(part);
    }
    text
}
