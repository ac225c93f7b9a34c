//! The configured run: pre-flight, components with their retries, verification, retention, notices, logs.
//!
//! [`config`] says what is wanted; [`run`] does it, and tells [`log`], [`notice`], [`ping`] and
//! [`metrics`] what came of it. Besides `cli`, this floor alone reads the clock.

pub mod ages;
pub mod check;
pub mod clock;
pub mod config;
pub mod cost;
pub mod here;
pub mod last;
pub mod listener;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod missed;
pub mod mount;
pub mod notice;
pub mod patterns;
pub mod ping;
pub mod preflight;
pub mod record;
pub mod retention;
pub mod run;
pub mod stale;
pub mod support;
pub mod told;
pub mod unusable;
pub mod verb;
