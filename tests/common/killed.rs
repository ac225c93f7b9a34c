//! A program that is killed just as it asks the system for something.

use std::process::{Command, Stdio};

use rustix::io::Errno;

/// Runs a command under strace(1), and kills it with SIGKILL as it begins its `nth` call (from 1) of the system call
/// `call`, which then does nothing. Returns whether it was killed, and has not ended before; none if strace can't tell.
pub fn killed_at(command: &Command, call: &str, nth: u32) -> Option<bool> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={nth}"), "--"]);
    strace.arg(command.get_program()).args(command.get_args()).env_clear();
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        strace.current_dir(folder);
    }
    let output = strace.stdin(Stdio::null()).output();
    let output = match output {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: strace is not installed");
            return None;
        }
        ran => ran.expect("strace runs"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ptrace") && said.contains(&std::io::Error::from(Errno::PERM).to_string()) {
        println!("skipped: strace may not trace here: {said}");
        return None;
    }
    use std::os::unix::process::ExitStatusExt;
    let is_killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
    assert!(is_killed || output.status.success(), "{call} {nth}: {}: {said}", output.status);
    Some(is_killed)
}
