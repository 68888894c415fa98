//! The policy: built-in defaults, then the environment, then the tags, within the stack's bounds and above the floor.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rotation::document::FieldName;
use rotation::error::RotationError;
use rotation::keyring::{KEY_SETTINGS, KeyFormat};
use rotation::policy::{
    DEFAULT_MAX_HOLD, MAX_OVERLAP, OVERLAP, PROMOTION, Promotion, RotationPolicy, Setting, StackPolicy,
    TOKEN_PROMOTION, VERIFY, Verify, by_hand, done_tag,
};
use rotation::time::{format_timestamp, parse_timestamp};
use rotation::token::{MIN_TOKEN_BYTES, TOKEN_SETTINGS, TokenEncoding, TokenFormat};

use crate::{environment, field};

mod durations;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `rotation:x` is set for the stack by the second.
const SETTINGS: [(&str, &str); 9] = [
    ("rotation:field", "ROTATION_FIELD"),
    ("rotation:overlap", "ROTATION_OVERLAP"),
    ("rotation:hold", "ROTATION_HOLD"),
    ("rotation:verify", "ROTATION_VERIFY"),
    ("rotation:promotion", "ROTATION_PROMOTION"),
    ("rotation:token-bytes", "ROTATION_TOKEN_BYTES"),
    ("rotation:token-encoding", "ROTATION_TOKEN_ENCODING"),
    ("rotation:token-prefix", "ROTATION_TOKEN_PREFIX"),
    ("rotation:key-format", "ROTATION_KEY_FORMAT"),
];

fn now() -> SystemTime {
    parse_timestamp("2026-11-01T12:00:00Z").unwrap()
}

fn stack(variables: &[(&str, &str)]) -> Result<StackPolicy, RotationError> {
    StackPolicy::from_environment(&environment(variables), &[TOKEN_SETTINGS, KEY_SETTINGS].concat())
}

fn tags(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn policy(variables: &[(&str, &str)], chosen: &[(&str, &str)]) -> Result<RotationPolicy, RotationError> {
    stack(variables)?.for_secret(&tags(chosen), now())
}

/// The tag or variable that a refusal names, and the rest of its message.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, RotationError>) -> (String, String) {
    let error = result.unwrap_err();
    let message = error.to_string();
    match error {
        RotationError::InvalidPolicy { setting, problem } => {
            assert_eq!(message, format!("{setting}: {problem}"));
            (setting, problem)
        }
        RotationError::InvalidConfiguration { variable, problem } => {
            assert_eq!(message, format!("environment variable {variable}: {problem}"));
            (format!("environment variable {variable}"), problem)
        }
        _ => panic!("neither the policy nor the configuration: {message}"),
    }
}

/// `values` are taken and `refused` are not, from the tag and from the environment alike; the errors name the source
/// and say what is `expected`.
#[track_caller]
fn bounds(tag: &str, also: &[(&str, &str)], taken: &[&str], refused: &[&str], expected: &str) {
    let (_, variable) = SETTINGS.into_iter().find(|(name, _)| *name == tag).unwrap();
    for value in taken {
        policy(also, &[(tag, value)]).unwrap_or_else(|error| panic!("{tag}={value:?}: {error}"));
        let environment = [also, &[(variable, value)]].concat();
        policy(&environment, &[]).unwrap_or_else(|error| panic!("{variable}={value:?}: {error}"));
    }
    for value in refused {
        let (setting, problem) = refusal(policy(also, &[(tag, value)]));
        assert_eq!(setting, format!("tag {tag}"), "{value:?}");
        assert!(problem.contains(expected), "{tag}={value:?}: {problem}");
        let environment = [also, &[(variable, value)]].concat();
        if value.is_empty() {
            continue; // the same as not set
        }
        let (setting, problem) = refusal(policy(&environment, &[]));
        assert_eq!(setting, format!("environment variable {variable}"), "{value:?}");
        assert!(problem.contains(expected), "{variable}={value:?}: {problem}");
    }
}

