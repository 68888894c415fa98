//! Tokens: alphabet, length, randomness, and what a secret scanner makes of them.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use regex_lite::Regex;
use rotation::token::{MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, TokenEncoding, TokenFormat, TokenPrefix};

const BASE62: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECKSUM: usize = 6;

fn prefix(text: &str) -> TokenPrefix {
    TokenPrefix::new(text).unwrap()
}

fn generate(bytes: usize, encoding: TokenEncoding, with: Option<&str>, seed: u64) -> String {
    let format = TokenFormat { bytes, encoding, prefix: with.map(prefix) };
    format.generate(&mut StdRng::seed_from_u64(seed)).expose().to_owned()
}

fn acme(seed: u64) -> String {
    generate(48, TokenEncoding::Base62, Some("acme"), seed)
}

/// Pearson's statistic of the characters of `sample` against a uniform choice from `BASE62`: 61 degrees of freedom.
fn chi_square(sample: &str) -> f64 {
    let expected = sample.len() as f64 / 62.0;
    let square = |digit| {
        let seen = sample.bytes().filter(|byte| *byte == digit).count() as f64;
        (seen - expected).powi(2) / expected
    };
    BASE62.bytes().map(square).sum()
}

/// The CRC-32 of ISO-HDLC (zlib, PNG), bit by bit from its definition: reflected, polynomial 04C11DB7.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

fn base62_value(digits: &str) -> u64 {
    digits.chars().fold(0, |value, digit| value * 62 + BASE62.find(digit).unwrap() as u64)
}

/// Whether a secret scanner takes a text for a token with this prefix: by its form and its checksum.
fn is_recognised(token: &str, prefix: &str) -> bool {
    let rest = token.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    let rest = rest.filter(|rest| rest.len() > CHECKSUM && rest.chars().all(|digit| BASE62.contains(digit)));
    rest.is_some_and(|rest| {
        let (random, digits) = rest.split_at(rest.len() - CHECKSUM);
        base62_value(digits) == u64::from(crc32(random.as_bytes()))
    })
}

#[test]
fn a_token_has_the_length_that_its_encoding_promises() {
    for (bytes, base64url, hex, base62) in [
        (32, 43, 64, 43),
        (33, 44, 66, 45),
        (48, 64, 96, 65),
        (64, 86, 128, 86),
        (255, 340, 510, 343),
        (256, 342, 512, 344),
    ] {
        assert_eq!(generate(bytes, TokenEncoding::Base64Url, None, 1).len(), base64url, "{bytes} bytes");
        assert_eq!(generate(bytes, TokenEncoding::Hex, None, 1).len(), hex, "{bytes} bytes");
        assert_eq!(generate(bytes, TokenEncoding::Base62, None, 1).len(), base62, "{bytes} bytes");
        let prefixed = generate(bytes, TokenEncoding::Base62, Some("acme"), 1);
        assert_eq!(prefixed.len(), "acme_".len() + base62 + CHECKSUM, "{bytes} bytes");
    }
}

#[test]
fn token_uses_all_characters_of_its_encoding_and_no_other() {
    let alphabets = [
        (TokenEncoding::Base64Url, format!("{BASE62}-_")),
        (TokenEncoding::Hex, "0123456789abcdef".to_owned()),
        (TokenEncoding::Base62, BASE62.to_owned()),
    ];
    for (encoding, alphabet) in alphabets {
        let seen: BTreeSet<char> =
            (0..50).flat_map(|seed| generate(48, encoding, None, seed).into_bytes()).map(char::from).collect();
        assert_eq!(seen, alphabet.chars().collect(), "{encoding:?}");
    }
}

#[test]
fn the_characters_hold_at_least_the_promised_randomness() {
    for bytes in MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES {
        for (encoding, alphabet) in
            [(TokenEncoding::Base64Url, 64_f64), (TokenEncoding::Hex, 16.0), (TokenEncoding::Base62, 62.0)]
        {
            let bits = generate(bytes, encoding, None, 1).len() as f64 * alphabet.log2();
            assert!(bits >= (bytes * 8) as f64, "{encoding:?} of {bytes} bytes holds {bits} bits");
            assert!(bits < (bytes * 8) as f64 + alphabet.log2(), "{encoding:?} of {bytes} bytes wastes a character");
        }
        let prefixed = generate(bytes, TokenEncoding::Base62, Some("ab"), 1).len() - "ab_".len() - CHECKSUM;
        assert!(prefixed as f64 * 62_f64.log2() >= (bytes * 8) as f64, "the checksum adds no randomness");
    }
}

#[test]
fn the_digits_of_base62_are_equally_likely() {
    // With 61 degrees of freedom the statistic has mean 61 and standard deviation 11: 127 lies six of them away.
    const BOUND: f64 = 127.0;
    let sample: String = (0..1_000).map(|seed| generate(256, TokenEncoding::Base62, None, seed)).collect();
    assert!(chi_square(&sample) < BOUND, "{}", chi_square(&sample));
    let first: String =
        (0..20_000).map(|seed| generate(32, TokenEncoding::Base62, None, seed)[..1].to_owned()).collect();
    assert!(chi_square(&first) < BOUND, "the first character alone: {}", chi_square(&first));

    // The usual mistake, a remainder of a byte, is far outside the bound for a sample of the same size.
    let mut bytes = vec![0; sample.len()];
    StdRng::seed_from_u64(1).fill_bytes(&mut bytes);
    let biased: String = bytes.iter().map(|byte| char::from(BASE62.as_bytes()[usize::from(byte % 62)])).collect();
    assert!(chi_square(&biased) > 5.0 * BOUND, "{}", chi_square(&biased));
}

