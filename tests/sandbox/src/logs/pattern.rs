//! Filter patterns of CloudWatch Logs, for texts in JSON lines: `{ ($.message = "step failed") && ($.secret =
//! "*:secret:shop/*" || $.secret = shop) }`.
//!
//! Source: CloudWatch Logs User Guide, "Filter pattern syntax". An asterisk at the beginning or the end of a term
//! stands for any text. Elsewhere it stands for itself. A term with characters other than letters, digits, `*`, `.`,
//! `-` and `_` is quoted. `()` binds more than `&&`, and `&&` binds more than `||`.
//!
//! Other patterns are refused: numbers, `!=`, `IS`, arrays, expressions, and patterns for lines that are not JSON.

use serde_json::Value;

use crate::secrets_manager::error::{ApiError, ApiResult};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Everything,
    Term { path: Vec<String>, text: Text },
    All(Vec<Pattern>),
    Any(Vec<Pattern>),
}

/// A text with an asterisk at either end, or without.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    core: String,
    open_start: bool,
    open_end: bool,
}

impl Pattern {
    pub(super) fn parse(pattern: &str) -> ApiResult<Self> {
        if pattern.trim().is_empty() {
            return Ok(Self::Everything);
        }
        let mut parser = Parser { rest: pattern };
        parser.json().ok_or_else(|| {
            ApiError::invalid_parameter(
                "Invalid filter pattern. The sandbox serves { $.name = \"text\" } with *, &&, || and parentheses.",
            )
        })
    }

    pub(super) fn matches(&self, line: &str) -> bool {
        match self {
            Self::Everything => true,
            _ => serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object() && self.holds(&line)),
        }
    }

    fn holds(&self, line: &Value) -> bool {
        match self {
            Self::Everything => true,
            Self::Term { path, text } => {
                let value = path.iter().try_fold(line, |value, name| value.get(name));
                value.and_then(Value::as_str).is_some_and(|value| text.matches(value))
            }
            Self::All(patterns) => patterns.iter().all(|pattern| pattern.holds(line)),
            Self::Any(patterns) => patterns.iter().any(|pattern| pattern.holds(line)),
        }
    }
}

impl Text {
    fn new(term: &str) -> Self {
        let (open_start, core) = term.strip_prefix('*').map_or((false, term), |core| (true, core));
        let (open_end, core) = core.strip_suffix('*').map_or((false, core), |core| (true, core));
        // A single asterisk stands for both ends.
        Self { core: core.to_owned(), open_start, open_end: open_end || term == "*" }
    }

