//! Sizes and lengths of time in the configuration.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

use crate::base::units::{parse_duration, parse_size, show_duration};
use crate::stage::message::layout::Layout;

/// A number of bytes, written as `20GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A length of time, written as `10s`, `30m`, `26h` or `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A share of 0 to 100 percent, written as `50%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u8);

/// Where mailboxes lie in a component, written as `vmail/{domain}/{user}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailLayout {
    /// As it was written.
    pub text: String,
    /// What it says.
    pub layout: Layout,
}

impl Span {
    /// Returns it in whole seconds.
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_size(&text).map(Self).map_err(|what| D::Error::custom(format!("\"{text}\": {what}")))
    }
}

impl<'de> Deserialize<'de> for MailLayout {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let layout = Layout::parse(&text).map_err(|what| D::Error::custom(format!("\"{text}\": {what}")))?;
        Ok(Self { text, layout })
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let percent = percent.filter(|percent| *percent <= 100);
        percent.map(Self).ok_or_else(|| {
            D::Error::custom(format!("\"{text}\": is not a share from 0% to 100%, such as \"50%\""))
        })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_duration(&text).map(Self).map_err(|what| D::Error::custom(format!("\"{text}\": {what}")))
    }
}
