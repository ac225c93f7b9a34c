//! Verbs that give content out: whoever reads the configuration's log sees who had what, and where it went.

use crate::cli::command::configured::redactor;
use crate::cli::exit::Exit;
use crate::cli::session::{Session, host_name, typed, user_name};
use crate::job::clock::now;
use crate::job::config::{Config, Level};
use crate::job::verb;
use crate::repo::RepoError;

/// Does a verb's `work`. If a configuration speaks of the repository, its log says who began what, and how it ended.
///
/// # Errors
/// What `work` returns.
pub fn logged(session: &Session, work: impl FnOnce() -> Result<Exit, RepoError>) -> Result<Exit, RepoError> {
    let Ok(Some(config)) = session.own_config() else { return work() };
    let began = now();
    let what = format!("{} as {} on {}", typed(), user_name(), host_name());
    say(config, Level::Info, &format!("{what}: begins"));
    let result = work();
    let took = now().seconds.saturating_sub(began.seconds);
    let (level, how) = match &result {
        Ok(Exit::Done) => (Level::Info, format!("succeeded in {took} s")),
        Ok(Exit::Interrupted) | Err(RepoError::Interrupted) => (Level::Warning, "interrupted".to_owned()),
        Ok(_) => (Level::Warning, format!("done in part, in {took} s")),
        Err(error) => (Level::Warning, format!("failed: {}", error.chain())),
    };
    say(config, level, &format!("{what}: {how}"));
    result
}

fn say(config: &Config, level: Level, line: &str) {
    verb::note(config, redactor(config), (level, "MAIN", line), now());
}
