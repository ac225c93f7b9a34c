//! First bytes of a message's file → what it is wrapped in, so that its text can't be seen as it lies there.

/// What a message is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrapping {
    /// Compressed, by Dovecot's zlib plugin.
    Compressed(&'static str),
    /// Enciphered, by Dovecot's mail_crypt plugin.
    Enciphered,
}

impl Wrapping {
    /// Returns why nothing but name, size and date can be seen.
    pub fn reason(self) -> String {
        match self {
            Self::Compressed(how) => format!("compressed ({how})"),
            Self::Enciphered => "enciphered by the mail server (CRYPTED)".to_owned(),
        }
    }
}

/// What files begin with. No header does: its first line begins with a field's name and a colon.
const MAGIC: [(&[u8], Wrapping); 6] = [
    (b"\x1f\x8b", Wrapping::Compressed("gzip")),
    (b"BZh", Wrapping::Compressed("bzip2")),
    (b"\xfd7zXZ\0", Wrapping::Compressed("xz")),
    (b"\x28\xb5\x2f\xfd", Wrapping::Compressed("zstd")),
    (b"Dovecot-LZ4\x0d\x2a\x9b\xc5", Wrapping::Compressed("lz4")),
    (b"CRYPTED\x03\x07", Wrapping::Enciphered),
];

/// Returns what a file that begins so is wrapped in; none if it is a plain message.
pub fn of(start: &[u8]) -> Option<Wrapping> {
    MAGIC.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, wrapping)| *wrapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_messages_are_told_from_plain_ones() {
        assert_eq!(of(b"\x1f\x8b\x08\0"), Some(Wrapping::Compressed("gzip")));
        assert_eq!(of(b"CRYPTED\x03\x07\x02"), Some(Wrapping::Enciphered));
        assert_eq!(of(b"Dovecot-LZ4\x0d\x2a\x9b\xc5\0\0"), Some(Wrapping::Compressed("lz4")));
        for plain in [&b""[..], b"From: a@b\n", b"BZ: x\n", b"CRYPTED: no\n", b"\x1f"] {
            assert_eq!(of(plain), None);
        }
    }
}
