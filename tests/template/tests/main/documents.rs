//! Documents: each name in them is one of the code or the template and the reverse, links lead somewhere, pages are short.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use deliver::error::DeliverError;
use operate::action::Action;
use operate::error::OperateError;
use reencrypt::error::ReencryptError;
use regex_lite::Regex;
use rotation::error::{IssuerError, RotationError};
use template::{MAIN, root, text};

use crate::metrics::{ALARMS, published};
use crate::settings::{deployed_sources, kind_of, rust_sources, variables_that_the_code_reads};
use crate::support::*;

/// Pages that are longer or shorter than the others may be.
const LONGEST: [(&str, usize); 2] = [("README.md", 200), ("ARCHITECTURE.md", 150)];
const LONGEST_PAGE: usize = 300;
const WIDTH: usize = 100;

/// Variables that Lambda sets: nobody sets them.
const OF_LAMBDA: [&str; 5] =
    ["AWS_ACCESS_KEY_ID", "AWS_LAMBDA_FUNCTION_NAME", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Names in the documents that are AWS's, other software's, or of an example.
const OF_OTHERS: [&str; 23] = [
    "CreatedDate",
    "DescribeSecret",
    "DuplicateSubnetsInSameZone",
    "GetSecretValue",
    "InvalidSignatureException",
    "LastRotatedDate",
    "ListSecrets",
    "MultiFernet",
    "PutMetricData",
    "PutSecretValue",
    "ResourceExistsException",
    "ResourceNotFoundException",
    "RotateImmediately",
    "RotateImmediatelyOnUpdate",
    "RotationAbandoned",
    "RotationFailed",
    "RotationToken",
    "SecretBinary",
    "SecretString",
    "ServiceFailure",
    "TestRotationFailed",
    "UpdateSecretVersionStage",
    "GenerateSecretString",
];

struct Page {
    path: String,
    text: String,
}

impl Page {
    /// The lines that are no code, with their numbers.
    fn prose(&self) -> Vec<(usize, &str)> {
        let mut code = false;
        let mut prose = vec![];
        for (number, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            if !code && !fence {
                prose.push((number + 1, line));
            }
        }
        prose
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for (_, line) in self.prose() {
            let Some(heading) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()) else {
                continue;
            };
            let kept = heading.chars().filter(|one| one.is_alphanumeric() || " -_".contains(*one));
            let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
            assert!(anchors.insert(anchor), "{}: two headings are the same: {heading}", self.path);
        }
        anchors
    }

    /// The tables under a heading, or anywhere: the cells of each row, the header first.
    fn tables(&self, heading: Option<&str>) -> Vec<Vec<Vec<String>>> {
        let text = match heading {
            None => self.text.as_str(),
            Some(heading) => {
                let part = self.text.split(&format!("\n{heading}\n")).nth(1);
                part.unwrap_or_else(|| panic!("{}: no {heading}", self.path)).split("\n## ").next().unwrap()
            }
        };
        let mut tables = vec![vec![]];
        for line in text.lines() {
            let cells = line.trim().strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
            match cells {
                None => tables.push(vec![]),
                Some(cells) if cells.starts_with("---") => {}
                Some(cells) => {
                    tables.last_mut().unwrap().push(cells.split(" | ").map(|cell| cell.trim().to_owned()).collect());
                }
            }
        }
        tables.retain(|table: &Vec<Vec<String>>| !table.is_empty());
        tables
    }

    /// The names in the first cells of the tables with this header.
    fn names(&self, heading: Option<&str>, header: &str) -> BTreeSet<String> {
        let tables = self.tables(heading).into_iter().filter(|table| table[0][0] == header);
        tables.flat_map(|table| table.into_iter().skip(1)).flat_map(|row| code_of(&row[0])).collect()
    }
}

/// What stands in backticks.
fn code_of(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn markdown(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["target", ".git", ".aws-sam"].contains(&name) {
            markdown(&path, into);
        } else if name.ends_with(".md") {
            into.push(path);
        }
    }
}

