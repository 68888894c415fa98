//! The scenarios of keyrings, and the values of their secrets: taken apart, written, and changed by hand.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::SystemTime;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::{Document, FieldName};
use rotation::keyring::{Key, KeyFormat, KeyId, Keyring as Ring};
use rotation::policy::Promotion;
use rotation::secret::SecretText;
use rotation::time::format_timestamp;
use serde_json::Value;

use super::{Application, Broken, FIELD, Keyring, PROMOTION_TAG, RINGS};
use crate::model::{Shape, member, object};
use crate::operations::Name;
use crate::scenario::Scenario;
use crate::world::Tags;

impl Keyring {
    /// A raw keyring in a JSON secret.
    #[must_use]
    pub fn scenario(promotion: Promotion, application: Application) -> Scenario<Self> {
        let (shape, format) = (Shape::Json, KeyFormat::Raw);
        Scenario::new(Self { shape, format, promotion, application, archived: false, broken: None })
    }

    /// The same with an archive of its keys, by which they can be retired.
    #[must_use]
    pub fn archived(scenario: Scenario<Self>) -> Scenario<Self> {
        Scenario { model: Self { archived: true, ..scenario.model }, ..scenario }
    }

    /// The same in another format.
    #[must_use]
    pub fn written(scenario: Scenario<Self>, shape: Shape, format: KeyFormat) -> Scenario<Self> {
        Scenario { model: Self { shape, format, ..scenario.model }, ..scenario }
    }

    /// The same with a kind that is broken on purpose.
    #[must_use]
    pub fn broken(scenario: Scenario<Self>, broken: Broken) -> Scenario<Self> {
        Scenario { model: Self { broken: Some(broken), ..scenario.model }, ..scenario }
    }

    pub(super) fn document(self, value: &str) -> Option<Document> {
        let field = FieldName::new(FIELD).filter(|_| self.shape == Shape::Json);
        self.format.wire().document(SecretText::new(value.to_owned()), field.as_ref()).ok()
    }

    pub(super) fn ring(self, value: &str) -> Option<Rc<Ring>> {
        if let Some(known) = RINGS.with_borrow(|rings| rings.get(value).cloned()) {
            return Some(known);
        }
        let ring = Rc::new(self.format.wire().parse(&self.document(value)?).ok()?);
        RINGS.with_borrow_mut(|rings| {
            if rings.len() > 200 {
                rings.clear();
            }
            rings.insert(value.to_owned(), Rc::clone(&ring));
        });
        Some(ring)
    }

    pub(super) fn ids(self, value: &str) -> BTreeSet<KeyId> {
        self.ring(value).iter().flat_map(|ring| ring.keys()).map(|(_, key)| key.id()).collect()
    }

    /// A value with this ring, which nobody has rotated yet.
    pub(super) fn value(self, ring: &Ring) -> Option<String> {
        let primary = self.format.wire().first(ring.primary());
        let primary = primary.expose();
        let value = match self.shape {
            Shape::Text => primary.to_owned(),
            Shape::Json => object(&format!(r#""{FIELD}": {}"#, Value::from(primary))),
        };
        Some(self.format.wire().write(&self.document(&value)?, ring).ok()?.text().expose().to_owned())
    }

    /// What a person makes of a value, who leaves the member with the states as it is.
    pub(super) fn by_hand(self, value: &str, change: impl FnOnce(Ring) -> Option<Ring>) -> Option<String> {
        let document = self.document(value)?;
        let ring = change(Ring::clone(&*self.ring(value)?))?;
        let mut edited = self.format.wire().write(&document, &ring).ok()?;
        if let Some(states) = FieldName::new(&format!("{FIELD}_RING")) {
            edited = match document.member(&states).ok()? {
                Some(kept) => edited.with_member(&states, &kept).ok()?,
                None => edited.without_member(&states).ok()?,
            };
        }
        Some(edited.text().expose().to_owned())
    }

    /// The ring that stood there from the beginning, or the one before it.
    pub(super) fn initial_ring(self, number: u64, created: SystemTime) -> Option<Ring> {
        let key = |number| key(number, created);
        // An old application has one key for ever.
        if self.application == Application::NameOnly {
            return Ring::new(key(1)).ok();
        }
        let ring = Ring::new(key(number)).ok()?;
        let ring = if number > 0 { ring.with_secondary(key(number - 1)).ok()? } else { ring };
        if self.promotion == Promotion::Staged { ring.stage(key(number + 1)).ok() } else { Some(ring) }
    }

    /// Whether a rotation that was told these tags has to replace the primary key of `ring` by a fresh one.
    pub(super) fn promotes_at_once(self, ring: &Ring, tags: &Tags) -> bool {
        let immediate = match tags.get(PROMOTION_TAG) {
            Some(tag) => tag == "immediate",
            None => self.promotion == Promotion::Immediate,
        };
        immediate || ring.primary().dates().compromised.is_some()
    }

    /// Whether the stack declares that all read the whole keyring.
    pub(super) fn is_declared(self) -> bool {
        // With verify=after nobody can prove a key that is new.
        let at_once = self.promotion == Promotion::Immediate && self.application == Application::CurrentOnly;
        at_once || self.application == Application::Silent
    }

    /// Whether every instance is asked what it holds; else the age of a staged key tells.
    pub(super) fn asks_every_instance(self) -> bool {
        matches!(self.application, Application::Told | Application::CurrentOnly | Application::NameOnly)
    }
}

pub(super) fn name(key: &Key) -> Name {
    key.id().to_string().into()
}

/// A key by its number.
pub(super) fn key(number: u64, created: SystemTime) -> Key {
    Key::generate(created, &mut StdRng::seed_from_u64(number << 32))
}

/// The value with a mark on its key in this state.
pub(super) fn marked(value: &str, state: &str, now: SystemTime) -> Option<String> {
    let states = member(value, &format!("{FIELD}_RING"))?;
    let mut ring: Value = serde_json::from_str(&states).ok()?;
    let key = ring["keys"].as_array_mut()?.iter_mut().find(|key| key["state"] == state)?;
    key["compromised"] = Value::from(format_timestamp(now));
    let quoted = |text: &str| Value::from(text).to_string();
    Some(value.replacen(&quoted(&states), &quoted(&ring.to_string()), 1))
}
