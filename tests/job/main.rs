//! The configured run with the real things around it: the program itself, MariaDB, file systems,
//! a mail server, signals.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../common/mod.rs"]
mod common;

mod ages;
mod config;
mod database;
mod disks;
mod keys;
mod leaving_out;
mod mariadb;
mod names;
mod nights;
mod notices;
mod operator;
mod place;
mod runs;
mod schedule;
mod secrets;
mod support;
mod suspects;
mod trial;
mod upgrade;
mod whose;
mod words;

use common::disk;
