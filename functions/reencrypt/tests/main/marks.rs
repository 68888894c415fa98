//! Keys that part a table which is read in their order.

use reencrypt::marks::Marks;

fn sizes(rows: u64, slices: u64, sent_at: &[u64]) -> Vec<u64> {
    let mut marks = Marks::default();
    for row in 1..=rows {
        marks.pass(&row.to_string());
        if sent_at.contains(&row) {
            marks.thin_out_for(slices, 1);
        }
    }
    let bounds = marks.bounds(slices).into_iter().map(|key| key.parse::<u64>().unwrap()).chain([rows]);
    let mut before = 0;
    bounds.map(|bound| bound - std::mem::replace(&mut before, bound)).collect()
}

#[test]
fn ranges_are_of_about_equal_size() {
    for (rows, slices) in [(1, 1), (1003, 4), (5000, 16), (100_000, 16), (100_000, 1000), (17, 16), (4096, 3)] {
        let sizes = sizes(rows, slices, &[]);
        let about = rows as f64 / slices as f64;
        assert_eq!(sizes.len() as u64, slices, "{rows} {sizes:?}");
        let spread = sizes.iter().all(|size| (*size as f64 - about).abs() <= 1.0 + about / 2.0);
        assert!(spread, "{rows} {slices}: {sizes:?}");
    }
    let sizes = sizes(100_000, 16, &[10_000, 60_000]);
    assert!(sizes.len() == 16 && sizes.iter().all(|size| (5000..7600).contains(size)), "{sizes:?}");
}

#[test]
fn what_is_sent_fits_into_the_state_of_an_execution() {
    let mut marks = Marks::default();
    for row in 0..10_000 {
        marks.pass(&format!("{row:01000}"));
    }
    marks.thin_out_for(1000, 4);
    let sent = serde_json::to_value(&marks).unwrap();
    let bytes: usize = sent["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().len()).sum();
    assert!((10_000..=25_000).contains(&bytes), "{bytes}");
    assert_eq!(marks.bounds(4).len(), 3);
}

#[test]
fn a_table_of_fewer_rows_than_ranges_has_no_empty_range() {
    for rows in 0..20 {
        let sizes = sizes(rows, 16, &[]);
        assert!(rows == 0 || sizes.iter().all(|size| *size > 0), "{rows}: {sizes:?}");
        assert!(sizes.len() as u64 <= rows.max(1), "{rows}: {sizes:?}");
    }
}