#[test]
fn the_same_seed_gives_the_same_token_and_another_seed_another() {
    for (encoding, with) in [
        (TokenEncoding::Base64Url, None),
        (TokenEncoding::Hex, None),
        (TokenEncoding::Base62, None),
        (TokenEncoding::Base62, Some("acme")),
    ] {
        let tokens: BTreeSet<String> = (0..1_000).map(|seed| generate(32, encoding, with, seed)).collect();
        assert_eq!(tokens.len(), 1_000, "{encoding:?}");
        assert_eq!(generate(32, encoding, with, 7), generate(32, encoding, with, 7));
    }
    let format = TokenFormat { bytes: 32, encoding: TokenEncoding::Hex, prefix: None };
    let mut rng = StdRng::seed_from_u64(1);
    assert_ne!(format.generate(&mut rng), format.generate(&mut rng), "one source gives each token once");
}

#[test]
fn a_token_is_the_encoding_of_the_random_bytes_themselves() {
    // Nothing is lost between the source and the text: hex and base64url of one seed decode to the same bytes.
    use base64::Engine as _;
    let mut bytes = [0; 48];
    StdRng::seed_from_u64(5).fill_bytes(&mut bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(generate(48, TokenEncoding::Hex, None, 5), hex);
    let base64url = generate(48, TokenEncoding::Base64Url, None, 5);
    assert_eq!(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(base64url).unwrap(), bytes);
}

#[test]
fn the_checksum_is_the_crc_32_of_the_random_part_in_base62() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926, "the check value of CRC-32/ISO-HDLC");
    for seed in 0..200 {
        let token = acme(seed);
        let (random, digits) = token.strip_prefix("acme_").unwrap().split_at(65);
        assert_eq!(base62_value(digits), u64::from(crc32(random.as_bytes())), "{digits}");
        assert!(is_recognised(&token, "acme"));
    }
}

#[test]
fn every_change_of_one_character_is_rejected() {
    // CRC-32 finds every error that is confined to 32 consecutive bits; one character is eight of them.
    let others = format!("{BASE62}-_ .é\0");
    for seed in 0..5 {
        let token = acme(seed);
        for (at, old) in token.char_indices() {
            for new in others.chars().filter(|new| *new != old) {
                let changed = format!("{}{new}{}", &token[..at], &token[at + 1..]);
                assert!(!is_recognised(&changed, "acme"), "{old} to {new} at {at}");
            }
        }
    }
}

#[test]
fn what_is_not_a_token_of_the_prefix_is_rejected() {
    let token = acme(1);
    assert!(is_recognised(&token, "acme"));
    assert!(!is_recognised(&token, "acm"));
    assert!(!is_recognised(&token, "acme1"));
    for other in [
        "",
        "acme",
        "acme_",
        "acme_000000",
        &token[..token.len() - 1],
        &token[1..],
        &format!("{token}0"),
        &format!(" {token}"),
        &format!("{token}\n"),
        &token.to_uppercase(),
        &token.replacen('_', "-", 1),
        &generate(48, TokenEncoding::Base62, None, 1),
        "acme_é00000",
        "acme_00000é0",
    ] {
        assert!(!is_recognised(other, "acme"), "{other:?}");
    }
}

#[test]
fn secret_scanners_recognise_a_token_with_a_prefix() {
    // Published for GitHub's tokens of 4 + 36 characters: `ghp_[0-9a-zA-Z]{36}` with an entropy of at least 3 (gitleaks,
    // rule github-pat) and `\b(ghp_[a-zA-Z0-9]{36})\b` (Nosey Parker, np.github.1). Ours differ in prefix and length.
    let gitleaks = Regex::new("acme_[0-9a-zA-Z]{71}").unwrap();
    let nosey_parker = Regex::new(r"\b(acme_[a-zA-Z0-9]{71})\b").unwrap();
    for seed in 0..200 {
        let token = acme(seed);
        for line in [
            token.clone(),
            format!("x-admin-token: {token}\r\n"),
            format!(r#"{{"ADMIN_TOKEN":"{token}"}}"#),
            format!("export ADMIN_TOKEN='{token}' # admin"),
            format!("https://shop.example.com/admin?token={token}&page=2"),
        ] {
            assert_eq!(gitleaks.find(&line).unwrap().as_str(), token);
            assert_eq!(&nosey_parker.captures(&line).unwrap()[1], token);
        }
        assert!(shannon_entropy(&token) >= 3.0, "{token}");
    }
    assert!(!gitleaks.is_match(&generate(256, TokenEncoding::Base64Url, None, 1)));
}

/// Bits for each character, from the frequencies of the text itself, as gitleaks calculates it.
fn shannon_entropy(text: &str) -> f64 {
    let share = |byte| text.bytes().filter(|other| *other == byte).count() as f64 / text.len() as f64;
    text.bytes().collect::<BTreeSet<_>>().into_iter().map(|byte| -share(byte) * share(byte).log2()).sum()
}

#[test]
fn a_token_is_never_printed_by_debug() {
    let format = TokenFormat { bytes: 32, encoding: TokenEncoding::Hex, prefix: None };
    let token = format.generate(&mut StdRng::seed_from_u64(1));
    assert_eq!(format!("{token:?} {token:#?}"), "[REDACTED] [REDACTED]");
}
