//! A real Dovecot serves mail that lies in a mount, and mail that was copied out of one.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::can_mount;
use crate::place::{Place, text, wait_until};

/// User and group that the mail belongs to.
const OWNER: &str = "nobody:nogroup";

/// A Dovecot of its own: IMAP on loopback, every user with password "secret".
struct Dovecot {
    child: Child,
    port: u16,
    log: std::path::PathBuf,
}

impl Dovecot {
    /// Starts one in `folder`, with mail at `location`.
    fn start(folder: &Path, location: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = free.local_addr().expect("it has an address").port();
        drop(free);
        fs::create_dir_all(folder.join("run")).expect("folder is made");
        let at = folder.display();
        let config = format!(
            "base_dir = {at}/run\nstate_dir = {at}/run\nlog_path = {at}/dovecot.log\nprotocols = imap\n\
             listen = 127.0.0.1\nssl = no\ndisable_plaintext_auth = no\nmail_location = {location}\n\
             first_valid_uid = 1\ndefault_internal_user = nobody\ndefault_login_user = nobody\n\
             default_internal_group = nogroup\n\
             passdb {{\n driver = static\n args = password=secret\n}}\n\
             userdb {{\n driver = static\n args = uid=nobody gid=nogroup home={at}/home/%n\n}}\n\
             service imap-login {{\n chroot =\n inet_listener imap {{\n port = {port}\n }}\n \
             inet_listener imaps {{\n port = 0\n }}\n}}\n\
             service stats {{\n unix_listener stats-writer {{\n mode = 0666\n }}\n}}\n"
        );
        let file = folder.join("dovecot.conf");
        fs::write(&file, config).expect("configuration is written");
        let child = Command::new("/usr/sbin/dovecot")
            .args(["-F", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dovecot starts");
        wait_until("dovecot listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, log: folder.join("dovecot.log") }
    }

    /// Lists and fetches everything of a user, and compares it with the source; returns what was found.
    fn fetch_all(&self, user: &str, maildir: &Path) -> String {
        let output = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount/fetch_all.py"))
            .args([&self.port.to_string(), user])
            .arg(maildir)
            .output()
            .expect("python3 runs");
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(output.status.success(), "{}{log}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let _ = self.child.wait();
    }
}

#[test]
fn imap_lists_and_fetches_every_message_byte_for_byte() {
    if !can_mount() {
        return;
    }
    if !Path::new("/usr/sbin/dovecot").exists() || !Path::new("/usr/lib/dovecot/imap").exists() {
        eprintln!("skipped: no Dovecot (packages dovecot-core and dovecot-imapd)");
        return;
    }
    let place = Place::made(&[]);
    let run = |command: &mut Command| {
        let output = command.output().expect("program runs");
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    };
    let open = |path: &Path| run(Command::new("chmod").arg("755").arg(path));
    open(&place.path(""));
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make-demo-mail");
    run(Command::new(demo).arg(place.path("mail")).args(["--users", "2", "--messages", "80"]));
    // Dovecot takes whatever begins with a dot for a folder.
    run(Command::new("find").arg(place.path("mail")).args(["-name", ".dovecot.sieve", "-delete"]));
    run(Command::new("chown").args(["-R", OWNER]).arg(place.path("mail")));
    place.backup(&["--daily"]);
    let mount = place.mount(&["--allow-other"]);
    let users = ["anna", "bruno"];
    let source = |user: &str| place.path("mail/vmail/example.org").join(user);

    run(Command::new("cp").arg("-a").arg(mount.path("latest/mail")).arg(place.path("copied")));
    let copied = format!("maildir:{}/vmail/example.org/%n", place.path("copied").display());
    let dovecot = Dovecot::start(&place.path("dovecot-1"), &copied);
    for user in users {
        assert_eq!(dovecot.fetch_all(user, &source(user)), "3 folders, 80 messages", "copied out");
    }
    drop(dovecot);

    // Nothing can be written to a mount: indexes stay in memory, and what else Dovecot keeps of a
    // mailbox (CONTROL) lies elsewhere.
    fs::create_dir(place.path("control")).expect("folder is made");
    run(Command::new("chown").arg(OWNER).arg(place.path("control")));
    let inside = mount.path("latest/mail/vmail/example.org");
    let (inside, control) = (inside.display(), place.path("control"));
    let location = format!("maildir:{inside}/%n:INDEX=MEMORY:CONTROL={}/%n", control.display());
    let dovecot = Dovecot::start(&place.path("dovecot-2"), &location);
    for user in users {
        assert_eq!(dovecot.fetch_all(user, &source(user)), "3 folders, 80 messages", "in the mount");
    }
}