    fn matches(&self, value: &str) -> bool {
        match (self.open_start, self.open_end) {
            (true, true) => value.contains(&self.core),
            (true, false) => value.ends_with(&self.core),
            (false, true) => value.starts_with(&self.core),
            (false, false) => value == self.core,
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

/// Each method returns `None` for a pattern that it cannot read.
impl<'a> Parser<'a> {
    fn json(&mut self) -> Option<Pattern> {
        self.take("{")?;
        let pattern = self.any()?;
        self.take("}")?;
        self.rest.trim().is_empty().then_some(pattern)
    }

    fn any(&mut self) -> Option<Pattern> {
        self.joined("||", Self::all, Pattern::Any)
    }

    fn all(&mut self) -> Option<Pattern> {
        self.joined("&&", Self::single, Pattern::All)
    }

    fn joined(
        &mut self,
        operator: &str,
        part: fn(&mut Self) -> Option<Pattern>,
        join: fn(Vec<Pattern>) -> Pattern,
    ) -> Option<Pattern> {
        let mut parts = vec![part(self)?];
        while self.take(operator).is_some() {
            parts.push(part(self)?);
        }
        Some(join(parts))
    }

    fn single(&mut self) -> Option<Pattern> {
        if self.take("(").is_some() {
            let pattern = self.any()?;
            self.take(")")?;
            return Some(pattern);
        }
        self.take("$")?;
        let mut path = Vec::new();
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            path.push(self.word(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')?.to_owned());
        }
        self.take("=")?;
        let term = self.term()?;
        (!path.is_empty()).then(|| Pattern::Term { path, text: Text::new(term) })
    }

    fn term(&mut self) -> Option<&'a str> {
        if self.take("\"").is_some() {
            let (term, rest) = self.rest.split_once('"')?;
            self.rest = rest;
            // The User Guide does not say how to escape a quotation mark.
            return (!term.contains('\\')).then_some(term);
        }
        self.rest = self.rest.trim_start();
        let term = self.word(|c| c.is_ascii_alphanumeric() || "*.-_".contains(c))?;
        // A number would compare as a number, and numbers are not supported.
        term.parse::<f64>().is_err().then_some(term)
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn take(&mut self, symbol: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(symbol)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"message":"step failed","secret":"arn:aws:secretsmanager:us-east-1:000000000000:secret:a/b-AbC123",
        "count":5,"nested":{"name":"x"},"list":["x"],"star":"a*b","nothing":null}"#;

    fn matches(pattern: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(LINE)
    }

    #[test]
    fn a_text_is_compared_whole_or_open_at_its_ends() {
        for pattern in [
            r#"{ $.message = "step failed" }"#,
            r#"{$.message="step failed"}"#,
            r#"{ $.message = "step*" }"#,
            r#"{ $.message = "*failed" }"#,
            r#"{ $.message = "*p f*" }"#,
            r#"{ $.message = "*" }"#,
            r#"{ $.message = * }"#,
            r#"{ $.secret = "*:secret:a/b-*" }"#,
            r#"{ $.nested.name = x }"#,
            r#"{ $.star = "a*b" }"#,
            "",
            "  ",
        ] {
            assert!(matches(pattern), "{pattern}");
        }
        for pattern in [
            r#"{ $.message = "Step failed" }"#,
            r#"{ $.message = "step" }"#,
            r#"{ $.message = step }"#,
            r#"{ $.message = "st*ed" }"#,
            r#"{ $.count = "5" }"#,
            r#"{ $.list = "x" }"#,
            r#"{ $.nothing = "*" }"#,
            r#"{ $.missing = "*" }"#,
            r#"{ $.nested = "*" }"#,
        ] {
            assert!(!matches(pattern), "{pattern}");
        }
    }

    #[test]
    fn conditions_join_in_the_documented_order() {
        let (yes, no) = (r#"$.message = "step*""#, r#"$.message = "other""#);
        assert!(matches(&format!("{{ {yes} && ({no} || {yes}) }}")));
        assert!(!matches(&format!("{{ {yes} && {no} }}")));
        assert!(matches(&format!("{{ {yes} || {yes} && {no} }}")));
        assert!(!matches(&format!("{{ ({yes} || {yes}) && {no} }}")));
        assert!(matches(&format!("{{ ((({yes}))) && {yes} && {yes} }}")));
    }

    #[test]
    fn a_line_that_is_no_json_object_matches_only_everything() {
        let pattern = Pattern::parse("{ $.message = * }").unwrap();
        for line in ["START RequestId: 1", "", "[]", "\"message\"", "{"] {
            assert!(!pattern.matches(line));
            assert!(Pattern::parse("").unwrap().matches(line));
        }
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for pattern in [
            "ERROR",
            "\"step failed\"",
            "[a, b]",
            "%step%",
            "{ $.message != \"x\" }",
            "{ $.count = 5 }",
            "{ $.count > 5 }",
            "{ $.list[0] = \"x\" }",
            "{ $.nothing IS NULL }",
            "{ $.message = %step% }",
            "{ $.message = \"a\\\"b\" }",
            "{ $.message = a/b }",
            "{ $.message = \"x\" ",
            "{ $.message = \"x }",
            "{ ($.message = \"x\" }",
            "{ $.message = \"x\" } more",
            "{ $ = \"x\" }",
            "{ $.message = \"x\" && }",
            "{ }",
        ] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
