//! Calls of a URL that watches over runs, as healthchecks.io has them.

use std::time::Duration;

/// Time that one call may take.
const CALL_MAX: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A run begins.
    Start,
    /// It succeeded.
    Success,
    /// It failed, in part or wholly.
    Fail,
}

impl Signal {
    /// Returns what the URL's path ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Start => "/start",
            Self::Success => "",
            Self::Fail => "/fail",
        }
    }
}

/// Calls `url` with a signal, and a few words for whoever looks there.
///
/// # Errors
/// Why it could not be called. May be retried; nothing depends on it.
pub fn call(url: &str, signal: Signal, words: &str) -> Result<(), String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(CALL_MAX)).build();
    let agent = ureq::Agent::new_with_config(config);
    agent.post(target(url, signal)).send(words).map(|_| ()).map_err(|e| e.to_string())
}

fn target(url: &str, signal: Signal) -> String {
    let (path, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    format!("{}{}{query}", path.trim_end_matches('/'), signal.suffix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_ends_the_path() {
        assert_eq!(target("https://hc.example.com/uuid", Signal::Start), "https://hc.example.com/uuid/start");
        assert_eq!(target("https://hc.example.com/uuid/", Signal::Fail), "https://hc.example.com/uuid/fail");
        assert_eq!(
            target("https://hc.example.com/p?create=1", Signal::Fail),
            "https://hc.example.com/p/fail?create=1"
        );
        assert_eq!(target("https://hc.example.com/uuid", Signal::Success), "https://hc.example.com/uuid");
    }
}
