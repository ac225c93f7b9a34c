//! A configuration that can't be used: whoever can be told is told, for no run will do it.

use crate::base::redact::Redactor;
use crate::job::clock;
use crate::job::config::{self, ConfigError, Salvage};
use crate::job::log::{self, Log};
use crate::job::notice::{self, Facts, Failing};
use crate::job::run::Ending;

/// Tells of it: by the logs, syslog and mail as far as the file says how, and by syslog if it can't be
/// read at all. Standard error is left to the caller. `redactor` knows the secrets of this process,
/// `command` is what was typed.
///
/// Never fails: there is nobody else to tell.
pub fn tell(error: &ConfigError, mut redactor: Redactor, command: &str, host: &str) {
    let Salvage { notify, log: logs, redactor: found } = Salvage::read(&error.path);
    redactor.join(found);
    let began = clock::now();
    let what = format!("the configuration cannot be used: {error}");
    let log = match &logs {
        Some(logs) => Log::open(logs, redactor, None, began).0,
        None => Log::without_files(&config::Log::default(), redactor, None),
    };
    log.critical("INIT", &what);
    let directory = logs.unwrap_or_default().directory;
    let facts = Facts {
        name: notify.name(),
        host,
        repository: "(the configuration would say)",
        command,
        began,
        status: Ending::Fatal.words(),
        fatal: &what,
        failing: Failing::Configuration,
        log: log.lines(config::Level::Debug),
        log_file: directory.join(log::day_name(began)).display().to_string(),
        ..Facts::default()
    };
    let _ = notice::tell(&notify, &notice::failure(&facts), &log);
}
