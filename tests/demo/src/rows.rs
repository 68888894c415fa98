//! What is stored follows the key: rows in PostgreSQL are encrypted again while two instances write, read and replace them.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use application::{KeyFormat, RecordLoad, RecordReport};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::connections::{Connections, REENCRYPT, Rewrapped, census, rewrap, rows_by_key, rows_unreadable};
use end_to_end::postgres::{PASSWORD, Postgres};
use end_to_end::{Failure, KEY_FIELD, KEY_SECRET, OPERATE, Plan, Scene};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::keyring::{KeyMaterial, Keyring};
use serde_json::{Value, json};

use crate::keys::{show, succeeded};
use crate::stage::{Output, Viewer};
use crate::{DAY, HOUR, check};

/// Connections that there are before the rotation, by each of the load's four workers.
const FIRST: u32 = 150;
/// Connections that are created in a second from then on.
const CREATED: u32 = 30;
const SLICES: u64 = 4;
const ARCHIVE: &str = "shop/production/key-archive";
/// Slow enough to be watched.
const PACE: [(&str, &str); 2] = [("REENCRYPT_ROWS_PER_SECOND", "70"), ("REENCRYPT_BATCH_ROWS", "20")];
/// How often the rows are counted while they are worked on.
const COUNTED: Duration = Duration::from_millis(400);

