//! What operators have to do after a rotation has ended.

use rotation::keyring::{Key, Keyring};

/// The work that is left when `new` has become current after `old`. `None` when nothing is left.
pub(crate) fn remaining(old: Option<&Keyring>, new: &Keyring) -> Option<String> {
    let primary = new.primary().id();
    let Some(old) = old.filter(|old| old.primary().id() != primary) else {
        let staged = new.staged()?;
        return Some(format!(
            "key {} is staged and encrypts nothing yet: the next rotation makes it primary, when every consumer has it",
            staged.id()
        ));
    };
    let replaced: Vec<String> = [Some(old.primary()), old.staged()]
        .into_iter()
        .flatten()
        .map(Key::id)
        .filter(|id| *id != primary)
        .map(|id| id.to_string())
        .collect();
    let at_once = old.get(primary).is_none();
    let exposed = if at_once {
        format!(
            "{} no longer encrypt: if they were exposed, what is encrypted with them still is; ",
            replaced.join(", ")
        )
    } else {
        String::new()
    };
    Some(format!(
        "{exposed}data under the secondary keys stays readable and has to be re-encrypted under {primary} before they are retired"
    ))
}
