//! Edits of generated objects.

use super::*;

/// A JSON string for `text`.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// The members of a valid JSON object as they are written, in order.
fn scan(object: &str) -> Vec<(String, String)> {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    let (mut members, mut key, mut start) = (vec![], None, 0);
    for (at, c) in object.char_indices() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => in_string = true,
            '{' | '[' => {
                depth += 1;
                if depth == 1 {
                    start = at + 1;
                }
            }
            ':' if depth == 1 => {
                key = Some(object[start..at].trim().to_owned());
                start = at + 1;
            }
            ',' | '}' | ']' => {
                if depth == 1 {
                    members.extend(key.take().map(|key| (key, object[start..at].trim().to_owned())));
                    start = at + 1;
                }
                depth -= i32::from(c != ',');
            }
            _ => {}
        }
    }
    members
}

/// One member as it is written, with the white space around it.
#[derive(Clone, Debug)]
struct Part {
    lead: String,
    key: String,
    colon: String,
    value: String,
    trail: String,
}

impl Part {
    fn written(&self) -> String {
        [&self.lead[..], &self.key, &self.colon, &self.value, &self.trail].concat()
    }
}

/// An object as it is written, with what stands outside its braces.
#[derive(Clone, Debug)]
struct Object {
    before: String,
    parts: Vec<Part>,
    after: String,
    /// The place of the rotated member.
    own: usize,
}

impl Object {
    fn written(&self) -> String {
        let parts: Vec<_> = self.parts.iter().map(Part::written).collect();
        format!("{}{{{}}}{}", self.before, parts.join(","), self.after)
    }

    fn document(&self) -> Document {
        parse(&self.written()).unwrap()
    }
}

fn space() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec![" ", "\t", "\n", "\r\n"]), 0..4).prop_map(|all| all.concat())
}

