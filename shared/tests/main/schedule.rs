//! How soon a schedule may rotate again.

use std::time::Duration;

use rotation::schedule::RotationRules;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn rules(expression: &str, window: Option<&str>) -> RotationRules {
    RotationRules { days: None, expression: Some(expression.to_owned()), window: window.map(str::to_owned) }
}

/// From the start of one window to the start of the next; the window is an hour, which is taken off.
#[track_caller]
fn apart(expression: &str, expected: Option<Duration>) {
    let shortest = rules(expression, Some("1h")).shortest_period();
    assert_eq!(shortest.map(|shortest| shortest + HOUR), expected, "{expression}");
}

#[test]
fn a_schedule_says_how_soon_it_may_rotate_again() {
    for (expression, expected) in [
        ("rate(4 hours)", 4 * HOUR),
        ("rate(1 day)", DAY),
        ("rate(999 days)", 999 * DAY),
        ("cron(0 0/4 * * ? *)", 4 * HOUR),
        ("cron(0 8,20 ? * MON-FRI *)", 12 * HOUR),
        ("cron(0 6,8,20 ? * MON *)", 2 * HOUR),
        ("cron(0 23,3 * * ? *)", 4 * HOUR),
        ("cron(0 8 * * ? *)", DAY),
        ("cron(0 8 ? * MON *)", 7 * DAY),
        ("cron(0 8 ? * 2,6 *)", 3 * DAY),
        ("cron(0 8 1 * ? *)", 28 * DAY),
        ("cron(0 8 L * ? *)", 28 * DAY),
        ("cron(0 8 1,L * ? *)", DAY),
        ("cron(0 8 1/15 * ? *)", DAY),
        ("cron(0 8 1 1/3 ? *)", 90 * DAY),
        ("cron(0 8 1 JAN,MAR ? *)", 59 * DAY),
        ("cron(0 8 ? * TUE#2 *)", 28 * DAY),
        ("cron(0 8 ? 2/3 TUE#2 *)", 84 * DAY),
        ("cron(0 8 ? * FRIL *)", 28 * DAY),
        ("cron(0 8 ? * L *)", 7 * DAY),
        ("cron(0 8 29 2 ? *)", 1461 * DAY),
    ] {
        apart(expression, Some(expected));
    }
    for unknown in
        ["", "rate()", "rate(x days)", "rate(3 weeks)", "rate(3 days", "cron(0 8 1 * ?)", "cron(0 8 31 2 ? *)", "at(x)"]
    {
        apart(unknown, None);
    }
}

#[test]
fn the_rotation_window_is_taken_off() {
    for (expression, window, expected) in [
        ("rate(4 hours)", None, 3 * HOUR),
        ("rate(4 hours)", Some("4h"), Duration::ZERO),
        ("rate(2 days)", None, DAY),
        ("rate(2 days)", Some("3h"), 45 * HOUR),
        // To the end of the day.
        ("cron(0 8 * * ? *)", None, 8 * HOUR),
        ("cron(0 8,16 * * ? *)", None, 7 * HOUR),
    ] {
        assert_eq!(rules(expression, window).shortest_period(), Some(expected), "{expression} {window:?}");
    }
    let days = |days| RotationRules { days: Some(days), ..RotationRules::default() };
    assert_eq!(days(90).shortest_period(), Some(89 * DAY));
    assert_eq!((days(-1).shortest_period(), RotationRules::default().shortest_period()), (None, None));
}