#[test]
fn without_environment_and_tags_the_built_in_defaults_hold() {
    let policy = policy(&[], &[]).unwrap();
    assert_eq!(policy.field, None);
    assert_eq!(policy.overlap, DAY);
    assert_eq!(policy.hold_until, None);
    let token = TokenFormat::of(&policy);
    assert_eq!((token.bytes, token.encoding), (48, TokenEncoding::Base64Url));
    assert_eq!(token.prefix, None);
    assert_eq!(policy.get(&VERIFY), Verify::Before);
}

#[test]
fn tags_win_over_environment_and_environment_over_defaults() {
    // Of each setting: the stack's choice, the tag's, and how all three show.
    type Show = fn(&RotationPolicy) -> String;
    let show_field: Show = |policy| format!("{:?}", policy.field.as_ref().map(FieldName::as_str));
    let show_hold: Show = |policy| format!("{:?}", policy.hold_until.map(format_timestamp));
    let table: [(&str, &str, Show, [&str; 3]); 9] = [
        ("STACK", "TAGGED", show_field, ["None", "Some(\"STACK\")", "Some(\"TAGGED\")"]),
        ("12h", "36h", |policy| format!("{:?}", policy.overlap), ["86400s", "43200s", "129600s"]),
        (
            "2026-11-24",
            "2026-12-24",
            show_hold,
            ["None", "Some(\"2026-11-24T00:00:00Z\")", "Some(\"2026-12-24T00:00:00Z\")"],
        ),
        ("after", "before", |policy| format!("{:?}", policy.get(&VERIFY)), ["Before", "After", "Before"]),
        ("immediate", "staged", |policy| format!("{:?}", policy.get(&PROMOTION)), ["Staged", "Immediate", "Staged"]),
        ("33", "255", |policy| TokenFormat::of(policy).bytes.to_string(), ["48", "33", "255"]),
        ("hex", "base62", |policy| format!("{:?}", TokenFormat::of(policy).encoding), ["Base64Url", "Hex", "Base62"]),
        (
            "stack",
            "tag",
            |policy| format!("{:?}", TokenFormat::of(policy).prefix),
            ["None", "Some(TokenPrefix(\"stack\"))", "Some(TokenPrefix(\"tag\"))"],
        ),
        ("fernet", "tink", |policy| format!("{:?}", KeyFormat::of(policy)), ["Raw", "Fernet", "Tink"]),
    ];
    for ((tag, variable), (in_stack, in_tag, show, [default, from_stack, from_tag])) in SETTINGS.into_iter().zip(table)
    {
        let (allowed, chosen) = (("ALLOWED_FIELDS", "OTHER,TAGGED"), (variable, in_stack));
        assert_eq!(show(&policy(&[allowed], &[]).unwrap()), default, "{tag}: default");
        assert_eq!(show(&policy(&[allowed, chosen], &[]).unwrap()), from_stack, "{variable} over the default");
        assert_eq!(show(&policy(&[allowed, chosen], &[(tag, in_tag)]).unwrap()), from_tag, "{tag} over {variable}");
        assert_eq!(show(&policy(&[allowed], &[(tag, in_tag)]).unwrap()), from_tag, "{tag} over the default");
    }
}

#[test]
fn one_tag_changes_one_setting_only() {
    let stack = [("ROTATION_OVERLAP", "2h"), ("ROTATION_TOKEN_BYTES", "64"), ("ROTATION_VERIFY", "after")];
    let untagged = policy(&stack, &[]).unwrap();
    let tagged = policy(&stack, &[("rotation:overlap", "3h")]).unwrap();
    assert_eq!(tagged, RotationPolicy { overlap: 3 * HOUR, ..untagged });
}

