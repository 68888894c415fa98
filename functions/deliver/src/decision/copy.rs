//! Whether a copy is written. A copy never destroys: a value that its source never held stays.

use std::time::SystemTime;

use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::policy::RotationPolicy;

use crate::kinds::SourceKind;

/// What has to be done for a copy.
#[derive(Clone, Debug)]
pub enum CopyDecision {
    /// The copy is equal.
    Equal,
    /// The copy is written.
    Write {
        /// The whole value of the copy's secret.
        value: Box<Document>,
        /// Whether consumers that hold the copy as it was need the new one.
        restarts: bool,
    },
    /// The copy holds a value that its source never held.
    Differs {
        /// The member, or the keys, never a value.
        what: String,
        /// Whether consumers that hold the copy as it is need another one.
        restarts: bool,
    },
}

/// The value that is copied.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// What the secret holds.
    pub kind: SourceKind<'a>,
    /// The policy of the secret.
    pub policy: &'a RotationPolicy,
    /// Its current value, a JSON object.
    pub value: &'a Document,
    /// The rotated member.
    pub field: &'a FieldName,
    /// The time.
    pub now: SystemTime,
}

impl Original<'_> {
    fn members(&self) -> Vec<FieldName> {
        self.kind.members(self.policy, self.value)
    }

    /// Whether the copy in `target` is equal.
    ///
    /// # Errors
    /// A member of `target` is not text, or stands twice.
    pub fn is_equal(&self, target: &Document) -> Result<bool, RotationError> {
        for member in self.members() {
            if target.has_member(&member) != self.value.has_member(&member)
                || target.member(&member)? != self.value.member(&member)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decides. `history` holds the values of the source's versions, the current one too.
    ///
    /// # Errors
    /// Those of [`is_equal`](Self::is_equal).
    pub fn decide(&self, target: &Document, history: &[Document]) -> Result<CopyDecision, RotationError> {
        if self.is_equal(target)? {
            return Ok(CopyDecision::Equal);
        }
        let restarts = self.restarts(target);
        if let Some(what) = self.foreign(target, history)? {
            return Ok(CopyDecision::Differs { what, restarts });
        }
        let mut value = match self.value.member(self.field)? {
            Some(text) => target.with_member(self.field, &text)?,
            None => return Err(RotationError::FieldMissing { field: self.field.to_string() }),
        };
        for member in self.members() {
            value = match self.value.member(&member)? {
                Some(text) => value.with_member(&member, &text)?,
                None => value.without_member(&member)?,
            };
        }
        Ok(CopyDecision::Write { value: Box::new(value), restarts })
    }

    /// Whether consumers that hold the copy in `target` need the current value.
    fn restarts(&self, target: &Document) -> bool {
        let held = self.kind.parse(self.policy, target.text().clone());
        let enough = held.and_then(|held| self.kind.needs_no_delivery(self.policy, &held, self.value, self.now));
        !enough.unwrap_or(false)
    }

    /// What `target` holds that the source never held; `None` if it may be overwritten.
    fn foreign(&self, target: &Document, history: &[Document]) -> Result<Option<String>, RotationError> {
        let members = self.members();
        let held: Vec<&FieldName> = members.iter().filter(|member| target.has_member(member)).collect();
        if held.is_empty() {
            return Ok(None);
        }
        for known in history.iter().chain([self.value]) {
            if self.holds(known, target, &held)? {
                return Ok(None);
            }
        }
        match self.kind.ring(self.policy, self.value)? {
            None => {
                let name = target.member(self.field)?;
                for suffix in ["_PREVIOUS", "_NEXT"] {
                    let other = self.value.member(&self.field.with_suffix(suffix))?;
                    if name.is_some() && other == name {
                        return Ok(None);
                    }
                }
                Ok(Some(format!("a value of member {}", held.first().copied().unwrap_or(self.field))))
            }
            Some(ring) => {
                let copied = self.kind.parse(self.policy, target.text().clone());
                match copied.and_then(|copied| self.kind.ring(self.policy, &copied)) {
                    Ok(Some(copied)) if ring.holds_all_of(&copied) => Ok(None),
                    Ok(Some(copied)) => {
                        let keys: Vec<String> = ring.lacking(&copied).map(|(_, key)| key.id().to_string()).collect();
                        Ok(Some(format!("in member {} the keys {}", self.field, keys.join(", "))))
                    }
                    _ => Ok(Some(format!("no usable keyring in member {}, or one", self.field))),
                }
            }
        }
    }

    /// Whether `target` holds what `known` held: the rotated member, and every other member that it has.
    fn holds(&self, known: &Document, target: &Document, held: &[&FieldName]) -> Result<bool, RotationError> {
        if !target.has_member(self.field) {
            return Ok(false);
        }
        for member in held {
            if target.member(member)? != known.member(member)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