fn pages() -> Vec<Page> {
    let mut paths = vec![];
    markdown(&root(), &mut paths);
    let page = |path: PathBuf| Page {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
    };
    let pages: Vec<Page> = paths.into_iter().map(page).collect();
    assert!(pages.len() > 12, "the pages are somewhere else");
    pages
}

fn page(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Page { path: path.to_owned(), text }
}

fn literals(pattern: &str, sources: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(sources).map(|found| found[1].to_owned()).collect()
}

/// The names of the shared errors: of the variants, of those that have another name, and of the errors of the store.
pub(crate) fn errors_of_shared() -> BTreeSet<String> {
    let source = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let mut names = owned(RotationError::VARIANTS);
    names.retain(|name| !["Issuer", "Keyring", "Store"].contains(&name.as_str()));
    names.extend(owned(IssuerError::VARIANTS));
    names.extend(literals(r#"=> "([A-Z]\w+)""#, &source("shared/src/error.rs")));
    names.extend(literals(r#"\(\s*"([A-Z]\w+)","#, &source("shared/src/error/store.rs")));
    names
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn assert_same(what: &str, documented: &BTreeSet<String>, real: &BTreeSet<String>) {
    let missing: Vec<_> = real.difference(documented).collect();
    let invented: Vec<_> = documented.difference(real).collect();
    assert!(missing.is_empty() && invented.is_empty(), "{what}: not documented: {missing:?}; invented: {invented:?}");
}

#[test]
fn pages_are_short_and_narrow() {
    for page in pages() {
        let longest = LONGEST.iter().find(|(path, _)| *path == page.path).map_or(LONGEST_PAGE, |(_, lines)| *lines);
        assert!(page.text.lines().count() <= longest, "{}: more than {longest} lines", page.path);
        for (number, line) in page.prose() {
            // What cannot be wrapped: a table, and a word, which a link may be.
            let words = line.split_whitespace().filter(|word| word.len() > 3).count();
            let wraps = !line.starts_with('|') && words > 1;
            assert!(!wraps || line.chars().count() <= WIDTH, "{}:{number}: wider than {WIDTH}", page.path);
            assert!(line.starts_with('|') || !line.contains("| ---"), "{}:{number}: a table in a line", page.path);
        }
    }
}

#[test]
fn examples_have_at_most_40_lines() {
    let mut examples = 0;
    for language in ["python", "node", "rust"] {
        for file in fs::read_dir(root().join("infra/examples").join(language)).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(lines <= 40, "{}: {lines} lines", path.display());
                examples += 1;
            }
        }
    }
    assert!(examples > 15, "{examples}");
}

#[test]
fn links_and_anchors_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut links = 0;
    for page in pages() {
        let folder = root().join(&page.path).parent().unwrap().to_owned();
        for (number, line) in page.prose() {
            for found in link.captures_iter(line).filter(|found| !found[1].starts_with("https://")) {
                let (path, anchor) = found[1].split_once('#').unwrap_or((&found[1], ""));
                let target = if path.is_empty() { root().join(&page.path) } else { folder.join(path) };
                assert!(target.exists(), "{}:{number}: no {path}", page.path);
                if !anchor.is_empty() {
                    let text = fs::read_to_string(&target).unwrap();
                    let anchors = Page { path: path.to_owned(), text }.anchors();
                    assert!(anchors.contains(anchor), "{}:{number}: no {}", page.path, &found[1]);
                }
                links += 1;
            }
        }
    }
    assert!(links > 80, "links are written in another way: {links}");
}

#[test]
fn every_variable_is_documented_and_the_reverse() {
    let functions = fs::read_dir(root().join("functions")).unwrap();
    let functions: Vec<String> = functions.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    let mut documented = page("shared/README.md").names(None, "variable");
    let tags = page("shared/README.md").tables(None).into_iter().filter(|table| table[0][0] == "tag");
    documented.extend(tags.flat_map(|table| table.into_iter().skip(1)).flat_map(|row| code_of(&row[1])));
    let mut shared = String::new();
    rust_sources(&root().join("shared/src"), &mut shared);
    for function in &functions {
        let names = page(&format!("functions/{function}/README.md")).names(None, "variable");
        let mut sources = shared.clone();
        for part in ["encryption-key", function] {
            rust_sources(&root().join("functions").join(part).join("src"), &mut sources);
        }
        for name in &names {
            let read = sources.contains(&format!("\"{name}\"")) || name.starts_with("AWS_ENDPOINT_URL_");
            assert!(read, "{function} does not read {name}");
        }
        documented.extend(names);
    }
    let mut read = variables_that_the_code_reads();
    OF_LAMBDA.iter().for_each(|name| assert!(read.remove(*name), "{name} is read no more"));
    // The code reads a prefix, and each service's name behind it.
    read.retain(|name| !name.starts_with("AWS_ENDPOINT_URL_"));
    documented.retain(|name| !name.starts_with("AWS_ENDPOINT_URL_"));
    assert_same("variables", &documented, &read);
}

#[test]
fn every_tag_is_documented_and_the_reverse() {
    let page = page("shared/README.md");
    let mut documented = page.names(None, "tag");
    documented.extend(page.names(None, "tag by hand"));
    assert_same("tags", &documented, &literals(r#""(rotation:[a-z-]+)""#, &deployed_sources()));
    // With its variable.
    for row in page.tables(None).iter().filter(|table| table[0][0] == "tag").flat_map(|table| table.iter().skip(1)) {
        let variable = code_of(&row[0])[0].replace("rotation:", "ROTATION_").replace('-', "_").to_uppercase();
        assert_eq!(code_of(&row[1]), [variable]);
    }
    for function in rotation_folders() {
        let page = self::page(&format!("functions/{function}/README.md")).text;
        let line = page.split("\nTags: ").nth(1).unwrap().split("\n\n").next().unwrap();
        let mut own = owned(&kind_of(&function).tags);
        own.extend(owned(&["rotation:field", "rotation:hold"]));
        assert_same(&function, &code_of(line).into_iter().collect(), &own);
    }
}

#[test]
fn every_error_is_documented_and_the_reverse() {
    let documented = |path: &str| page(path).names(Some("## Errors"), "errorType");
    let shared = errors_of_shared();
    assert_same("errors of shared", &documented("shared/README.md"), &shared);
    // Their tables have what is theirs; the others are those of shared.
    for (function, variants) in [
        ("deliver", DeliverError::VARIANTS),
        ("operate", OperateError::VARIANTS),
        ("reencrypt", ReencryptError::VARIANTS),
    ] {
        let mut own = owned(variants);
        own.retain(|name| name != "Rotation");
        assert_same(function, &documented(&format!("functions/{function}/README.md")), &own);
    }
    for function in rotation_folders() {
        let usual = documented(&format!("functions/{function}/README.md"));
        assert!(usual.len() > 3 && usual.is_subset(&shared), "{function}: {usual:?}");
    }
}

#[test]
fn every_metric_is_documented_and_the_reverse() {
    let tables = page("shared/README.md").tables(Some("## Metrics"));
    let mut documented = BTreeSet::new();
    for row in tables[0].iter().skip(1) {
        for dimensions in row[1].split("; ") {
            documented.insert((code_of(&row[0])[0].clone(), code_of(dimensions)));
        }
    }
    let missing: Vec<_> = published().into_iter().filter(|metric| !documented.contains(metric)).collect();
    let invented: Vec<_> = documented.iter().filter(|metric| !published().contains(metric)).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not documented: {missing:?}; invented: {invented:?}");
}

#[test]
fn the_runbook_begins_with_every_alarm() {
    let page = page("infra/RUNBOOK.md");
    let begin = page.text.split("\n## 02:00: what is wrong?\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = begin.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | ").next().unwrap());
    let named: Vec<String> = rows.flat_map(code_of).collect();
    assert_eq!(named.len(), ALARMS.len(), "each once");
    assert_same("alarms", &named.into_iter().collect(), &owned(&ALARMS));
}

#[test]
fn every_action_is_documented_and_the_reverse() {
    let actions: BTreeSet<String> = Action::ALL.iter().map(ToString::to_string).collect();
    let page = page("functions/operate/README.md");
    assert_same("actions", &page.names(Some("## Actions"), "action"), &actions);
    let mut sections: BTreeSet<String> = self::page("functions/operate/ACTIONS.md")
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(str::to_owned)
        .collect();
    assert!(sections.insert("sweep".to_owned()), "the sweep is on the other page");
    assert_same("sections on actions", &sections, &actions);
    // Which of them each deployment has.
    assert!(page.text.contains("every action except `retire`, `sweep` and `report`"));
    let functions = most();
    let functions = functions.of_type("AWS::Serverless::Function");
    let allowed = |function: &str| -> BTreeSet<String> {
        text(&functions[function]["Environment"]["Variables"]["ALLOWED_ACTIONS"])
            .split(',')
            .map(str::to_owned)
            .collect()
    };
    let sweeps = owned(&["retire", "sweep", "report"]);
    assert_eq!(allowed("OperateFunction"), actions.difference(&sweeps).cloned().collect());
    assert_eq!(allowed("SweepFunction"), sweeps);
}

#[test]
fn every_parameter_is_documented_with_its_default() {
    let template = templates().written(MAIN);
    let parameters = template["Parameters"].as_object().unwrap();
    let page = page("infra/PARAMETERS.md");
    assert_same("parameters", &page.names(None, "parameter"), &parameters.keys().cloned().collect());
    for row in page.tables(None).iter().flat_map(|table| table.iter().skip(1)) {
        let name = &code_of(&row[0])[0];
        let default = match &parameters[name]["Default"] {
            default if default.is_null() => "required".to_owned(),
            default if text(default).is_empty() => "none".to_owned(),
            default => format!("`{}`", text(default)),
        };
        assert_eq!(row[2], default, "{name}");
    }
    let groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"].as_array().unwrap();
    let groups: Vec<String> = groups.iter().map(|group| text(&group["Label"]["default"])).collect();
    let headings: Vec<&str> = page.text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings, groups);
}

#[test]
fn every_staging_label_is_documented_and_the_reverse() {
    let mut labels = literals(r#""(ROTATION-[A-Z-]*[A-Z])-?""#, &deployed_sources());
    // doctor asks whether it may take it away, and it is on no version.
    assert!(labels.remove("ROTATION-DOCTOR"));
    let documented = page("functions/operate/README.md").names(Some("## Staging labels"), "label");
    let documented = documented.iter().map(|label| label.trim_end_matches("-…").to_owned()).collect();
    assert_same("staging labels", &documented, &labels);
}

/// What looks like a name of ours is one: a parameter, an output, an error, a metric.
#[test]
fn no_page_invents_a_name() {
    let template = templates().written(MAIN);
    let mut known = owned(&OF_OTHERS);
    for part in ["Parameters", "Outputs"] {
        known.extend(template[part].as_object().unwrap().keys().cloned());
    }
    known.extend(published().into_iter().map(|(name, _)| name));
    known.extend(literals(r#"=> "([A-Z]\w+)""#, &deployed_sources()));
    known.extend(errors_of_shared());
    for variants in [DeliverError::VARIANTS, OperateError::VARIANTS, ReencryptError::VARIANTS] {
        known.extend(owned(variants));
    }
    // Roles, dimensions, ends of executions.
    for path in ["infra/access.yaml", "infra/reencryption.asl.json"] {
        known.extend(literals(r"\b([A-Z]\w+)\b", &fs::read_to_string(root().join(path)).unwrap()));
    }
    known.extend(literals(r"\b(?:struct|enum|trait|type) (\w+)", &deployed_sources()));
    known.extend(literals(r#""([A-Z]\w+)""#, &deployed_sources()));
    let name = Regex::new("^[A-Z][a-z]+(?:[A-Z][a-z]+)+$").unwrap();
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for page in pages() {
        for (number, line) in page.prose() {
            let names = code_of(line).into_iter().filter(|code| name.is_match(code));
            used.extend(names.map(|name| (name, format!("{}:{number}", page.path))));
        }
    }
    let invented: Vec<_> = used.iter().filter(|(name, _)| !known.contains(*name)).collect();
    assert!(invented.is_empty(), "{invented:?}");
    assert!(used.len() > 80, "names are written in another way: {}", used.len());
}