#[test]
fn unknown_rotation_tag_is_named_and_the_known_ones_are_listed() {
    let known = SETTINGS.map(|(tag, _)| tag).join(", ");
    for unknown in ["rotation:overlapp", "rotation:", "rotation:Overlap", "rotation:overlap ", "rotation:keyformat"] {
        let (setting, problem) = refusal(policy(&[], &[("rotation:overlap", "1h"), (unknown, "24h")]));
        assert_eq!(setting, format!("tag {unknown}"));
        assert_eq!(problem, format!("is not a setting of this function; known are {known}"));
    }
}

#[test]
fn tags_of_other_purposes_are_ignored() {
    let others =
        [("rotation", "x"), ("Rotation:overlap", "x"), ("team:rotation:overlap", "x"), ("owner", "shop"), ("", "")];
    assert_eq!(policy(&[], &others), policy(&[], &[]));
}

#[test]
fn a_tag_names_no_destination() {
    for tag in ["rotation:url", "rotation:target", "rotation:verify-url", "rotation:header", "rotation:endpoint"] {
        assert_eq!(refusal(policy(&[], &[(tag, "https://evil.com")])).0, format!("tag {tag}"));
    }
}

#[test]
fn tokens_hold_32_to_256_bytes_of_randomness() {
    assert_eq!(MIN_TOKEN_BYTES, 32);
    let refused = ["31", "0", "-48", "257", "18446744073709551616", "48.0", "0x30", "48 ", "many", ""];
    bounds("rotation:token-bytes", &[], &["32", "48", "256"], &refused, "expected a number of bytes from 32 to 256");
}

#[test]
fn nothing_goes_under_the_floor_of_32_bytes() {
    let weak = refusal(stack(&[("ROTATION_TOKEN_BYTES", "31")]));
    assert_eq!(weak.0, "environment variable ROTATION_TOKEN_BYTES");
    for encoding in ["base64url", "hex", "base62"] {
        let choice = [("rotation:token-bytes", "31"), ("rotation:token-encoding", encoding)];
        assert_eq!(refusal(policy(&[("ROTATION_TOKEN_BYTES", "256")], &choice)).0, "tag rotation:token-bytes");
    }
    // There is no variable that lowers the floor.
    let attempts = [("MIN_TOKEN_BYTES", "1"), ("TOKEN_BYTES", "1")];
    assert_eq!(TokenFormat::of(&policy(&attempts, &[]).unwrap()).bytes, 48);
    assert_eq!(refusal(policy(&attempts, &[("rotation:token-bytes", "31")])).0, "tag rotation:token-bytes");
}

#[test]
fn a_variable_that_is_no_setting_is_named_as_a_tag_is() {
    let refused = stack(&[("ROTATION_MIN_TOKEN_BYTES", "1")]).unwrap_err().to_string();
    assert!(refused.contains("ROTATION_MIN_TOKEN_BYTES: is not a setting"), "{refused}");
}

#[test]
fn setting_of_another_kind_is_an_error_in_tag_and_variable() {
    let tokens = StackPolicy::from_environment(&environment(&[]), TOKEN_SETTINGS).unwrap();
    let keys = StackPolicy::from_environment(&environment(&[]), KEY_SETTINGS).unwrap();
    for (stack, tag, value) in [(&tokens, "rotation:key-format", "raw"), (&keys, "rotation:token-bytes", "48")] {
        let (setting, problem) = refusal(stack.for_secret(&tags(&[(tag, value)]), now()));
        assert_eq!(setting, format!("tag {tag}"));
        assert!(problem.starts_with("is not a setting of this function; known are rotation:field"), "{problem}");
        assert!(!problem.contains(tag), "{problem}");
    }
    let refused = StackPolicy::from_environment(&environment(&[("ROTATION_TOKEN_BYTES", "48")]), KEY_SETTINGS);
    let (setting, problem) = refusal(refused);
    assert_eq!(setting, "environment variable ROTATION_TOKEN_BYTES");
    assert!(problem.contains("ROTATION_KEY_FORMAT, ROTATION_PROMOTION"), "{problem}");
}

