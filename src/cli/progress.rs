//! Progress bars on a terminal, progress lines with `--json`.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::base::progress::Progress;
use crate::base::units::counted;
use crate::cli::args::Global;

/// Time between two looks at the counters.
const TICK: Duration = Duration::from_millis(100);

/// Time between two JSON lines.
const JSON_TICK: Duration = Duration::from_secs(1);

/// Shows a progress until it is dropped.
pub struct Display {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Begins to show `progress` under a `title`, if anybody is there to look.
    pub fn start(global: &Global, title: &'static str, progress: &Arc<Progress>) -> Self {
        let is_shown = !global.quiet && !global.no_progress;
        let (stop, stopped) = channel();
        let progress = progress.clone();
        let thread = if !is_shown {
            None
        } else if global.json {
            spawn(move || {
                let started = Instant::now();
                while stopped.recv_timeout(JSON_TICK) == Err(RecvTimeoutError::Timeout) {
                    json_line(&progress, started.elapsed());
                }
            })
        } else if std::io::stderr().is_terminal() {
            spawn(move || {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.set_prefix(title);
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    turn(&bar, &progress);
                }
                bar.finish_and_clear();
            })
        } else {
            None
        };
        Self { stop: Some(stop), thread }
    }
}

/// Begins to show; nothing is shown where the system gives no thread.
fn spawn(show: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().spawn(show).ok()
}

impl Drop for Display {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn turn(bar: &ProgressBar, progress: &Progress) {
    let seen = progress.seen();
    let template = match seen.bytes_total {
        0 => "{prefix} {spinner} {msg}, {decimal_bytes}, {decimal_bytes_per_sec}, {elapsed}",
        _ => {
            "{prefix} [{bar:25}] {msg}, {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left"
        }
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    if seen.bytes_total > 0 {
        bar.set_length(seen.bytes_total.max(seen.bytes));
    }
    bar.set_message(counted(seen.files, "file", "files"));
    bar.set_position(seen.bytes);
    bar.tick();
}

fn json_line(progress: &Progress, elapsed: Duration) {
    let seen = progress.seen();
    let line = json!({
        "type": "progress",
        "files": seen.files,
        "bytes": seen.bytes,
        "files_total": seen.files_total,
        "bytes_total": seen.bytes_total,
        "seconds": elapsed.as_secs_f64(),
    });
    let _ = writeln!(std::io::stdout(), "{line}"); // the summary will tell whether output works
}