pub(crate) async fn perform(out: &Output, [executable, operate, reencrypt]: [PathBuf; 3]) -> Result<(), Failure> {
    let server = tokio::task::spawn_blocking(|| Postgres::start(&[])).await??;
    let connections = Connections::create(&server).await?;
    let first = KeyMaterial::generate(&mut StdRng::try_from_os_rng()?);
    let value = format!("{{ \"{KEY_FIELD}\": \"{}\", \"port\": 8080 }}", STANDARD.encode(first.expose()));
    let mut plan = Plan { database: Some(connections.application()), ..Plan::key_json(&value, KeyFormat::Raw) };
    plan.environment.push(("KEY_ARCHIVE_SECRET", ARCHIVE.to_owned()));
    let scene = Scene::start(Plan { executable: Some(executable), ..plan }).await?.with_operator_at(operate, &[])?;
    scene.client.create_secret().name(ARCHIVE).send().await?;
    connections.register(&scene, reencrypt, KeyFormat::Raw, &PACE).await?;
    let started = Instant::now();
    let mut viewer = Viewer::new(&scene.sandbox, out.clone()).only(KEY_SECRET);

    out.title(&format!("What {KEY_SECRET} has encrypted: rows in PostgreSQL"));
    out.detail(&format!(
        "  PostgreSQL on 127.0.0.1:{}, in a temporary folder; table connections (id, provider, refresh_token)",
        server.port()
    ));
    let load = scene.more_records(FIRST, CREATED, 1);
    until_written(&load, u64::from(4 * FIRST)).await?;
    out.line(&format!(
        "  {} connections, created and read by two instances; from now on {CREATED} more per second, and as many get new tokens",
        4 * FIRST
    ));
    show(out, &scene).await?;

    out.title("The key is rotated twice: the next one is staged, then encrypts");
    let rotations = async {
        for _ in 0..2 {
            succeeded(&viewer.during(scene.rotate()).await?)?;
        }
        Ok(())
    };
    all_readable(out, &scene, rotations).await?;
    let promoted = show(out, &scene).await?;
    let old = promoted.secondary().first().ok_or("no key was replaced")?.id();

    out.title(&format!("The rows follow: {REENCRYPT}, {SLICES} slices at once"));
    let (done, first) = all_readable(out, &scene, progress(out, &scene, &promoted)).await?;
    let Rewrapped { rewrapped, overtaken, invocations } = done;
    out.line(&format!(
        "  {rewrapped} rows encrypted again, by {invocations} invocations; {overtaken} times the application had written first, and its value stayed"
    ));
    none_left(out, &first)?;

    out.title("A day later: whoever kept the ring from before has read the new one, and the rows are counted again");
    scene.sandbox.advance(DAY + HOUR).await?;
    let counting = async {
        until_written(&load, load.report().written + u64::from(CREATED)).await?;
        count(out, &scene, &promoted, Instant::now()).await
    };
    let second = all_readable(out, &scene, counting).await?;
    none_left(out, &second)?;

    out.title("Two censuses of zero: the old key is retired");
    let mut request = json!({ "action": "retire", "secret_id": KEY_SECRET, "reason": "the demo" });
    out.detail(&format!("  operate {request}, with both censuses"));
    request["censuses"] = json!([first, second]);
    let retiring = async {
        let answer = viewer.during(scene.operate(&request)).await?;
        answer.map_err(|error| format!("retire: {error}").into())
    };
    let retired = all_readable(out, &scene, retiring).await?;
    check(
        retired["retired"] == json!([old]) && retired["verified"] == true,
        "the old key is retired, and the ring proven",
    )?;
    let after = show(out, &scene).await?;
    check(after.get(old).is_none(), "the old key is not in the ring any more")?;
    out.line(&format!("  {old} is kept in {ARCHIVE}, for backups of the database"));
    until_written(&load, load.report().written + u64::from(CREATED)).await?;

    out.title("Result for the rows");
    let report = load.finish(&scene.addresses()).await;
    fine(&report)?;
    let logs = [scene.function(), OPERATE, REENCRYPT].map(|function| scene.sandbox.host().logs(function)).concat();
    let shown = [logs.join("\n"), out.text()].join("\n");
    let leaked = promoted.keys().any(|(_, key)| shown.contains(&STANDARD.encode(key.material().expose())));
    check(
        !leaked && !shown.contains(PASSWORD),
        "neither a key nor the database's password is in any log or in this output",
    )?;
    out.line(&format!(
        "  searched all logs and this output for {} keys and the database's password: none found",
        promoted.keys().count()
    ));
    out.line(&format!(
        "  {} connections created, {} tokens replaced; at last both instances read of each what was written last: 0 unreadable, 0 lost, in {:.1} s",
        report.written,
        report.refreshed,
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// A census of zero.
fn none_left(out: &Output, census: &Value) -> Result<(), Failure> {
    check(census["onOldKeys"] == 0, "no row is under the key before")?;
    let rows: u64 = rows_by_key(census).values().sum();
    out.line(&format!("  census: {rows} rows, none under the key before"));
    Ok(())
}

async fn until_written(load: &RecordLoad, records: u64) -> Result<(), Failure> {
    while load.report().written < records {
        fine(&load.report())?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Does `work`, while both instances read every row, again and again, and prints how often they did.
async fn all_readable<T>(
    out: &Output,
    scene: &Scene,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = Cell::new(false);
    let reading = async {
        let mut read = 0;
        while !done.get() {
            let report = scene.read_everywhere().await?;
            fine(&report)?;
            read += report.read;
        }
        Ok::<u64, Failure>(read)
    };
    let working = async {
        let result = work.await?;
        done.set(true);
        Ok::<T, Failure>(result)
    };
    let (read, result) = tokio::try_join!(reading, working)?;
    out.detail(&format!("  meanwhile every row was read through each instance: {read} reads, 0 unreadable"));
    Ok(result)
}

fn fine(report: &RecordReport) -> Result<(), Failure> {
    match &report.first_failure {
        Some(failure) => Err(failure.clone().into()),
        None => check(report.unreadable + report.lost + report.failed == 0, "every row is read as it was written last"),
    }
}

/// Has all rows encrypted again, and prints now and then how many are under which key; the last census is of all that was done.
async fn progress(out: &Output, scene: &Scene, ring: &Keyring) -> Result<(Rewrapped, Value), Failure> {
    let began = Instant::now();
    let done = Cell::new(false);
    let counting = async {
        while !done.get() {
            let rows = rows_by_key(&count(out, scene, ring, began).await?);
            let primary = rows.get(&ring.primary().id().to_string()).copied().unwrap_or_default();
            out.progress("rows under the new key", primary, rows.values().sum());
            tokio::time::sleep(COUNTED).await;
        }
        Ok::<(), Failure>(())
    };
    let working = async {
        let rewrapped = rewrap(scene, SLICES).await?;
        done.set(true);
        Ok::<Rewrapped, Failure>(rewrapped)
    };
    let ((), rewrapped) = tokio::try_join!(counting, working)?;
    let last = count(out, scene, ring, began).await?;
    out.end_of_progress();
    Ok((rewrapped, last))
}

/// Counts the rows, and prints how many are under each key that ever encrypted.
async fn count(out: &Output, scene: &Scene, ring: &Keyring, began: Instant) -> Result<Value, Failure> {
    let census = census(scene).await?;
    check(rows_unreadable(&census) == 0, "a key of the ring opens every row")?;
    let rows = rows_by_key(&census);
    let keys = ring.secondary().iter().chain([ring.primary()]);
    let under: Vec<String> = keys
        .map(|key| {
            let id = key.id().to_string();
            format!("{:>5} under {id}", rows.get(&id).copied().unwrap_or_default())
        })
        .collect();
    out.detail(&format!("  {:>4.1} s  rows: {}", began.elapsed().as_secs_f64(), under.join(", ")));
    Ok(census)
}
