//! What it costs to re-encrypt rows, against a single UPDATE that rewrites them with constant bytes, which nothing that writes them
//! can beat, and against the Python script that people write for it.
//!
//! The server is the one of the tests, with its durability as PostgreSQL sets it. Every job begins with a new table. The jobs take
//! turns, so that the ratios hold where the times do not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use end_to_end::postgres::{PASSWORD, Postgres, SUPERUSER};
use end_to_end::{Failure, build_with};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::keyring::{Ciphers, Key, KeyFormat, KeyMaterial};
use rotation::secret::SecretText;
use sandbox::lambda_host::FunctionConfig;
use sandbox::{Sandbox, Settings};
use serde_json::{Value, json};
use tokio_postgres::Client;

const FUNCTION: &str = "reencrypt";
const KEY_SECRET: &str = "shop/production/encryption-key";
const DATABASE_SECRET: &str = "shop/production/database";
const ROUNDS: usize = 3;
/// The text of each token. Its token has 204 characters.
const TEXT_BYTES: usize = 95;
/// So many different tokens are repeated over the table.
const TOKENS: usize = 1000;
/// The longest that Lambda gives an invocation.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);
const PSYCOPG: &str = "psycopg[binary]==3.3.9";

/// What a straightforward program does: batches, a compare-and-swap for each row, one commit for each batch.
const SCRIPT: &str = r#"
import os, resource, sys
import psycopg
from cryptography.fernet import Fernet, MultiFernet

keyring = MultiFernet([Fernet(key) for key in os.environ["KEYS"].split(",")])
with psycopg.connect(os.environ["DATABASE"]) as connection, connection.cursor() as cursor:
    last, rewritten = 0, 0
    while True:
        cursor.execute("SELECT id, token FROM rows WHERE id > %s ORDER BY id LIMIT 1000", (last,))
        rows = cursor.fetchall()
        if not rows:
            break
        changes = [(keyring.rotate(token).decode(), id, token) for id, token in rows]
        cursor.executemany("UPDATE rows SET token = %s WHERE id = %s AND token = %s", changes)
        connection.commit()
        last, rewritten = rows[-1][0], rewritten + len(rows)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(rewritten, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"#;

/// A job that was done.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    client: f64,
    server: f64,
    memory: f64,
}

struct Bench {
    server: Postgres,
    sql: Client,
    sandbox: Sandbox,
    executable: PathBuf,
    python: PathBuf,
    keys: String,
    functions: usize,
}

/// Compares with so many rows, and measures how time and memory grow up to the most.
pub(crate) async fn measure(rows: u64, most: u64) -> Result<(), Failure> {
    let mut bench = Bench::start().await?;
    compare(&mut bench, rows).await?;
    grow(&mut bench, most).await
}

/// The jobs in the order of the table. The first one is the least that a rewriting of all rows costs.
const JOBS: [&str; 6] = [
    "one UPDATE with constant bytes",
    "reencrypt, one slice",
    "reencrypt, two slices at once",
    "reencrypt, one slice, with its connections on one core",
    "reencrypt, two slices at once, on two cores",
    "Python: MultiFernet, psycopg, batches of 1000",
];

