//! A private MariaDB on a unix socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::place::{text, wait_until};

/// A server, ended when it is dropped.
pub struct MariaDb {
    folder: PathBuf,
    process: Option<Child>,
}

/// Returns a command with the folders of a server's programs on its PATH.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

impl MariaDb {
    /// Starts a server whose files lie in `folder`.
    pub fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("tmp")).expect("folder is made");
        let made = command("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(["--skip-name-resolve", "--user=root"])
            .arg(format!("--datadir={}", folder.join("data").display()))
            .env("TMPDIR", folder.join("tmp")) // servers that are made side by side must not meet
            .output()
            .expect("mariadb-install-db is there (scripts/set-up test)");
        assert!(made.status.success(), "{}{}", text(&made.stdout), text(&made.stderr));
        let mut server = Self { folder: folder.to_owned(), process: None };
        server.run();
        server
    }

    /// Starts the server again.
    pub fn run(&mut self) {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let process = command("mariadbd")
            .args(["--no-defaults", "--user=root", "--skip-networking"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"])
            .args(["--innodb-flush-log-at-trx-commit=0", "--performance-schema=OFF"])
            .arg(format!("--datadir={}", at("data")))
            .arg(format!("--socket={}", at("sock")))
            .arg(format!("--pid-file={}", at("pid")))
            .arg(format!("--tmpdir={}", at("tmp")))
            .stdout(Stdio::null())
            .stderr(File::create(at("errors")).expect("log is made"))
            .spawn()
            .expect("mariadbd is there (scripts/set-up test)");
        self.process = Some(process);
        wait_until("MariaDB answers", || {
            let output = command("mariadb-admin")
                .args(["--no-defaults", "-uroot", "--socket"])
                .arg(self.socket())
                .arg("ping")
                .output();
            output.is_ok_and(|output| output.status.success())
        });
    }

    /// Ends the server as a shutdown does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid =
                i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal is sent");
            process.wait().expect("server ends");
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// Runs SQL; returns the rows.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = command("mariadb")
            .args(["--no-defaults", "-uroot", "--batch", "--skip-column-names", "--socket"])
            .arg(self.socket())
            .args(["-e", sql, database])
            .output()
            .expect("mariadb runs");
        assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Makes a database anew from a dump.
    pub fn import(&self, database: &str, dump: &Path) {
        self.sql("", &format!("drop database if exists {database}; create database {database}"));
        let output = command("mariadb")
            .args(["--no-defaults", "-uroot", "--socket"])
            .arg(self.socket())
            .arg(database)
            .stdin(File::open(dump).expect("dump opens"))
            .output()
            .expect("mariadb runs");
        assert!(output.status.success(), "{}: {}", dump.display(), text(&output.stderr));
    }

    /// Returns each base table with its number of rows and its checksum.
    pub fn tables(&self, database: &str) -> Vec<(String, u64, String)> {
        let query = format!(
            "select table_name from information_schema.tables where table_schema='{database}' and table_type='BASE TABLE' order by 1"
        );
        let names = self.sql("", &query);
        let row = |name: &str| {
            let count = self.sql(database, &format!("select count(*) from `{name}`"));
            let sum = self.sql(database, &format!("checksum table `{name}`"));
            (
                name.to_owned(),
                count.trim().parse().expect("a number"),
                sum.trim().rsplit('\t').next().unwrap_or("").to_owned(),
            )
        };
        names.lines().map(row).collect()
    }

    /// Returns the names of the database's routines and triggers.
    pub fn routines(&self, database: &str) -> String {
        let routines = format!(
            "select routine_name from information_schema.routines where routine_schema='{database}' order by 1"
        );
        let triggers = format!(
            "select trigger_name from information_schema.triggers where trigger_schema='{database}' order by 1"
        );
        self.sql("", &routines) + &self.sql("", &triggers)
    }

    /// Returns the arguments of a dump, for a configuration.
    pub fn dump(&self, database: &str) -> String {
        format!(
            "\"mariadb-dump\", \"--no-defaults\", \"-uroot\", \"--socket={}\", \"--single-transaction\", \"--routines\", \"--triggers\", \"--skip-dump-date\", \"{database}\"",
            self.socket().display()
        )
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
