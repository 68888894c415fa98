//! GetRandomPassword.

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::wire;

const LOWERCASE: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPERCASE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NUMBERS: &str = "0123456789";
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

pub(super) fn get_random_password(request: &wire::GetRandomPassword) -> ApiResult<Value> {
    let length = wire::number("passwordLength", request.password_length, 1..=4096)?.unwrap_or(32);
    wire::text_length("excludeCharacters", request.exclude_characters.as_deref(), 0..=4096)?;
    let excluded = request.exclude_characters.as_deref().unwrap_or_default();
    let kinds = [
        (LOWERCASE, request.exclude_lowercase),
        (UPPERCASE, request.exclude_uppercase),
        (NUMBERS, request.exclude_numbers),
        (PUNCTUATION, request.exclude_punctuation),
        (" ", Some(!request.include_space.unwrap_or(false))),
    ];
    let kinds: Vec<Vec<char>> = kinds
        .into_iter()
        .filter(|(_, exclude)| !exclude.unwrap_or(false))
        .map(|(characters, _)| characters.chars().filter(|c| !excluded.contains(*c)).collect())
        .filter(|characters: &Vec<char>| !characters.is_empty())
        .collect();
    let all = kinds.concat();
    let mut random = rand::rng();
    let mut password = Vec::with_capacity(length);
    if request.require_each_included_type.unwrap_or(true) {
        if kinds.len() > length {
            return Err(ApiError::invalid_parameter("The password length is too short based on the required types."));
        }
        password.extend(kinds.iter().filter_map(|kind| kind.choose(&mut random)));
    }
    while password.len() < length {
        let Some(character) = all.choose(&mut random) else {
            return Err(ApiError::invalid_parameter("All characters are excluded from the password."));
        };
        password.push(*character);
    }
    password.shuffle(&mut random);
    Ok(json!({ "RandomPassword": password.into_iter().collect::<String>() }))
}
