//! What `doctor` has checked, and what it found.

use serde::Serialize;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<String>,
}

/// All of them, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn good(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check, ok: true, detail: detail.into(), repair: None });
    }

    pub(crate) fn bad(&mut self, check: &'static str, detail: impl Into<String>, repair: impl Into<String>) {
        let repair = Some(repair.into());
        self.0.push(Finding { check, ok: false, detail: detail.into(), repair });
    }

    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether everything is well.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.0.iter().all(|finding| finding.ok)
    }
}
