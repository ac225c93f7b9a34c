//! `snap mount` on a real `/dev/fuse`, as people, `cp`, `rsync` and Dovecot use it. Needs root.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its own files need not be durable"
)]

mod common;
#[path = "mount/damage.rs"]
mod damage;
#[path = "mount/dovecot.rs"]
mod dovecot;
#[path = "mount/ending.rs"]
mod ending;
#[path = "mount/faithful.rs"]
mod faithful;
#[path = "mount/layout.rs"]
mod layout;
#[path = "mount/place.rs"]
mod place;
#[path = "mount/secrets.rs"]
mod secrets;
#[path = "mount/usable.rs"]
mod usable;
#[path = "mount/users.rs"]
mod users;