#[test]
fn promotion_of_tokens_is_a_tag_and_the_variable_is_for_keys() {
    let refused = StackPolicy::from_environment(&environment(&[("ROTATION_PROMOTION", "staged")]), TOKEN_SETTINGS);
    assert_eq!(refusal(refused).0, "environment variable ROTATION_PROMOTION");
    for variable in ["staged", "immediate"] {
        let both = stack(&[("ROTATION_PROMOTION", variable)]).unwrap();
        let tokens = both.for_kind(TOKEN_SETTINGS);
        let promotion = |chosen: &[_]| tokens.for_secret(&tags(chosen), now()).unwrap().get(&TOKEN_PROMOTION);
        let tagged = [("rotation:promotion", "staged")];
        assert_eq!((promotion(&[]), promotion(&tagged)), (Promotion::Immediate, Promotion::Staged));
        let untagged = BTreeMap::new();
        assert!(tokens.sources(&untagged).contains(&("rotation:promotion", "immediate", "default")));
        let keys = both.for_kind(KEY_SETTINGS);
        assert!(keys.sources(&untagged).contains(&("rotation:promotion", variable, "environment")));
    }
}

/// A setting that only a kind of this test has.
const KEPT: Setting<u8> = Setting {
    tag: "rotation:kept",
    variable: Some("ROTATION_KEPT"),
    default_text: "3",
    default: |_| 3,
    read: |text, _| match text.parse() {
        Ok(kept @ 1..=9) => Ok(kept),
        _ => Err("expected a number from 1 to 9".to_owned()),
    },
};

#[test]
fn a_kind_brings_settings_of_its_own() {
    let of_kind = |variables: &[(&str, &str)]| StackPolicy::from_environment(&environment(variables), &[&KEPT]);
    let kept = |stack: &StackPolicy, chosen: &[(&str, &str)]| {
        stack.for_secret(&tags(chosen), now()).map(|policy| policy.get(&KEPT))
    };
    let (silent, chosen) = (of_kind(&[]).unwrap(), of_kind(&[("ROTATION_KEPT", "5")]).unwrap());
    assert_eq!((kept(&silent, &[]), kept(&chosen, &[])), (Ok(3), Ok(5)));
    assert_eq!(kept(&chosen, &[("rotation:kept", "9")]), Ok(9));
    let expected = |setting: &str| (setting.to_owned(), "expected a number from 1 to 9".to_owned());
    assert_eq!(refusal(kept(&chosen, &[("rotation:kept", "10")])), expected("tag rotation:kept"));
    assert_eq!(refusal(of_kind(&[("ROTATION_KEPT", "0")])), expected("environment variable ROTATION_KEPT"));
    let untagged = BTreeMap::new();
    let sources = silent.sources(&untagged).into_iter().map(|(tag, value, from)| [tag, value, from]);
    assert!(sources.collect::<Vec<_>>().contains(&["rotation:kept", "3", "default"]));
}

#[test]
fn every_secret_may_be_reminded_of() {
    let chosen =
        [("rotation:remind", "META_APP_SECRET:90d OPENAI_API_KEY:180d"), ("rotation:done:OPENAI_API_KEY", DONE)];
    for of_kind in [TOKEN_SETTINGS, KEY_SETTINGS, &[]] {
        let stack = StackPolicy::from_environment(&environment(&[]), of_kind).unwrap();
        assert!(stack.for_secret(&tags(&chosen), now()).is_ok());
        assert!(!stack.sources(&tags(&chosen)).iter().any(|(tag, ..)| tag.starts_with("rotation:remind")));
    }
    let [meta, openai] = &by_hand(&tags(&chosen)).unwrap()[..] else { panic!() };
    assert_eq!((meta.member.as_ref(), meta.period, meta.done), (Some(&field("META_APP_SECRET")), 90 * DAY, None));
    assert_eq!((openai.period, openai.due()), (180 * DAY, parse_timestamp("2027-01-28T12:00:00Z")));
    assert!(meta.is_due(now()) && !openai.is_due(now()) && openai.is_due(openai.due().unwrap()));
    assert_eq!(by_hand(&tags(&[("rotation:remind", "30d"), ("rotation:done", DONE)])).unwrap()[0].member, None);
    assert_eq!(by_hand(&tags(&[])), Ok(vec![]));
    assert_eq!([done_tag(None), done_tag(Some(&field("A")))], ["rotation:done", "rotation:done:A"]);
}

