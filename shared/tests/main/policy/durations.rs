//! Overlaps and holds, and the bounds that the stack sets.

use super::*;

#[test]
fn overlap_goes_from_nothing_to_thirty_days() {
    let taken = ["0s", "1s", "90m", "24h", "30d", "720h", "29d 23h 59m 60s"];
    let refused = ["30d 1ns", "30d 1s", "31d", "1month", "-1s", "", "soon", "24", "1 hour and a bit"];
    bounds("rotation:overlap", &[], &taken, &refused, "expected a duration such as 24h, at most 30days (MAX_OVERLAP)");
    assert_eq!(policy(&[], &[("rotation:overlap", "30d")]).unwrap().overlap, MAX_OVERLAP);
    assert_eq!(policy(&[], &[("rotation:overlap", "0s")]).unwrap().overlap, Duration::ZERO);
}

#[test]
fn the_stack_lowers_the_longest_overlap_and_the_default_follows() {
    let stack = [("MAX_OVERLAP", "2h")];
    let expected = "expected a duration such as 24h, at most 2h (MAX_OVERLAP)";
    bounds("rotation:overlap", &stack, &["0s", "119m", "2h"], &["2h 1ns", "3h", "24h"], expected);
    assert_eq!(policy(&stack, &[]).unwrap().overlap, 2 * HOUR, "a default that is not allowed is not in force");
    assert_eq!(policy(&[("MAX_OVERLAP", "48h")], &[]).unwrap().overlap, DAY);
    assert_eq!(policy(&[("MAX_OVERLAP", "0s")], &[]).unwrap().overlap, Duration::ZERO);
}

#[test]
fn the_stack_cannot_raise_the_longest_overlap() {
    assert!(policy(&[("MAX_OVERLAP", "30d")], &[("rotation:overlap", "30d")]).is_ok());
    for raised in ["30d 1s", "31d", "1y"] {
        let (setting, problem) = refusal(stack(&[("MAX_OVERLAP", raised)]));
        assert_eq!((setting.as_str(), problem.as_str()), ("environment variable MAX_OVERLAP", "expected at most 30d"));
    }
}

#[test]
fn a_hold_ends_at_most_as_far_away_as_the_stack_allows() {
    let at = |away: Duration| format_timestamp(now() + away);
    let second = Duration::from_secs(1);
    for (variables, most) in [(vec![], DEFAULT_MAX_HOLD), (vec![("MAX_HOLD", "10d")], 10 * DAY)] {
        let last = policy(&variables, &[("rotation:hold", &at(most))]).unwrap();
        assert_eq!(last.hold_until, Some(now() + most));
        let (setting, problem) = refusal(policy(&variables, &[("rotation:hold", &at(most + second))]));
        assert_eq!(setting, "tag rotation:hold");
        assert!(problem.contains("MAX_HOLD") && problem.contains(&at(most)), "names the bound: {problem}");
        let late = at(most + second);
        let variables = [&variables[..], &[("ROTATION_HOLD", late.as_str())]].concat();
        assert_eq!(refusal(policy(&variables, &[])).0, "environment variable ROTATION_HOLD");
    }
}

#[test]
fn a_hold_that_has_ended_is_no_hold() {
    let at = |time: SystemTime| policy(&[], &[("rotation:hold", &format_timestamp(time))]).unwrap().hold_until;
    assert_eq!(at(now() - Duration::from_secs(1)), None);
    assert_eq!(at(now()), None, "it ends at that moment");
    assert_eq!(at(now() + Duration::from_secs(1)), Some(now() + Duration::from_secs(1)));
    assert_eq!(policy(&[], &[("rotation:hold", "1999-12-31")]).unwrap().hold_until, None);
}

#[test]
fn a_hold_until_a_day_ends_with_the_first_moment_of_that_day() {
    let hold = |date| policy(&[], &[("rotation:hold", date)]).unwrap().hold_until;
    assert_eq!(hold("2026-11-02"), parse_timestamp("2026-11-02T00:00:00Z"));
    assert_eq!(hold("2026-11-01"), None, "it is noon of that day");
}

#[test]
fn a_hold_is_a_date() {
    let refused =
        ["soon", "2026-13-01", "2026-11-31", "24.12.2026", "2026-12-24 18:00", "1d", "2026", " 2026-12-24", ""];
    let taken = ["2026-12-24", "2026-12-24T18:00:00Z", "2026-12-24T18:00:00.5Z"];
    bounds("rotation:hold", &[], &taken, &refused, "expected a date such as 2026-12-24 or 2026-12-24T18:00:00Z");
}

#[test]
fn no_length_of_a_hold_makes_the_policy_panic() {
    // The longest durations that can be written, past what a time can hold.
    for most in ["3650d", "9000y", "584000000000y"] {
        let Ok(stack) = stack(&[("MAX_HOLD", most)]) else { continue };
        let hold = tags(&[("rotation:hold", "never")]);
        assert_eq!(stack.for_secret(&hold, now()).unwrap_err().name(), "InvalidPolicy", "{most}");
        assert!(stack.for_secret(&tags(&[]), now()).is_ok(), "{most}");
    }
    assert!(stack(&[("MAX_HOLD", "3650d")]).is_ok());
    assert_eq!(refusal(stack(&[("MAX_HOLD", "3650d 1s")])).0, "environment variable MAX_HOLD");
}
