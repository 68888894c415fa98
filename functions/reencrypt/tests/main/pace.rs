//! How many rows a statement takes, and when the next one begins.

use std::time::Duration;

use reencrypt::pace::Throttle;
use reencrypt::settings::Pace;
use rotation::deadline::Deadline;
use tokio::time::Instant;

fn pace() -> Pace {
    Pace {
        batch_rows: 5000,
        batch_time: Duration::from_millis(200),
        rows_per_second: None,
        lock_timeout: Duration::from_millis(200),
        statement_timeout: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn quick_batches_grow_and_slow_ones_shrink() {
    let throttle = Throttle::for_writing(pace());
    for _ in 0..10 {
        throttle.took(throttle.rows(), Duration::from_millis(10));
    }
    assert_eq!(throttle.rows(), 5000);
    throttle.took(5000, Duration::from_millis(400));
    assert_eq!(throttle.rows(), 2500);
    throttle.took(2500, Duration::from_millis(150));
    assert_eq!(throttle.rows(), 2500, "neither quick nor slow");
    throttle.took(100, Duration::from_millis(1));
    assert_eq!(throttle.rows(), 2500, "a small batch proves nothing about large ones");
    for _ in 0..10 {
        throttle.took(throttle.rows(), Duration::from_secs(60));
    }
    assert_eq!(throttle.rows(), 1);
    throttle.was_in_the_way();
    assert_eq!(throttle.rows(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_statement_that_waited_for_another_was_not_slow() {
    let throttle = Throttle::for_writing(Pace { batch_rows: 64, ..pace() });
    let (began, time) = (Instant::now(), Duration::from_millis(150));
    for _ in 0..3 {
        // All were sent at once.
        tokio::time::advance(time).await;
        throttle.ended(64, began);
    }
    assert_eq!(throttle.rows(), 64);
    // One that failed, or was done otherwise, was waited for as well.
    tokio::time::advance(Duration::from_secs(1)).await;
    throttle.freed();
    tokio::time::advance(time).await;
    throttle.ended(64, began);
    assert_eq!(throttle.rows(), 64);
    tokio::time::advance(Duration::from_millis(400)).await;
    throttle.ended(64, began);
    assert_eq!(throttle.rows(), 32, "it was slow itself");
}

#[tokio::test]
async fn large_rows_make_batches_small() {
    let (writing, reading) = (Throttle::for_writing(pace()), Throttle::for_reading(pace()));
    for throttle in [&writing, &reading] {
        throttle.came(64, false);
        throttle.came(3, true);
        assert_eq!(throttle.rows(), 3);
        throttle.came(3, false);
    }
    assert_eq!((writing.rows(), reading.rows()), (3, 6), "the time of an UPDATE decides, where there is one");
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_over_many_batches_and_makes_them_small() {
    let throttle = Throttle::for_writing(Pace { rows_per_second: Some(100), ..pace() });
    let (started, deadline) = (Instant::now(), Deadline::after(Duration::from_secs(3600)));
    let mut written = 0;
    while written < 1000 {
        let rows = throttle.rows();
        assert!(rows <= 25);
        throttle.admit(rows, deadline).await;
        throttle.took(rows, Duration::from_millis(1));
        written += rows;
    }
    let taken = started.elapsed();
    assert!((Duration::from_millis(9500)..Duration::from_millis(10_100)).contains(&taken), "{taken:?}");
}