const DONE: &str = "2026-08-01T12:00:00Z";

#[test]
fn a_reminder_of_another_form_is_refused() {
    for text in ["", "A", "A:", "A:90", "A:1h", "A:4000d", "1A:90d", "A:90d A:30d", "30d 60d", "A 90d", ":90d"] {
        let refused = policy(&[], &[("rotation:remind", text)]);
        assert_eq!(refusal(refused).0, "tag rotation:remind", "{text:?}");
    }
    for (tag, text) in
        [("rotation:done:A", "yesterday"), ("rotation:done", ""), ("rotation:done:", DONE), ("rotation:done:1", DONE)]
    {
        assert_eq!(refusal(policy(&[], &[(tag, text)])).0, format!("tag {tag}"));
    }
    for tag in ["rotation:doneA", "rotation:reminder", "rotation:remind:A"] {
        assert!(refusal(policy(&[], &[(tag, DONE)])).1.starts_with("is not a setting"), "{tag}");
    }
}

#[test]
fn tags_that_mean_nothing_to_a_kind_are_refused() {
    let stack = StackPolicy::from_environment(&environment(&[]), &[&KEPT]).unwrap();
    for (tag, value) in [("rotation:overlap", "1h"), ("rotation:verify", "after"), ("rotation:promotion", "staged")] {
        let (setting, problem) = refusal(stack.for_secret(&tags(&[(tag, value)]), now()));
        assert_eq!(setting, format!("tag {tag}"));
        let known = "rotation:field, rotation:hold, rotation:kept";
        assert_eq!(problem, format!("is not a setting of this function; known are {known}"));
    }
    let refused = StackPolicy::from_environment(&environment(&[("ROTATION_OVERLAP", "1h")]), &[&KEPT]);
    assert_eq!(refusal(refused).0, "environment variable ROTATION_OVERLAP");
    let listed = StackPolicy::from_environment(&environment(&[("ROTATION_OVERLAP", "1h")]), &[&OVERLAP]).unwrap();
    assert_eq!(listed.for_secret(&tags(&[]), now()).unwrap().overlap, HOUR);
}

#[test]
fn a_keyring_is_raw_and_staged_unless_something_else_is_chosen() {
    let default = policy(&[], &[]).unwrap();
    assert_eq!((KeyFormat::of(&default), default.get(&PROMOTION)), (KeyFormat::Raw, Promotion::Staged));
    let chosen = [("rotation:key-format", "tink"), ("rotation:promotion", "immediate")];
    let chosen = policy(&[("ROTATION_KEY_FORMAT", "fernet")], &chosen).unwrap();
    assert_eq!((KeyFormat::of(&chosen), chosen.get(&PROMOTION)), (KeyFormat::Tink, Promotion::Immediate));
    let format = policy(&[("ROTATION_KEY_FORMAT", "fernet")], &[]).unwrap();
    assert_eq!(KeyFormat::of(&format), KeyFormat::Fernet);
    bounds(
        "rotation:key-format",
        &[],
        &["raw", "fernet", "tink"],
        &["Raw", "jwk", "", "raw "],
        "expected raw, fernet or tink",
    );
    let refused = ["Staged", "at-once", "", "compromised"];
    bounds("rotation:promotion", &[], &["staged", "immediate"], &refused, "expected staged or immediate");
}

