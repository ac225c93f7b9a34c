//! One verb each. Ops never call one another; each answers with a report.

pub mod backup;
pub mod restore;