async fn compare(bench: &mut Bench, rows: u64) -> Result<(), Failure> {
    let mut costs: [Vec<Cost>; 6] = Default::default();
    let all = format!("0-{}", std::thread::available_parallelism()?.get() - 1);
    for _ in 0..ROUNDS {
        bench.table(rows).await?;
        costs[0].push(bench.update().await?);
        for (job, cores, slices) in [(1, &*all, 1), (2, &all, 2), (3, "0", 1), (4, "0,1", 2)] {
            bench.run_on(cores)?;
            bench.table(rows).await?;
            costs[job].push(bench.slices(rows, slices).await?);
        }
        bench.run_on(&all)?;
    }
    bench.table(rows).await?;
    costs[5].push(bench.script(rows).await?);

    println!(
        "{rows} rows with Fernet tokens of 204 characters, release build, medians of {ROUNDS} runs (of the script: one)\n"
    );
    println!("| | seconds | rows/s | against the UPDATE | its processor time, s | the server's, s | memory, MB |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let costs = costs.map(|costs| median(&costs));
    for (what, Cost { seconds, client, server, memory }) in JOBS.iter().zip(costs) {
        let (rate, ratio) = (rows as f64 / seconds, costs[0].seconds / seconds);
        println!("| {what} | {seconds:.2} | {rate:.0} | {ratio:.2} | {client:.2} | {server:.2} | {memory:.1} |");
    }
    let [_, slice, two, core, cores, script] = costs.map(|cost| cost.seconds);
    println!(
        "\none slice is {:.1} times as fast as the script; two slices are {:.2} times as fast as one, and {:.2} times where each has a core\n",
        script / slice,
        slice / two,
        core / cores
    );
    Ok(())
}

async fn grow(bench: &mut Bench, most: u64) -> Result<(), Failure> {
    println!("| rows | slice: seconds | memory, MB | census: seconds | rows/s | statements | memory, MB |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let sizes = std::iter::successors(Some(10_000), |size| Some(size * 10)).take_while(|size| *size < most);
    for size in sizes.chain([most]) {
        bench.table(size).await?;
        let slice = bench.slices(size, 1).await?;
        let before = bench.statements().await?;
        let census = bench.census(size).await?;
        let statements = bench.statements().await? - before;
        println!(
            "| {size} | {:.2} | {:.1} | {:.2} | {:.0} | {statements} | {:.1} |",
            slice.seconds,
            slice.memory,
            census.seconds,
            size as f64 / census.seconds,
            census.memory
        );
    }
    Ok(())
}

impl Bench {
    async fn start() -> Result<Self, Failure> {
        let executable = build_with(FUNCTION, &["--release", "--package", FUNCTION])?;
        let server = Postgres::start(&["shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=1h"])?;
        let sql = server.connect().await?;
        let sandbox = Sandbox::start(Settings::default()).await?;
        let keys = [2, 1].map(|seed| KeyFormat::Fernet.wire().first(&key(seed)).expose().to_owned()).join(",");
        let secrets = end_to_end::client(&sandbox.endpoint())?;
        let user = json!({ "username": SUPERUSER, "password": PASSWORD }).to_string();
        secrets.create_secret().name(KEY_SECRET).secret_string(&keys).send().await?;
        secrets.create_secret().name(DATABASE_SECRET).secret_string(user).send().await?;
        let bench = Self { server, sql, sandbox, executable, python: python()?, keys, functions: 0 };
        bench.tokens().await?;
        Ok(bench)
    }

    /// Tokens under the old key, in a table of their own.
    async fn tokens(&self) -> Result<(), Failure> {
        let ring = KeyFormat::Fernet.wire();
        let document = ring.document(SecretText::new(self.keys.clone()), None)?;
        let ciphers: Ciphers = ring.ciphers(&document)?;
        let old = ciphers.get(key(1).id()).ok_or("the ring has no old key")?;
        let mut rng = StdRng::seed_from_u64(1);
        let now = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let tokens = (0..TOKENS)
            .map(|_| old.seal(&[b'x'; TEXT_BYTES], now, &mut rng).and_then(|token| String::from_utf8(token).ok()));
        let tokens: Option<Vec<String>> = tokens.collect();
        let tokens = tokens.ok_or("nothing was encrypted")?;
        self.sql.batch_execute("CREATE TABLE tokens (number int, token text)").await?;
        let insert =
            "INSERT INTO tokens SELECT ordinality, token FROM unnest($1::text[]) WITH ORDINALITY t(token, ordinality)";
        self.sql.execute(insert, &[&tokens]).await?;
        Ok(())
    }

    /// A new table with so many rows under the old key.
    async fn table(&self, rows: u64) -> Result<(), Failure> {
        let statements = format!(
            "DROP TABLE IF EXISTS rows; CREATE TABLE rows (id bigint PRIMARY KEY, token text); \
             INSERT INTO rows SELECT n, token FROM generate_series(1, {rows}) n JOIN tokens ON number = n % {TOKENS} + 1 ORDER BY n"
        );
        self.sql.batch_execute(&statements).await?;
        for statement in ["VACUUM ANALYZE rows", "CHECKPOINT"] {
            self.sql.batch_execute(statement).await?;
        }
        Ok(())
    }

    /// The least that a rewriting of all rows costs.
    async fn update(&self) -> Result<Cost, Failure> {
        let before = self.processor_time()?;
        // As the others do: a connection that has filled the table has its pages at hand.
        let began = Instant::now();
        let sql = self.server.connect().await?;
        sql.batch_execute("UPDATE rows SET token = repeat('x', 204)").await?;
        let seconds = began.elapsed().as_secs_f64();
        drop(sql);
        self.disconnected().await?;
        Ok(Cost { seconds, client: 0.0, server: self.processor_time()? - before, memory: 0.0 })
    }

    async fn slices(&mut self, rows: u64, slices: u64) -> Result<Cost, Failure> {
        let plan = self.invoke(&self.function()?, &json!({ "action": "plan", "slices": slices })).await?.0;
        let ranges = plan["ranges"].as_array().ok_or("no ranges")?.clone();
        let mut functions = vec![];
        for _ in &ranges {
            self.functions += 1;
            functions.push(self.function()?);
        }
        let before = self.processor_time()?;
        let began = Instant::now();
        let bench = &*self;
        let jobs = functions.iter().zip(&ranges).map(|(function, range)| {
            let request = json!({ "action": "slice", "range": range });
            async move { bench.invoke(function, &request).await }
        });
        let done = futures_util::future::try_join_all(jobs).await?;
        let seconds = began.elapsed().as_secs_f64();
        let rewrapped: u64 = done.iter().filter_map(|(answer, ..)| answer["rewrapped"].as_u64()).sum();
        if rewrapped != rows {
            return Err(format!("{rewrapped} of {rows} rows were rewritten").into());
        }
        self.disconnected().await?;
        Ok(Cost {
            seconds,
            client: done.iter().map(|(_, client, _)| client).sum(),
            server: self.processor_time()? - before,
            memory: done.iter().map(|(.., memory)| *memory).fold(0.0, f64::max),
        })
    }

    async fn census(&mut self, rows: u64) -> Result<Cost, Failure> {
        self.functions += 1;
        let function = self.function()?;
        let before = self.processor_time()?;
        let began = Instant::now();
        let (answer, client, memory) = self.invoke(&function, &json!({ "action": "census" })).await?;
        let seconds = began.elapsed().as_secs_f64();
        if answer["columns"][0]["keys"][key(2).id().to_string()] != rows {
            return Err(format!("the census counted otherwise: {answer}").into());
        }
        self.disconnected().await?;
        Ok(Cost { seconds, client, server: self.processor_time()? - before, memory })
    }

    async fn script(&self, rows: u64) -> Result<Cost, Failure> {
        let database =
            format!("host=127.0.0.1 port={} user={SUPERUSER} password={PASSWORD} dbname=postgres", self.server.port());
        let before = self.processor_time()?;
        let began = Instant::now();
        let mut command = Command::new(&self.python);
        command.args(["-c", SCRIPT]).env_clear().env("KEYS", &self.keys).env("DATABASE", database);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let seconds = began.elapsed().as_secs_f64();
        let text = String::from_utf8(output.stdout)?;
        let [rewritten, client, memory] = text.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        };
        if rewritten.parse::<u64>()? != rows {
            return Err(format!("the script rewrote {rewritten} rows").into());
        }
        self.disconnected().await?;
        let memory = memory.parse::<f64>()? / 1024.0;
        Ok(Cost { seconds, client: client.parse()?, server: self.processor_time()? - before, memory })
    }

    /// The function under a new name, so that its process is new.
    fn function(&self) -> Result<String, Failure> {
        let name = format!("{FUNCTION}-{}", self.functions);
        let columns = json!([{ "table": "rows", "column": "token", "format": "fernet" }]).to_string();
        let environment = [
            ("AWS_ENDPOINT_URL", self.sandbox.endpoint()),
            ("REENCRYPT_COLUMNS", columns),
            ("REENCRYPT_KEY_SECRET", KEY_SECRET.to_owned()),
            ("ROTATION_KEY_FORMAT", "fernet".to_owned()),
            ("DATABASE_SECRET", DATABASE_SECRET.to_owned()),
            ("DATABASE_HOST", "127.0.0.1".to_owned()),
            ("DATABASE_PORT", self.server.port().to_string()),
            ("DATABASE_NAME", "postgres".to_owned()),
        ];
        self.sandbox.host().register(FunctionConfig {
            name: name.clone(),
            executable: self.executable.clone(),
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            timeout: TIMEOUT,
            memory_mb: 256,
        })?;
        Ok(name)
    }

    /// Lets the server's new connections and the functions run on these cores: processes inherit it.
    fn run_on(&self, cores: &str) -> Result<(), Failure> {
        for process in [self.server.process()?, std::process::id()] {
            let mut taskset = Command::new("taskset");
            let done = taskset.args(["--all-tasks", "--cpu-list", "--pid", cores, &process.to_string()]).output()?;
            if !done.status.success() {
                return Err(String::from_utf8_lossy(&done.stderr).into_owned().into());
            }
        }
        Ok(())
    }

    /// The answer, the processor time in seconds and the memory in MB.
    async fn invoke(&self, function: &str, request: &Value) -> Result<(Value, f64, f64), Failure> {
        let invocation = self.sandbox.host().invoke(function, request.to_string().into()).await?;
        let answer: Value = serde_json::from_slice(&invocation.payload)?;
        if invocation.function_error.is_some() || !answer["next"].is_null() {
            return Err(format!("{request}: {answer}").into());
        }
        let usage = invocation.usage.ok_or("this machine does not tell what a process uses")?;
        Ok((answer, usage.cpu_time.as_secs_f64(), usage.max_memory_kb as f64 / 1024.0))
    }

    /// Waits until only this program is connected: what a process has used is known when it has ended.
    async fn disconnected(&self) -> Result<(), Failure> {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        while self.sql.query_one(others, &[]).await?.get::<_, i64>(0) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Each statement of the function is a transaction of its own.
    async fn statements(&self) -> Result<i64, Failure> {
        self.disconnected().await?;
        let statements = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'";
        Ok(self.sql.query_one(statements, &[]).await?.get(0))
    }

    /// What the server's processes have used so far, in seconds: those that run and those that have ended.
    fn processor_time(&self) -> Result<f64, Failure> {
        let server = self.server.process()?;
        let mut ticks = 0;
        for entry in fs::read_dir("/proc")? {
            // A process may end between two looks; then its parent has its time.
            let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
            let Some((id, rest)) = stat.split_once(' ') else { continue };
            let fields: Vec<&str> = rest.rsplit_once(") ").map_or(rest, |(_, rest)| rest).split(' ').collect();
            // proc_pid_stat(5): the parent is field 4, the times are 14 to 17; these begin at field 3.
            let time = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            if id.parse() == Ok(server) {
                ticks += (14..=17).map(time).sum::<u64>();
            } else if fields.get(1).and_then(|parent| parent.parse().ok()) == Some(server) {
                ticks += time(14) + time(15);
            }
        }
        // Linux tells them in hundredths of a second to every program.
        Ok(ticks as f64 / 100.0)
    }
}

fn key(seed: u8) -> Key {
    // 32 bytes are a key; nothing else can be wrong with them.
    let material = KeyMaterial::new(&[seed; 32]);
    material.map_or_else(|| unreachable!("32 bytes are a key"), Key::new)
}

/// The Python of the tools, with the PostgreSQL client that only the script needs.
fn python() -> Result<PathBuf, Failure> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).ok_or("no workspace")?;
    let python = workspace.join("target/tools/bin/python");
    let has = |modules: &str| Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if !has("cryptography").map_err(|_| "`cargo verify` installs Python into target/tools")?.status.success() {
        return Err("`cargo verify` installs cryptography into target/tools".into());
    }
    if !has("psycopg")?.status.success() {
        let mut install = Command::new(&python);
        let installed =
            install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PSYCOPG]).status()?;
        if !installed.success() {
            return Err(format!("{PSYCOPG} was not installed").into());
        }
    }
    Ok(python)
}

fn median(costs: &[Cost]) -> Cost {
    let of = |figure: fn(&Cost) -> f64| {
        let mut figures: Vec<f64> = costs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Cost {
        seconds: of(|cost| cost.seconds),
        client: of(|cost| cost.client),
        server: of(|cost| cost.server),
        memory: of(|cost| cost.memory),
    }
}
