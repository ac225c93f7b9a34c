//! A content-addressed, deduplicating store of snapshots.
//!
//! [`stage`] lists the steps a byte takes: backup reads the list down, restore reads it up.
//! Floors, lowest first; a module imports only what lies lower (`tests/house.rs`).

pub mod base;

pub mod store;

pub mod stage;

pub mod repo;

pub mod op;

pub mod job;

pub mod cli;