#[test]
fn an_encoding_is_one_of_three() {
    let refused = ["Base64Url", "base64", "HEX", "base58", "hex ", ""];
    let expected = "expected base64url, hex or base62";
    bounds("rotation:token-encoding", &[], &["base64url", "hex", "base62"], &refused, expected);
}

#[test]
fn a_prefix_is_2_to_16_letters_and_digits() {
    let refused = ["a", "abcdefghijklmnopq", "1a", "ac-me", "ac_me", "acme_", "ac me", "äcme", "acmé", ""];
    let expected = "expected 2 to 16 letters and digits, the first a letter";
    bounds("rotation:token-prefix", &[], &["ab", "a1", "Acme", "abcdefghijklmnop"], &refused, expected);
}

#[test]
fn a_prefix_means_base62_and_refuses_another_encoding() {
    let prefixed = policy(&[], &[("rotation:token-prefix", "acme")]).unwrap();
    assert_eq!(TokenFormat::of(&prefixed).encoding, TokenEncoding::Base62);
    let both = [("rotation:token-prefix", "acme"), ("rotation:token-encoding", "base62")];
    assert_eq!(TokenFormat::of(&policy(&[], &both).unwrap()), TokenFormat::of(&prefixed));
    for other in ["hex", "base64url"] {
        let (setting, problem) =
            refusal(policy(&[], &[("rotation:token-prefix", "acme"), ("rotation:token-encoding", other)]));
        assert_eq!(setting, "tag rotation:token-encoding");
        assert!(problem.contains("base62") && problem.contains("rotation:token-prefix"), "{problem}");
        let (setting, _) = refusal(policy(&[("ROTATION_TOKEN_PREFIX", "acme")], &[("rotation:token-encoding", other)]));
        assert_eq!(setting, "tag rotation:token-encoding");
        let (setting, _) = refusal(policy(&[("ROTATION_TOKEN_ENCODING", other)], &[("rotation:token-prefix", "acme")]));
        assert_eq!(setting, "environment variable ROTATION_TOKEN_ENCODING");
        let (setting, _) = refusal(stack(&[("ROTATION_TOKEN_ENCODING", other), ("ROTATION_TOKEN_PREFIX", "acme")]));
        assert_eq!(setting, "environment variable ROTATION_TOKEN_ENCODING");
    }
}

#[test]
fn verification_is_before_or_after() {
    let refused = ["Before", "never", "both", ""];
    bounds("rotation:verify", &[], &["before", "after"], &refused, "expected before or after");
}

#[test]
fn a_tag_chooses_among_the_allowed_members_only() {
    let stack = [("ALLOWED_FIELDS", "ADMIN_TOKEN, OPS_TOKEN")];
    for allowed in ["ADMIN_TOKEN", "OPS_TOKEN"] {
        assert_eq!(policy(&stack, &[("rotation:field", allowed)]).unwrap().field, Some(field(allowed)));
    }
    for other in ["DATABASE_PASSWORD", "admin_token", "ADMIN_TOKEN_PREVIOUS", "ADMIN_TOKEN ", "a\"b", ""] {
        let (setting, problem) = refusal(policy(&stack, &[("rotation:field", other)]));
        assert_eq!(setting, "tag rotation:field");
        assert!(problem.contains("ADMIN_TOKEN, OPS_TOKEN") && problem.contains("ALLOWED_FIELDS"), "{problem}");
    }
    let (setting, problem) = refusal(policy(&[], &[("rotation:field", "ADMIN_TOKEN")]));
    assert_eq!(setting, "tag rotation:field");
    assert!(problem.contains("set ALLOWED_FIELDS"), "{problem}");
}

