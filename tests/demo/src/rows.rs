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
    let viewer = Viewer::new(&scene.sandbox, out.clone()).only(KEY_SECRET);

    out.title(&format!("What {KEY_SECRET} has encrypted: rows in PostgreSQL"));
    let port = server.port();
    out.detail(&format!(
        "  PostgreSQL on 127.0.0.1:{port}, in a temporary folder; table connections (id, provider, refresh_token)"
    ));
    let load = scene.more_records(FIRST, CREATED, 1);
    let mut act = Act { out, scene: &scene, viewer, load };
    act.fill().await?;
    let promoted = act.rotate_twice().await?;
    let first = act.rewrap(&promoted).await?;
    let second = act.count_again(&promoted).await?;
    act.retire(&promoted, json!([first, second])).await?;
    act.result(&promoted, started).await
}

/// The secret on its stage, and the load of rows.
struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    viewer: Viewer,
    load: RecordLoad,
}

impl Act<'_> {
    async fn fill(&self) -> Result<(), Failure> {
        let rows = 4 * FIRST;
        until_written(&self.load, rows.into()).await?;
        self.out.line(&format!(
            "  {rows} connections, created and read by two instances; from now on {CREATED} more per second, and as many get new tokens"
        ));
        show(self.out, self.scene).await?;
        Ok(())
    }

    async fn rotate_twice(&mut self) -> Result<Keyring, Failure> {
        let Self { out, scene, .. } = *self;
        out.title("The key is rotated twice: the next one is staged, then encrypts");
        let rotations = async {
            for _ in 0..2 {
                succeeded(&self.viewer.during(scene.rotate()).await?)?;
            }
            Ok(())
        };
        all_readable(out, scene, rotations).await?;
        show(out, scene).await
    }

    /// The first census of zero.
    async fn rewrap(&self, ring: &Keyring) -> Result<Value, Failure> {
        let Self { out, scene, .. } = *self;
        out.title(&format!("The rows follow: {REENCRYPT}, {SLICES} slices at once"));
        let (done, census) = all_readable(out, scene, progress(out, scene, ring)).await?;
        let Rewrapped { rewrapped, overtaken, invocations } = done;
        out.line(&format!(
            "  {rewrapped} rows encrypted again, by {invocations} invocations; {overtaken} times the application had written first, and its value stayed"
        ));
        none_left(out, &census)?;
        Ok(census)
    }

    /// The second census of zero.
    async fn count_again(&self, ring: &Keyring) -> Result<Value, Failure> {
        let Self { out, scene, .. } = *self;
        out.title(
            "A day later: whoever kept the ring from before has read the new one, and the rows are counted again",
        );
        scene.sandbox.advance(DAY + HOUR).await?;
        let counting = async {
            self.go_on().await?;
            count(out, scene, ring, Instant::now()).await
        };
        let census = all_readable(out, scene, counting).await?;
        none_left(out, &census)?;
        Ok(census)
    }

    async fn retire(&mut self, ring: &Keyring, censuses: Value) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        let old = ring.secondary().first().ok_or("no key was replaced")?.id();
        out.title("Two censuses of zero: the old key is retired");
        let mut request = json!({ "action": "retire", "secret_id": KEY_SECRET, "reason": "the demo" });
        out.detail(&format!("  operate {request}, with both censuses"));
        request["censuses"] = censuses;
        let retiring = async {
            let answer = self.viewer.during(scene.operate(&request)).await?;
            answer.map_err(|error| format!("retire: {error}").into())
        };
        let retired = all_readable(out, scene, retiring).await?;
        let is_retired = retired["retired"] == json!([old]) && retired["verified"] == true;
        check(is_retired, "the old key is retired, and the ring proven")?;
        let after = show(out, scene).await?;
        check(after.get(old).is_none(), "the old key is not in the ring any more")?;
        out.line(&format!("  {old} is kept in {ARCHIVE}, for backups of the database"));
        self.go_on().await
    }

    async fn result(self, ring: &Keyring, started: Instant) -> Result<(), Failure> {
        let Self { out, scene, load, .. } = self;
        out.title("Result for the rows");
        let report = load.finish(&scene.addresses()).await;
        fine(&report)?;
        let logs = [scene.function(), OPERATE, REENCRYPT].map(|function| scene.sandbox.host().logs(function)).concat();
        let shown = [logs.join("\n"), out.text()].join("\n");
        let leaked = ring.keys().any(|(_, key)| shown.contains(&STANDARD.encode(key.material().expose())));
        let hidden = !leaked && !shown.contains(PASSWORD);
        check(hidden, "neither a key nor the database's password is in any log or in this output")?;
        let keys = ring.keys().count();
        out.line(&format!(
            "  searched all logs and this output for {keys} keys and the database's password: none found"
        ));
        out.line(&format!(
            "  {} connections created, {} tokens replaced; at last both instances read of each what was written last: 0 unreadable, 0 lost, in {:.1} s",
            report.written,
            report.refreshed,
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Waits until the load has gone on for a second.
    async fn go_on(&self) -> Result<(), Failure> {
        until_written(&self.load, self.load.report().written + u64::from(CREATED)).await
    }
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
