//! The blocks of code of `infra/ADOPT-LAYOUTS.md`.

use std::collections::BTreeMap;

use crate::aws_cli::workspace;

/// The page.
const PAGE: &str = "infra/ADOPT-LAYOUTS.md";

/// A block of code.
#[derive(Debug)]
pub(super) struct Block {
    language: String,
    text: String,
}

/// A section's blocks of commands and of parameters, in order. Each is taken once.
#[derive(Debug)]
pub(super) struct Section(Vec<Block>);

impl Section {
    /// # Panics
    /// When the page has no such section.
    pub(super) fn of(heading: &str) -> Self {
        let page = std::fs::read_to_string(workspace().join(PAGE)).unwrap();
        let (mut inside, mut open, mut blocks) = (false, None::<Block>, vec![]);
        for line in page.lines() {
            match (&mut open, line.trim().strip_prefix("```")) {
                (None, Some(language)) => open = Some(Block { language: language.to_owned(), text: String::new() }),
                (Some(_), Some("")) => blocks.extend(open.take().filter(|_| inside)),
                (Some(block), _) => block.text += &format!("{}\n", line.trim()),
                (None, None) => inside = line.strip_prefix("## ").map_or(inside, |found| found == heading),
            }
        }
        blocks.retain(|block| ["sh", "toml"].contains(&block.language.as_str()));
        assert!(!blocks.is_empty(), "{PAGE} has no section {heading}, or no commands in it");
        Self(blocks)
    }

    /// The next block, which has to be commands.
    pub(super) fn commands(&mut self) -> String {
        self.next("sh")
    }

    /// The next block, which has to be parameters of `samconfig.toml`: `"NAME=VALUE",` or `'''NAME='VALUE' ''',` in a
    /// line each.
    pub(super) fn parameters(&mut self) -> BTreeMap<String, String> {
        let text = self.next("toml");
        let parameter = |line: &str| {
            let line = line.trim_end_matches(',');
            let inner = line.strip_prefix("'''").and_then(|line| line.strip_suffix("'''"));
            let inner = inner.or_else(|| line.strip_prefix('"')?.strip_suffix('"'));
            let (name, value) = inner.and_then(|inner| inner.trim().split_once('='))?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        };
        text.lines().map(|line| parameter(line).unwrap_or_else(|| panic!("{line} is no parameter"))).collect()
    }

    /// The test has run everything.
    pub(super) fn ends(&self) {
        assert!(self.0.is_empty(), "these blocks are not run: {:?}", self.0);
    }

    fn next(&mut self, language: &str) -> String {
        assert!(!self.0.is_empty(), "the section has no more blocks");
        let block = self.0.remove(0);
        assert_eq!(block.language, language, "{}", block.text);
        block.text
    }
}
