//! Who may look: without the passphrase, as another user, as an ordinary user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::can_mount;
use crate::place::{Place, text, wait_until};

/// Runs a command as another user.
fn as_user(user: u32, command: &[&str]) -> Output {
    let mut setpriv = Command::new("setpriv");
    setpriv.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--clear-groups").args(command);
    setpriv.output().expect("setpriv runs")
}

/// Lets other users reach a temporary folder.
fn open_to_all(place: &Place) {
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).expect("mode is set");
}

fn path(path: &Path) -> String {
    path.to_str().expect("temporary paths are text").to_owned()
}

#[test]
fn without_the_passphrase_names_are_shown_and_files_stay_closed() {
    if !can_mount() {
        return;
    }
    let place = Place::made(&[]);
    fs::write(place.path("mail/text"), "secret").expect("file is written");
    place.backup(&[]);
    let mut command = place.command(&["mount", "mnt"]);
    command.env_remove("SNAP_PASSWORD");
    let mount = place.mount_by(command);
    let file = mount.path("latest/mail/text");
    assert_eq!(fs::metadata(&file).expect("attributes show").len(), 6);
    for _ in 0..3 {
        let refused = fs::read(&file).expect_err("no key, no content");
        assert_eq!(refused.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
    }
    assert_eq!(mount.log().matches("no passphrase").count(), 1, "{}", mount.log());
    assert_eq!(mount.log().matches("opened and refused").count(), 1, "{}", mount.log());
}

#[test]
fn other_users_are_kept_out_unless_they_are_let_in() {
    if !can_mount() {
        return;
    }
    let place = Place::plain();
    open_to_all(&place);
    fs::set_permissions(place.path("mail"), fs::Permissions::from_mode(0o755)).expect("mode is set");
    for (name, mode) in [("open", 0o644), ("closed", 0o600), ("listed", 0o640)] {
        fs::write(place.path("mail").join(name), name).expect("file is written");
        fs::set_permissions(place.path("mail").join(name), fs::Permissions::from_mode(mode))
            .expect("mode is set");
    }
    let acl = Command::new("setfacl").args(["-m", "u:4711:r"]).arg(place.path("mail/listed")).status();
    assert!(acl.expect("setfacl runs").success());
    // The mask shows as the group's bits: without the list, the group would be let in.
    std::os::unix::fs::chown(place.path("mail/listed"), Some(0), Some(4712)).expect("owner is set");
    let acl = Command::new("setfacl").args(["-m", "g::-"]).arg(place.path("mail/listed")).status();
    assert!(acl.expect("setfacl runs").success());
    place.backup(&[]);
    let reads = |user: u32, file: &Path| as_user(user, &["cat", &path(file)]).status.success();
    let mount = place.mount(&[]);
    assert!(!reads(4711, &mount.path("latest/mail/open")));
    assert!(fs::read(mount.path("latest/mail/closed")).is_ok());
    drop(mount);
    let mount = place.mount(&["--allow-other"]);
    for (user, name, may) in [
        (4711, "open", true),
        (4711, "closed", false),
        (4711, "listed", true),
        (4712, "listed", false),
        (4713, "listed", false),
    ] {
        assert_eq!(reads(user, &mount.path("latest/mail").join(name)), may, "user {user}, {name}");
    }
}

#[test]
fn an_ordinary_user_mounts_a_repository_of_his_own() {
    if !can_mount() {
        return;
    }
    if Command::new("fusermount3").arg("--version").output().is_err() {
        eprintln!("skipped: no fusermount3");
        return;
    }
    let place = Place::plain();
    open_to_all(&place);
    fs::write(place.path("mail/text"), "mine").expect("file is written");
    place.backup(&[]);
    for folder in ["repo", "state", "mnt", "mail"] {
        let owned = Command::new("chown").arg("-R").arg("65534:65534").arg(place.path(folder)).status();
        assert!(owned.expect("chown runs").success());
    }
    let program = place.path("snap"); // where it was built may be closed to others
    fs::copy(env!("CARGO_BIN_EXE_snap"), &program).expect("program is copied");
    // As nobody (65534): fusermount3 wants a user with a name.
    // In a mount namespace of its own, where /dev/fuse is open to all, as it is on most machines.
    let device = place.path("fuse");
    let node = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &device, node, Mode::empty(), rustix::fs::makedev(10, 229))
        .expect("device is made");
    fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).expect("mode is set");
    let script = "mount --bind fuse /dev/fuse && exec setpriv --reuid=65534 --regid=65534 --clear-groups ./snap mount mnt";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("SNAP_REPOSITORY", place.path("repo"))
        .env("SNAP_STATE_DIR", place.path("state"))
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("program runs");
    let pid = child.id().to_string();
    let reads = |user: &str| {
        let file = path(&place.path("mnt/latest/mail/text"));
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "setpriv", &format!("--reuid={user}")]);
        command.args([&format!("--regid={user}"), "--clear-groups", "cat", &file]);
        command.output().expect("nsenter runs").stdout
    };
    wait_until("the user reads his file", || {
        let is_over = child.try_wait().expect("child can be waited for").is_some();
        is_over || reads("65534") == b"mine"
    });
    assert_eq!(text(&reads("65534")), "mine");
    assert!(reads("0").is_empty(), "not even root looks into a user's mount");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("it has a number");
    kill_process(pid, Signal::INT).expect("signal goes out");
    let output = child.wait_with_output().expect("program ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
