//! The form of base64 texts beside their bytes: padding, alphabet and line breaks.
//!
//! One value does not always show its form. A text without `=`, with a length that is a multiple of four, may be padded
//! or not. A text without `+`, `/`, `-` and `_` may be in either alphabet. A text that fits into one line does not show
//! how long lines are. A [`Form`] is the form that all values of a column together show.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The form that the values of a column show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Form {
    /// A value ends in `=`.
    #[serde(skip_serializing_if = "is_false")]
    pub padded: bool,
    /// A value lacks the `=` that padding would give it.
    #[serde(skip_serializing_if = "is_false")]
    pub unpadded: bool,
    /// A value holds a character that only one alphabet has, or the configuration names the alphabet.
    #[serde(skip_serializing_if = "is_false")]
    pub alphabet: bool,
    /// The lines of the values with several lines.
    #[serde(skip_serializing_if = "Lines::is_one")]
    pub lines: Lines,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references to it")]
fn is_false(shown: &bool) -> bool {
    !shown
}

/// The lines of the values of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lines {
    /// No value has more than one line.
    #[default]
    One,
    /// Every value with several lines has lines of this length.
    Of {
        /// Characters of a line.
        width: usize,
        /// Whether lines end in CR LF, and not in LF.
        crlf: bool,
    },
    /// The lines differ from value to value.
    Differ,
}

impl Lines {
    fn is_one(&self) -> bool {
        *self == Self::One
    }
}

/// The part of a new value's form that no value of the column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// Whether the value is padded.
    Padding,
    /// Whether the value is in the alphabet of base64 or in that of base64url.
    Alphabet,
    /// The length of the value's lines.
    Lines,
}

impl Form {
    /// The form that one value shows.
    pub(super) fn of(stored: &[u8]) -> Self {
        let Some(layout) = Layout::of(stored) else { return Self::default() };
        Self {
            padded: layout.padding() == Some(true),
            unpadded: layout.padding() == Some(false),
            alphabet: layout.shows_alphabet(),
            lines: layout.lines,
        }
    }

    /// The form that both sets of values together show.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let lines = match (self.lines, other.lines) {
            (Lines::One, lines) | (lines, Lines::One) => lines,
            (one, other) if one == other => one,
            _ => Lines::Differ,
        };
        Self {
            padded: self.padded | other.padded,
            unpadded: self.unpadded | other.unpadded,
            alphabet: self.alphabet | other.alphabet,
            lines,
        }
    }

    /// Whether the values show nothing of their form.
    #[must_use]
    pub fn shows_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether values are padded, if all values that show it agree.
    pub(super) fn padding(self) -> Option<bool> {
        (self.padded != self.unpadded).then_some(self.padded)
    }
}

/// The layout of one text.
pub(super) struct Layout<'a> {
    /// The text without its line breaks.
    pub(super) text: Cow<'a, [u8]>,
    lines: Lines,
    /// The line break after the last line.
    end: &'a [u8],
}

impl<'a> Layout<'a> {
    /// Splits a text into lines. `None` if the line breaks differ, or if the lines differ in length; only the last line
    /// may be shorter.
    pub(super) fn of(stored: &'a [u8]) -> Option<Self> {
        if !stored.contains(&b'\n') {
            return Some(Self { text: Cow::Borrowed(stored), lines: Lines::One, end: b"" });
        }
        let body = stored.strip_suffix(b"\n").map_or(stored, |body| body.strip_suffix(b"\r").unwrap_or(body));
        let end = &stored[body.len()..];
        let mut lines = body.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let crlf = if body.contains(&b'\n') { first.ends_with(b"\r") } else { end == b"\r\n" };
        let width = first.len() - usize::from(crlf && body.contains(&b'\n'));
        let mut text = first[..width].to_vec();
        let mut rest = lines.peekable();
        let several = rest.peek().is_some();
        while let Some(line) = rest.next() {
            let is_last = rest.peek().is_none();
            let line = if crlf && !is_last { line.strip_suffix(b"\r")? } else { line };
            let fits = if is_last { (1..=width).contains(&line.len()) } else { line.len() == width };
            if !fits || line.contains(&b'\r') {
                return None;
            }
            text.extend_from_slice(line);
        }
        if !end.is_empty() && (end == b"\r\n") != crlf {
            return None;
        }
        let lines = if several { Lines::Of { width, crlf } } else { Lines::One };
        Some(Self { text: Cow::Owned(text), lines, end })
    }

    pub(super) fn is_padded(&self) -> bool {
        self.text.ends_with(b"=")
    }

    /// Whether the text is padded; `None` when it needs no padding.
    pub(super) fn padding(&self) -> Option<bool> {
        (self.is_padded() || !self.text.len().is_multiple_of(4)).then(|| self.is_padded())
    }

    pub(super) fn shows_alphabet(&self) -> bool {
        shows_alphabet(&self.text)
    }

    /// Gives another text the same layout. A text that is not longer than the old one needs no line break.
    pub(super) fn lay_out(&self, text: Vec<u8>, form: Form) -> Result<Vec<u8>, Untold> {
        let ends_alike = |crlf| self.end.is_empty() || (self.end == b"\r\n") == crlf;
        let (width, line_break): (usize, &[u8]) = match (self.lines, form.lines) {
            (Lines::Of { width, crlf }, _) => (width, line_break(crlf)),
            (Lines::One, _) if text.len() <= self.text.len() => (text.len(), b""),
            (Lines::One, Lines::Of { width, .. }) if width < self.text.len() => (text.len(), b""),
            (Lines::One, Lines::Of { width, crlf }) if ends_alike(crlf) => (width, line_break(crlf)),
            (Lines::One, Lines::One) if self.end.is_empty() => (text.len(), b""),
            _ => return Err(Untold::Lines),
        };
        if self.end.is_empty() && text.len() <= width {
            return Ok(text);
        }
        let lines: Vec<&[u8]> = text.chunks(width.max(1)).collect();
        Ok([&lines.join(line_break), self.end].concat())
    }
}

fn line_break(crlf: bool) -> &'static [u8] {
    if crlf { b"\r\n" } else { b"\n" }
}

/// Whether a text holds a character that only one of the two alphabets has.
pub(super) fn shows_alphabet(text: &[u8]) -> bool {
    text.iter().any(|byte| b"+/-_".contains(byte))
}
