//! Keys that rows may need, and what the refusal of their retirement says.

use super::retire::{GAP, census, request, ring, with_old_key};
use super::*;

/// A keyring with an old key, and two censuses of zero that are far enough apart.
struct Counted {
    scene: Scene,
    old: String,
    first: Value,
    second: Value,
}

impl Counted {
    async fn start() -> Self {
        let scene = with_old_key(KeyFormat::Raw).await;
        let old = ring(&scene).await.secondary()[0].id().to_string();
        let first = census(&scene, KeyFormat::Raw, 0).await;
        scene.sandbox.advance(GAP + Duration::from_secs(1)).await.unwrap();
        let second = census(&scene, KeyFormat::Raw, 0).await;
        Self { scene, old, first, second }
    }

    /// Both censuses, and the second one changed.
    fn with_second(&self, change: impl Fn(&mut Value)) -> Vec<Value> {
        let mut second = self.second.clone();
        change(&mut second);
        vec![self.first.clone(), second]
    }

    /// Both censuses, with rows that no key opens.
    fn with_unopened(&self, why: &str, rows: u64) -> Vec<Value> {
        self.with_second(|c| (c["columns"][0][why], c["columns"][0]["rows"]) = (json!(rows), json!(100 + rows)))
    }

    async fn refused(&self, censuses: &[Value]) -> StepError {
        ask(&self.scene, request(&self.scene, censuses)).await.unwrap_err()
    }

