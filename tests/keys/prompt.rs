//! While a passphrase is waited for, at the terminal, from a pipe or from a command: a signal ends the wait, and the
//! terminal is as it was.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, Command, Stdio};

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Place, done, text};

/// Runs a command at a terminal of its own, and sends it a signal when it asks for the passphrase; returns all that the
/// terminal shows, its own state after that and the command's status among it. None where there is no script(1).
fn signalled_at_prompt(place: &Place, arguments: &[&str], signal: Signal) -> Option<String> {
    let quoted = shlex::try_join(arguments.iter().copied()).expect("words of text");
    let script = format!(
        "sh -c 'echo pid $$; exec \"$@\"' sh {} {quoted}; echo status $?; stty -a | grep -o -E -- '-?echo '",
        env!("CARGO_BIN_EXE_snap")
    );
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &script, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    terminal.env_clear().current_dir(place.folder.path());
    let like = place.command(&[]);
    let variables = like.get_envs().filter_map(|(name, value)| Some((name, value?)));
    terminal.envs(variables.filter(|(name, _)| *name != "SNAP_PASSWORD"));
    // A machine that does not know the repository asks whatever is to be done with it.
    terminal.env("SNAP_STATE_DIR", place.path("elsewhere"));
    let mut child = match terminal.spawn() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: script(1) is not installed");
            return None;
        }
        spawned => spawned.expect("script runs"),
    };
    let (keys, mut shown) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"Passphrase: ") {
        let read = shown.read(&mut byte).expect("terminal reads");
        assert_eq!(read, 1, "{arguments:?}: {}", text(&said));
        said.push(byte[0]);
    }
    let first = text(&said);
    let pid = first.lines().find_map(|line| line.trim().strip_prefix("pid ")).expect("is said");
    let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a number");
    kill_process(pid, signal).expect("signal is sent");
    shown.read_to_end(&mut said).expect("terminal reads");
    drop(keys);
    child.wait().expect("script ends");
    Some(text(&said))
}

#[test]
fn a_signal_at_a_prompt_gives_the_echo_back_in_every_verb() {
    let place = Place::made(&[]);
    place.back_up("message");
    let at = format!("latest:{}", place.path("mail/message").display());
    let verbs: [&[&str]; 15] = [
        &["cat", &at],
        &["ls", "latest"],
        &["snapshots"],
        &["find", "message"],
        &["history", "message"],
        &["diff", "latest", "latest"],
        &["stats"],
        &["key", "list"],
        &["tag", "latest", "--add", "kept"],
        &["mount", "point"],
        &["backup", "mail"],
        &["restore", "latest", "--target", "out"],
        &["check"],
        &["prune", "--keep-last", "1"],
        &["rebuild-index"],
    ];
    fs::create_dir(place.path("point")).expect("folder is made");
    for (number, verb) in verbs.iter().enumerate() {
        let all = [Signal::TERM, Signal::INT, Signal::HUP];
        let signals = if number == 0 { &all[..] } else { &all[number % 3..][..1] };
        for signal in signals {
            let Some(said) = signalled_at_prompt(&place, verb, *signal) else { return };
            assert!(said.contains("status 130"), "{verb:?} {signal:?}: {said}");
            assert!(said.contains("echo ") && !said.contains("-echo "), "{verb:?} {signal:?}: {said}");
        }
    }
}

#[test]
fn a_signal_after_a_passphrase_was_read_ends_a_command_that_has_nothing_to_bring_to_an_end() {
    let place = Place::made(&[]);
    // Nobody reads what is printed, so the command is there until it is ended.
    fs::write(place.path("mail/large"), vec![7; 4 << 20]).expect("is written");
    place.back_up("message");
    let at = format!("latest:{}", place.path("mail/large").display());
    fs::write(place.path("passphrase"), "correct horse\n").expect("is written");
    let mut command = place.command(&["cat", &at, "--password-file", "passphrase"]);
    let mut child = command.env_remove("SNAP_PASSWORD").stdout(Stdio::piped()).spawn().expect("starts");
    let mut printed = child.stdout.take().expect("piped");
    printed.read_exact(&mut [0; 1]).expect("it is past the passphrase");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("signal is sent");
    assert_eq!(child.wait().expect("ends").signal(), Some(15));
}

/// Starts a command without a passphrase, and waits until it says that it waits.
fn waiting(command: &mut Command) -> (std::process::Child, BufReader<ChildStderr>) {
    let mut child = command.env_remove("SNAP_PASSWORD").stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("reads");
    assert!(line.contains("waited for") && line.contains("Ctrl-C"), "{line}");
    (child, said)
}

#[test]
fn a_named_pipe_that_nobody_writes_to_is_said_and_a_signal_ends_the_wait() {
    let place = Place::made(&[]);
    place.back_up("message");
    let pipe = place.path("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("FIFO is made");
    let at = format!("latest:{}", place.path("mail/message").display());
    for (option, signal) in
        [("--password-file", Signal::TERM), ("--identity", Signal::INT), ("--password-file", Signal::HUP)]
    {
        let verb = if signal == Signal::HUP { &["check", "--read-data"][..] } else { &["cat", &at] };
        let (mut child, _said) = waiting(&mut place.command(&[verb, &[option, "pipe"]].concat()));
        kill_process(Pid::from_child(&child), signal).expect("signal is sent");
        assert_eq!(child.wait().expect("ends").code(), Some(130), "{option} {signal:?}");
    }
    // Somebody comes late.
    let command = &mut place.command(&["cat", &at, "--password-file", "pipe"]);
    let (child, _said) = waiting(command.stdout(Stdio::piped()));
    let mut writer = fs::File::options().write(true).open(&pipe).expect("opens");
    writer.write_all(b"correct horse\n").expect("is written");
    drop(writer);
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "message"));
}

#[test]
fn a_command_that_prints_no_passphrase_is_said_and_ended_by_a_signal() {
    let place = Place::made(&[]);
    place.back_up("message");
    let at = format!("latest:{}", place.path("mail/message").display());
    let mut command = place.command(&["cat", &at]);
    let command = command.env("SNAP_PASSWORD_COMMAND", "echo $$ > asked; exec sleep 600");
    let (mut child, _said) = waiting(command);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signal is sent");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    let asked = fs::read_to_string(place.path("asked")).expect("the command ran");
    let asked = asked.trim().parse().ok().and_then(Pid::from_raw).expect("a number");
    assert!(rustix::process::test_kill_process(asked).is_err(), "it has ended");
}

#[test]
fn a_passphrase_and_an_identity_come_by_process_substitution() {
    let place = Place::new();
    let recipient = place.identity("own");
    place.done(&["init"]);
    place.done(&["key", "add", "--recipient", &recipient]);
    place.back_up("message");
    let at = format!("latest:{}", place.path("mail/message").display());
    let snap = env!("CARGO_BIN_EXE_snap");
    for given in [
        "--password-file <(echo 'correct horse')",
        "--password-file <(sleep 1.5; echo correct horse)",
        "--identity <(cat own)",
        "--password-file /dev/stdin <<< 'correct horse'",
    ] {
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(format!("{snap} cat '{at}' {given}")).env_clear().current_dir(place.folder.path());
        let like = place.command(&[]);
        bash.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_eq!(done(bash.env_remove("SNAP_PASSWORD").stdin(Stdio::null())), "message", "{given}");
    }
}
