//! What the history and the state of one execution hold.

use reencrypt::history::{MOST_RANGES, check_size, check_slices, invocations};
use serde_json::json;

#[test]
fn ranges_that_an_execution_cannot_hold_are_refused() {
    assert_eq!(check_slices(MOST_RANGES, 1), Ok(()));
    assert_eq!(check_slices(16, 31), Ok(()));
    for (slices, columns, most) in [(MOST_RANGES + 1, 1, 500), (16, 32, 15), (100, 64, 7)] {
        let refused = check_slices(slices, columns).map_err(|error| error.to_string());
        let says = format!("ask for at most {most},");
        assert!(refused.as_ref().is_err_and(|refused| refused.contains(&says)), "{slices} of {columns}: {refused:?}");
        assert_eq!(check_slices(most, columns), Ok(()), "what it asks for it takes");
    }
    assert_eq!(check_size(&json!(["k".repeat(1_000)])), Ok(()));
    assert!(check_size(&json!(vec!["k".repeat(2_700); 100])).is_err());
}

#[test]
fn the_fewer_ranges_the_longer_each_is_gone_on_with() {
    assert_eq!([1, 16, 100, MOST_RANGES].map(invocations), [579, 36, 5, 1]);
    assert_eq!(invocations(0), invocations(1), "tables without rows");
}