/// A JSON string as it may be written: any character, and escapes that need not be there, lone surrogates among them.
fn json_string() -> impl Strategy<Value = String> {
    let plain = any::<char>().prop_map(|c| {
        let quoted = quoted(&c.to_string());
        quoted[1..quoted.len() - 1].to_owned()
    });
    let odd = [
        "\\u00e9",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\ud800",
        "\\uDFFF",
        "\\/",
        "\\\"",
        "\\\\",
        "\\b",
        "{",
        "}",
        ",",
        ":",
    ];
    let piece = prop_oneof![plain, prop::sample::select(odd.to_vec()).prop_map(str::to_owned)];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// A JSON value as it may be written: numbers that no float holds, odd white space, deep nesting.
fn json_value() -> impl Strategy<Value = String> {
    let odd =
        ["null", "true", "false", "0", "-0", "1.0", "1e400", "-1E-999", "1e+5", "0.10", "12345678901234567890123"];
    let deep = (1_usize..300).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth));
    let leaf = prop_oneof![
        prop::sample::select(odd.to_vec()).prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        json_string(),
        deep,
    ];
    leaf.prop_recursive(4, 24, 4, |value| {
        let item = (space(), value.clone(), space()).prop_map(|(lead, value, trail)| lead + &value + &trail).boxed();
        let member =
            (json_string(), space(), item.clone()).prop_map(|(key, colon, value)| format!("{key}{colon}:{value}"));
        prop_oneof![
            prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

fn part(key: impl Strategy<Value = String>, value: impl Strategy<Value = String>) -> impl Strategy<Value = Part> {
    let colon = (space(), space()).prop_map(|(before, after)| format!("{before}:{after}"));
    (space(), key, colon, value, space()).prop_map(|(lead, key, colon, value, trail)| Part {
        lead,
        key,
        colon,
        value,
        trail,
    })
}

/// A text that can be a secret: it is not empty.
fn any_secret() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 1..40).prop_map(String::from_iter)
}

/// Any object that holds the rotated member once, and not `PREVIOUS`; other names may stand more than once.
fn object() -> impl Strategy<Value = Object> {
    let known = ["\"dup\"", "\"admin_token\"", "\"ADMIN_TOKEN2\"", "\"ADMIN_TOKEN \"", "\"\"", "\"\\ud800\""];
    let other_key = prop_oneof![json_string(), prop::sample::select(known.to_vec()).prop_map(str::to_owned)]
        .prop_filter("another name", |key| {
            serde_json::from_str::<String>(key)
                .map_or(true, |key| !key.starts_with(FIELD) || key == "ADMIN_TOKEN2" || key.ends_with(' '))
        });
    let own_key = prop::sample::select(vec!["\"ADMIN_TOKEN\"", "\"\\u0041DMIN_TOKEN\"", "\"ADMIN\\u005fTOKEN\""]);
    let own = part(own_key.prop_map(str::to_owned), any_secret().prop_map(|secret| quoted(&secret)));
    let others = prop::collection::vec(part(other_key, json_value()), 0..6);
    (space(), others, own, any::<Index>(), space()).prop_map(|(before, mut parts, own, at, after)| {
        let at = at.index(parts.len() + 1);
        parts.insert(at, own);
        Object { before, parts, after, own: at }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_another_secret_every_other_byte_stays(object in object(), new in any_secret()) {
        let written = object.written();
        prop_assert!(is_json(&written), "the test itself is wrong: {written}");
        let document = object.document();
        let result = document.with_secret(&secret(&new)).unwrap();

        let mut expected = object.clone();
        expected.parts[object.own].value = quoted(&new);
        prop_assert_eq!(text(&result), expected.written());
        prop_assert!(is_json(text(&result)));
        prop_assert_eq!(result.secret().unwrap(), secret(&new));
        prop_assert_eq!(document.text(), &secret(&written), "the old document is untouched");

        let mut members = scan(&written);
        members[object.own].1 = quoted(&new);
        prop_assert_eq!(scan(text(&result)), members, "as another scanner sees it");
    }

    #[test]
    fn new_member_follows_the_rotated_one_in_its_style(object in object(), new in any_secret()) {
        let result = object.document().with_member(&field(PREVIOUS), &secret(&new)).unwrap();

        let mut expected = object.clone();
        let own = &mut expected.parts[object.own];
        let trail = std::mem::take(&mut own.trail);
        let added = Part { key: quoted(PREVIOUS), value: quoted(&new), trail, ..own.clone() };
        expected.parts.insert(object.own + 1, added);
        prop_assert_eq!(text(&result), expected.written());
        prop_assert!(is_json(text(&result)));
        prop_assert_eq!(result.member(&field(PREVIOUS)).unwrap(), Some(secret(&new)));
        prop_assert_eq!(result.secret(), object.document().secret());

        let mut members = scan(&object.written());
        members.insert(object.own + 1, (quoted(PREVIOUS), quoted(&new)));
        prop_assert_eq!(scan(text(&result)), members, "as another scanner sees it");
    }

    #[test]
    fn a_member_that_exists_changes_in_its_place(
        object in object(), at in any::<Index>(), old in part(Just(quoted(PREVIOUS)), json_value()), new in any_secret(),
    ) {
        let mut with_old = object.clone();
        let at = at.index(object.parts.len() + 1);
        with_old.parts.insert(at, old);
        let result = with_old.document().with_member(&field(PREVIOUS), &secret(&new)).unwrap();

        with_old.parts[at].value = quoted(&new);
        prop_assert_eq!(text(&result), with_old.written());
        prop_assert!(is_json(text(&result)));
        prop_assert_eq!(result.member(&field(PREVIOUS)).unwrap(), Some(secret(&new)));
    }

    #[test]
    fn without_a_member_every_other_byte_stays(
        object in object(), at in any::<Index>(), gone in part(Just(quoted(PREVIOUS)), json_value()),
    ) {
        let mut with_it = object.clone();
        let at = at.index(object.parts.len() + 1);
        with_it.parts.insert(at, gone.clone());
        let result = with_it.document().without_member(&field(PREVIOUS)).unwrap();

        // One piece is cut out: the member and one comma, up to the next key, or from the value before when it is the last.
        let mut expected = object.clone();
        if let Some(next) = expected.parts.get_mut(at) {
            next.lead.clone_from(&gone.lead);
        } else {
            expected.parts[at - 1].trail.clone_from(&gone.trail);
        }
        prop_assert_eq!(text(&result), expected.written());
        prop_assert!(is_json(text(&result)));
        prop_assert_eq!(result.member(&field(PREVIOUS)).unwrap(), None);
        prop_assert_eq!(scan(text(&result)), scan(&object.written()), "as another scanner sees it");
        prop_assert!(result.same_other_members(&object.document(), &[]));
    }

    #[test]
    fn what_is_absent_is_removed_without_a_trace(object in object()) {
        let document = object.document();
        let same = document.without_member(&field(PREVIOUS)).unwrap();
        prop_assert_eq!(text(&same), object.written());
    }

    #[test]
    fn ten_rotations_change_nothing_but_the_rotated_members(
        object in object(), secrets in prop::collection::vec(any_secret(), 10),
    ) {
        let mut document = object.document();
        let mut old = document.secret().unwrap();
        for new in &secrets {
            let previous = document.secret().unwrap();
            old = previous.clone();
            document = document.with_secret(&secret(new)).unwrap().with_member(&field(PREVIOUS), &previous).unwrap();
        }
        let mut expected = object.clone();
        let own = &mut expected.parts[object.own];
        own.value = quoted(&secrets[9]);
        let trail = std::mem::take(&mut own.trail);
        let added = Part { key: quoted(PREVIOUS), value: quoted(old.expose()), trail, ..own.clone() };
        expected.parts.insert(object.own + 1, added);
        prop_assert_eq!(text(&document), expected.written());
        prop_assert_eq!(old, secret(&secrets[8]));
    }

    #[test]
    fn a_change_of_any_other_member_is_noticed(
        object in object(), at in any::<Index>(), value in json_value(), added in part(Just("\"new\"".to_owned()), json_value()),
    ) {
        let document = object.document();
        let own = [field(FIELD)];
        let at = at.index(object.parts.len());

        let mut edited = object.clone();
        edited.parts[at].value = if at == object.own { quoted("another") } else { value };
        let expected = at == object.own || edited.parts[at].value == object.parts[at].value;
        prop_assert_eq!(document.same_other_members(&edited.document(), &own), expected);
        prop_assert_eq!(edited.document().same_other_members(&document, &own), expected);

        let mut longer = object.clone();
        longer.parts.insert(at, added);
        prop_assert!(!document.same_other_members(&longer.document(), &own), "added");
        prop_assert!(!longer.document().same_other_members(&document, &own), "removed");
    }

    #[test]
    fn white_space_between_members_is_nobodys_edit(object in object(), spaces in prop::collection::vec(space(), 4)) {
        let mut spaced = object.clone();
        for part in &mut spaced.parts {
            part.lead.clone_from(&spaces[0]);
            part.colon = format!("{}:{}", spaces[1], spaces[2]);
            part.trail.clone_from(&spaces[3]);
        }
        prop_assert!(object.document().same_other_members(&spaced.document(), &[]));
    }

    #[test]
    fn any_text_either_parses_or_is_refused_by_name(any in any::<String>(), json in json_value()) {
        for text in [any, json] {
            if let Err(error) = parse(&text) {
                let known = ["NotAnObject", "FieldMissing", "FieldNotText", "FieldRepeated"];
                prop_assert!(known.contains(&error.name()), "{}", error.name());
            }
            if let Err(error) = Document::parse(secret(&text), None) {
                prop_assert!(["FieldNotChosen", "EmptyValue"].contains(&error.name()), "{}", error.name());
            }
        }
    }
}