#[test]
fn the_stacks_own_member_is_allowed_without_being_listed() {
    let stack = [("ROTATION_FIELD", "ADMIN_TOKEN")];
    assert_eq!(policy(&stack, &[]).unwrap().field, Some(field("ADMIN_TOKEN")));
    assert_eq!(policy(&stack, &[("rotation:field", "ADMIN_TOKEN")]).unwrap().field, Some(field("ADMIN_TOKEN")));
    assert_eq!(refusal(policy(&stack, &[("rotation:field", "OTHER")])).0, "tag rotation:field");
}

#[test]
fn the_name_of_a_member_is_1_to_128_plain_characters() {
    let longest = format!("_{}", "x".repeat(127));
    for good in ["a", "_", "A1", "a.b-c_d", &longest] {
        assert_eq!(FieldName::new(good).map(|name| name.as_str().to_owned()).as_deref(), Some(good));
    }
    for bad in ["", "1a", "-a", ".a", "a b", "a\"b", "a\\b", "a/b", "ä", "a\n", &format!("{longest}x")] {
        assert_eq!(FieldName::new(bad), None, "{bad:?}");
    }
}

#[test]
fn bad_choice_of_the_stack_fails_at_start_by_its_variable() {
    for (variable, value) in [
        ("ROTATION_FIELD", "two words"),
        ("ROTATION_OVERLAP", "31d"),
        ("ROTATION_OVERLAP", "a while"),
        ("ROTATION_HOLD", "never"),
        ("ROTATION_HOLD", "2026-02-30"),
        ("ROTATION_TOKEN_BYTES", "16"),
        ("ROTATION_TOKEN_ENCODING", "base64"),
        ("ROTATION_TOKEN_PREFIX", "_"),
        ("ROTATION_VERIFY", "sometimes"),
        ("ALLOWED_FIELDS", "A,,B"),
        ("ALLOWED_FIELDS", "A;B"),
        ("MAX_OVERLAP", "31d"),
        ("MAX_OVERLAP", "long"),
        ("MAX_HOLD", "long"),
    ] {
        let (setting, problem) = refusal(stack(&[(variable, value)]));
        assert_eq!(setting, format!("environment variable {variable}"), "{value}");
        assert!(problem.contains("expected"), "says what to write: {problem}");
    }
    let lower = [("MAX_OVERLAP", "1h"), ("ROTATION_OVERLAP", "2h")];
    assert_eq!(refusal(stack(&lower)).0, "environment variable ROTATION_OVERLAP");
}

#[test]
fn expired_hold_of_the_stack_lets_the_function_start() {
    assert_eq!(policy(&[("ROTATION_HOLD", "2020-01-01")], &[]).unwrap().hold_until, None);
}

#[test]
fn only_names_with_the_stacks_prefix_are_rotated() {
    let prefixed = stack(&[("SECRET_NAME_PREFIX", "shop/")]).unwrap();
    assert_eq!(prefixed.check_name("shop/admin-token"), Ok(()));
    for outside in ["shop", "shopping/admin-token", "Shop/admin-token", "/shop/admin-token", ""] {
        let refused = RotationError::NameNotAllowed { name: outside.to_owned(), prefix: "shop/".to_owned() };
        assert_eq!(prefixed.check_name(outside), Err(refused));
    }
    for open in [stack(&[]).unwrap(), stack(&[("SECRET_NAME_PREFIX", "")]).unwrap()] {
        assert_eq!(open.check_name("anything"), Ok(()));
    }
}

#[test]
fn time_beyond_rfc_3339_is_written_as_the_nearest_possible() {
    let last = parse_timestamp("9999-12-31T23:59:59Z").unwrap();
    for time in [last, last + HOUR, last + 400 * 365 * DAY] {
        assert_eq!(format_timestamp(time), "9999-12-31T23:59:59Z");
    }
    assert_eq!(format_timestamp(SystemTime::UNIX_EPOCH - HOUR), "1970-01-01T00:00:00Z");
}