    /// Each is refused with this error and these words, and changes nothing.
    async fn each_refused(&self, cases: Vec<(Vec<Value>, &str, &str)>) {
        let before = current(&self.scene).await;
        for (censuses, error_type, says) in cases {
            let error = self.refused(&censuses).await;
            assert_eq!(error.error_type, error_type, "{}", error.message);
            assert!(error.message.contains(says), "{says}: {}", error.message);
            assert_eq!(current(&self.scene).await, before, "{says}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_that_rows_may_need_stays_and_the_refusal_says_why() {
    let counted = Counted::start().await;
    let Counted { scene, first, second, .. } = &counted;
    let again = census(scene, KeyFormat::Raw, 0).await;
    let used = census(scene, KeyFormat::Raw, 3).await;
    let other_column = |c: &mut Value| c["columns"][0]["column"] = json!("refresh_token");
    let more_in_first = {
        let mut first = first.clone();
        let mut other = first["columns"][0].clone();
        other["column"] = json!("refresh_token");
        first["columns"].as_array_mut().unwrap().push(other);
        vec![first, second.clone()]
    };
    counted
        .each_refused(vec![
            (vec![second.clone(), again], "CensusesTooClose", "1455 minutes after"),
            (vec![second.clone(), second.clone()], "CensusesTooClose", "from 20"),
            (vec![first.clone()], "InvalidRequest", "two answers"),
            (vec![first.clone(), json!({ "columns": [] })], "InvalidRequest", "missing field"),
            (vec![first.clone(), used], "KeysStillNeeded", "3 rows are under key"),
            (
                counted.with_second(|c| c["unlisted"] = json!(["audit.log.token"])),
                "KeysStillNeeded",
                "audit.log.token look like ciphertexts",
            ),
            (counted.with_unopened("unknown", 1), "KeysStillNeeded", "connections.token"),
            (counted.with_unopened("damaged", 2), "KeysStillNeeded", "2 are damaged"),
            (
                counted.with_second(other_column),
                "KeysStillNeeded",
                "rows of public.connections.refresh_token, public.connections.token were counted by one of the censuses",
            ),
            (
                counted.with_second(|c| c["columns"][0]["schema"] = json!("archive")),
                "KeysStillNeeded",
                "rows of archive.connections.token, public.connections.token were counted",
            ),
            (more_in_first, "KeysStillNeeded", "rows of public.connections.refresh_token were counted"),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_that_is_not_whole_retires_no_key() {
    let counted = Counted::start().await;
    let columns = |c: &mut Value, change: &dyn Fn(&mut Vec<Value>)| change(c["columns"].as_array_mut().unwrap());
    counted
        .each_refused(vec![
            // Counts that would come to nothing.
            (
                counted.with_second(|c| {
                    (c["columns"][0]["unknown"], c["columns"][0]["damaged"]) = (json!(u64::MAX), json!(1));
                }),
                "CensusOutdated",
                "does not say what became of every row",
            ),
            (
                counted.with_second(|c| columns(c, &|columns| columns.push(columns[0].clone()))),
                "CensusOutdated",
                "has public.connections.token twice",
            ),
            (
                counted.with_second(|c| c["columns"][0]["rows"] = json!(101)),
                "CensusOutdated",
                "does not say what became of every row of public.connections.token",
            ),
            (
                counted.with_second(|c| {
                    c["columns"][0]["keys"].as_object_mut().unwrap().remove(&counted.old);
                }),
                "KeysStillNeeded",
                "were not counted",
            ),
            (counted.with_second(|c| c["next"] = json!({ "action": "census" })), "CensusOutdated", "not complete"),
            (counted.with_second(|c| c["columns"] = json!([])), "CensusOutdated", "not complete"),
            (counted.with_second(|c| c["secret"] = json!("shop/other")), "CensusOutdated", "shop/other"),
            (counted.with_second(|c| c["version"] = json!("another")), "CensusOutdated", "different versions"),
            (counted.with_second(|c| c["ended"] = json!("2999-01-01T00:00:00Z")), "CensusOutdated", "future"),
        ])
        .await;
    // What does not belong there is not repeated: the error is in logs, and in the history of the state machine.
    for (member, misplaced) in
        [("secret", json!(["hunter2"])), ("columns", json!("hunter2")), ("began", json!("hunter2"))]
    {
        let [first, second] = &counted.with_second(|c| c[member] = misplaced.clone())[..] else { unreachable!() };
        let error = counted.refused(&[second.clone(), first.clone()]).await;
        assert_eq!(error.error_type, "InvalidRequest", "{member}");
        assert!(!error.message.contains("hunter2"), "{member}: {}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_changed_since_its_census_loses_no_key() {
    let counted = Counted::start().await;
    let (scene, both) = (&counted.scene, [counted.first.clone(), counted.second.clone()]);
    // A stage that tells when a ring was put back, with a time that nothing can be added to.
    let stage = format!("ROTATION-PUT-BACK-{}", i64::MAX);
    let put_back = || scene.client.update_secret_version_stage().secret_id(scene.secret()).version_stage(&stage);
    let version = current(scene).await.unwrap().0;
    put_back().move_to_version_id(&version).send().await.unwrap();
    let error = counted.refused(&both).await;
    assert_eq!(error.error_type, "CensusOutdated", "{}", error.message);
    put_back().remove_from_version_id(&version).send().await.unwrap();

    let edit = scene.value("AWSCURRENT").await.unwrap().unwrap().replace("postgres", "postgresql");
    scene.client.put_secret_value().secret_id(scene.secret()).secret_string(edit).send().await.unwrap();
    let error = counted.refused(&both).await;
    assert_eq!(error.error_type, "CensusOutdated", "{}", error.message);
    assert!(ring(scene).await.get(counted.old.parse().unwrap()).is_some());

    // Nor is anything retired while a rotation is open.
    let hold = hold_before(scene, sandbox::Step::Set, 2_000);
    begin_until(scene, hold).await;
    assert_eq!(counted.refused(&both).await.error_type, "RotationOpen");
    assert!(end(scene).await.is_success());
    // A token has no old keys.
    let token = with_operator(json_plan()).await;
    rotate(&token).await;
    let censuses = [json!({}), json!({})];
    assert_eq!(ask(&token, request(&token, &censuses)).await.unwrap_err().error_type, "InvalidRequest");
}
