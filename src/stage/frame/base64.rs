//! Part of stage 5: base64 lines, as mail carries its attachments → the bytes that they stand for; and back.
//!
//! A run of lines of one length, each a whole number of groups of four characters, stands for its bytes and nothing
//! else: what is decoded here is encoded to the same characters (RFC 4648, section 4; RFC 2045, section 6.8).
//! Whatever is not such a line stays as it is, so no byte can change.

use base64_simd::{AsOut, STANDARD_NO_PAD};
use memchr::{memchr, memrchr};

use crate::base::layout::BASE64_RUN_BYTES;
use crate::base::limits::FRAME_BYTES;

/// Fewest lines that make a run.
const RUN_LINES_MIN: usize = 3;

/// Shortest line of a run, in groups of four characters.
const LINE_GROUPS_MIN: usize = 10;

/// Longest line of a run, in groups of four characters.
const LINE_GROUPS_MAX: usize = u8::MAX as usize;

/// Bytes from one place that is looked at to the next: a run of fewer may be missed.
const STRIDE_BYTES: usize = 256;

/// Bytes looked at in such a place.
const PROBE_BYTES: usize = 16;

/// Length of the number of runs as stored, in bytes.
const COUNT_BYTES: usize = 4;

/// Lines of one length that follow one another ([`BASE64_RUN`](crate::base::layout::BASE64_RUN)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Bytes that stand between the run before and this one.
    skip: u32,
    /// Groups of four characters in a line.
    groups: u8,
    /// Whether lines end with CR LF, else with LF.
    is_crlf: bool,
    /// Number of lines.
    lines: u16,
}

impl Run {
    fn characters(self) -> usize {
        usize::from(self.groups) * 4
    }

    /// Length of a line's bytes, decoded.
    fn line_decoded(self) -> usize {
        usize::from(self.groups) * 3
    }

    /// Length of a line with its end.
    fn line_raw(self) -> usize {
        self.characters() + self.ending().len()
    }

    /// Length of all lines with their ends.
    fn raw(self) -> usize {
        usize::from(self.lines) * self.line_raw()
    }

    fn ending(self) -> &'static [u8] {
        if self.is_crlf { b"\r\n" } else { b"\n" }
    }

    fn to_bytes(self) -> [u8; BASE64_RUN_BYTES] {
        let [s0, s1, s2, s3] = self.skip.to_le_bytes();
        let [l0, l1] = self.lines.to_le_bytes();
        [s0, s1, s2, s3, self.groups, u8::from(self.is_crlf), l0, l1]
    }

    fn from_bytes(bytes: &[u8; BASE64_RUN_BYTES]) -> Option<Self> {
        let &[s0, s1, s2, s3, groups, ending, l0, l1] = bytes;
        let run = Self {
            skip: u32::from_le_bytes([s0, s1, s2, s3]),
            groups,
            is_crlf: ending == 1,
            lines: u16::from_le_bytes([l0, l1]),
        };
        (groups > 0 && ending < 2 && run.lines > 0).then_some(run)
    }
}

/// Bytes with their runs taken out.
#[derive(Debug, Default)]
pub struct Parts {
    /// The number of runs, the runs, and the bytes that are in none of them.
    pub plain: Vec<u8>,
    /// The runs' bytes, decoded, one after the other.
    pub decoded: Vec<u8>,
}

impl Parts {
    /// Takes the runs out of `raw`, in place of what is here; returns whether a 64th of it or more was in runs.
    /// Both parts together are shorter than `raw` then; what they hold is meaningless otherwise.
    ///
    /// Looks at 16 of 256 bytes where there are no runs, so O(length), but little of it.
    pub fn take(&mut self, raw: &[u8]) -> bool {
        self.plain.clear();
        self.decoded.clear();
        let mut runs = Vec::new();
        let mut end = 0; // of the last run
        let mut at = 0;
        while let Some(probe) = raw.get(at..at + PROBE_BYTES) {
            at += STRIDE_BYTES;
            if !probe.iter().all(|&byte| IS_OF_RUN[usize::from(byte)]) {
                continue;
            }
            if let Some(run) = self.decode_run(raw, end, at - STRIDE_BYTES) {
                runs.push(run);
                end += run.skip as usize + run.raw();
                at = end;
            }
        }
        if self.decoded.len() < raw.len() / 64 || runs.is_empty() {
            return false;
        }
        self.plain.reserve(COUNT_BYTES + runs.len() * BASE64_RUN_BYTES + raw.len() - self.decoded.len());
        self.plain.extend_from_slice(&(runs.len() as u32).to_le_bytes());
        self.plain.extend(runs.iter().flat_map(|run| run.to_bytes()));
        let mut rest = raw;
        for run in &runs {
            let (between, run_on) = rest.split_at(run.skip as usize);
            self.plain.extend_from_slice(between);
            rest = &run_on[run.raw()..];
        }
        self.plain.extend_from_slice(rest);
        true
    }

    /// Gives back the memory that only a long frame needs.
    pub fn shrink(&mut self) {
        for part in [&mut self.plain, &mut self.decoded] {
            part.clear();
            part.shrink_to(FRAME_BYTES as usize);
        }
    }

    /// Decodes the run around `at`, if one is there and starts at `from` or later.
    fn decode_run(&mut self, raw: &[u8], from: usize, at: usize) -> Option<Run> {
        let line_max = LINE_GROUPS_MAX * 4 + 2;
        let reach = from.max(at.saturating_sub(line_max));
        let mut start = match memrchr(b'\n', &raw[reach..at]) {
            Some(newline) => reach + newline + 1,
            None if reach == from => from,
            None => return None,
        };
        let line = &raw[start..raw.len().min(start + line_max)];
        let line = &line[..memchr(b'\n', line)?];
        let is_crlf = line.ends_with(b"\r");
        let characters = line.len() - usize::from(is_crlf);
        let groups = characters / 4;
        if !characters.is_multiple_of(4) || !(LINE_GROUPS_MIN..=LINE_GROUPS_MAX).contains(&groups) {
            return None;
        }
        // Hexadecimal digits, base32 and FASTA have one case, and compress better as they are.
        if !line.iter().any(u8::is_ascii_uppercase) || !line.iter().any(u8::is_ascii_lowercase) {
            return None;
        }
        let mut run = Run { skip: 0, groups: groups as u8, is_crlf, lines: 0 };
        let is_line = |start: usize| {
            let line = raw.get(start..start + run.line_raw())?;
            let (line, ending) = line.split_at(characters);
            (ending == run.ending()).then_some(line)
        };
        while let Some(before) = start.checked_sub(run.line_raw()).filter(|&before| before >= from) {
            match is_line(before) {
                Some(line) if STANDARD_NO_PAD.check(line).is_ok() => start = before,
                _ => break,
            }
        }
        let decoded_before = self.decoded.len();
        let mut next = start;
        let mut lines = 0;
        while let Some(line) = is_line(next).filter(|_| lines < u16::MAX) {
            let length = self.decoded.len();
            self.decoded.resize(length + run.line_decoded(), 0);
            if STANDARD_NO_PAD.decode(line, self.decoded[length..].as_out()).is_err() {
                self.decoded.truncate(length);
                break;
            }
            lines += 1;
            next += run.line_raw();
        }
        if usize::from(lines) < RUN_LINES_MIN || next <= at {
            self.decoded.truncate(decoded_before);
            return None;
        }
        run.lines = lines;
        run.skip = u32::try_from(start - from).ok()?;
        Some(run)
    }
}

/// Puts into `raw`, in place of what is there, the bytes from which [`Parts::take`] made `parts`: `plain`, and
/// `decoded` right after it. None if `parts` is no such thing, or `raw` would not be `raw_bytes` long; never
/// allocates more. O(length).
pub fn put_back(parts: &[u8], raw_bytes: usize, raw: &mut Vec<u8>) -> Option<()> {
    raw.clear();
    let (count, rest) = parts.split_first_chunk::<COUNT_BYTES>()?;
    let table_bytes = (u32::from_le_bytes(*count) as usize).checked_mul(BASE64_RUN_BYTES)?;
    let (table, rest) = rest.split_at_checked(table_bytes)?;
    let runs = || table.as_chunks::<BASE64_RUN_BYTES>().0.iter().map(Run::from_bytes);
    let (mut decoded_bytes, mut lines_bytes) = (0, 0);
    for run in runs() {
        let run = run?;
        decoded_bytes += usize::from(run.lines) * run.line_decoded();
        lines_bytes += run.raw();
    }
    let (mut plain, mut decoded) = rest.split_at_checked(rest.len().checked_sub(decoded_bytes)?)?;
    if plain.len() + lines_bytes != raw_bytes {
        return None;
    }
    raw.reserve_exact(raw_bytes);
    for run in runs().flatten() {
        let (between, plain_on) = plain.split_at_checked(run.skip as usize)?;
        plain = plain_on;
        raw.extend_from_slice(between);
        for _ in 0..run.lines {
            let (bytes, decoded_on) = decoded.split_at(run.line_decoded());
            decoded = decoded_on;
            let length = raw.len();
            raw.resize(length + run.characters(), 0);
            _ = STANDARD_NO_PAD.encode(bytes, raw[length..].as_out());
            raw.extend_from_slice(run.ending());
        }
    }
    raw.extend_from_slice(plain);
    Some(())
}

/// Whether a byte may stand in a run.
const IS_OF_RUN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'+' | b'/' | b'\r' | b'\n');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(parts: &Parts) -> Vec<u8> {
        [&parts.plain[..], &parts.decoded[..]].concat()
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Bytes as an attachment in lines of `groups` groups, its last line shorter.
    fn attachment(bytes: &[u8], groups: usize, ending: &str) -> Vec<u8> {
        let lines =
            bytes.chunks(groups * 3).map(|line| base64_simd::STANDARD.encode_to_string(line) + ending);
        lines.collect::<String>().into_bytes()
    }

    #[test]
    fn a_message_gives_its_attachment_decoded() {
        let bytes = noise(1, 5_000);
        for ending in ["\n", "\r\n"] {
            let body = attachment(&bytes, 19, ending);
            let raw = [b"Content-Transfer-Encoding: base64\n\n", &body[..], b"\n--part--\n"].concat();
            let mut parts = Parts::default();
            assert!(parts.take(&raw));
            assert_eq!(parts.decoded, bytes[..5_000 / 57 * 57], "all whole lines, from the first");
            let mut back = Vec::new();
            assert_eq!(put_back(&joined(&parts), raw.len(), &mut back), Some(()));
            assert_eq!(back, raw);
        }
    }

    #[test]
    fn what_only_looks_like_base64_stays() {
        let words =
            b"A line of words that has nothing in it which would be decoded, and so on.\n".repeat(300);
        let padded = attachment(&noise(2, 55 * 300), 19, "\n").replace_each(60, b'=');
        let odd = [b"QUJj".repeat(19), b"Q\n".to_vec()].concat().repeat(100);
        let wrong_end = [b"QUJj".repeat(19), b"\r\r\n".to_vec()].concat().repeat(100);
        let hex = noise(4, 9_500).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
        let hex: Vec<u8> = hex.chunks(76).flat_map(|line| [line, b"\n"].concat()).collect();
        for raw in
            [hex, words, padded, odd, wrong_end, Vec::new(), b"QUJj\n".repeat(1000), vec![b'A'; 10_000]]
        {
            assert!(!Parts::default().take(&raw), "{}", String::from_utf8_lossy(&raw[..raw.len().min(100)]));
        }
    }

    trait ReplaceEach {
        fn replace_each(self, step: usize, byte: u8) -> Self;
    }

    impl ReplaceEach for Vec<u8> {
        fn replace_each(mut self, step: usize, byte: u8) -> Self {
            self.iter_mut().step_by(step).for_each(|at| *at = byte);
            self
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let raw = attachment(&noise(3, 9_000), 19, "\n");
        let mut parts = Parts::default();
        assert!(parts.take(&raw));
        let good = joined(&parts);
        let mut back = Vec::new();
        for length in 0..good.len() {
            assert_eq!(put_back(&good[..length], raw.len(), &mut back), None, "cut at {length}");
        }
        assert_eq!(put_back(&good, raw.len() - 1, &mut back), None);
        assert_eq!(put_back(&good, raw.len() + 1, &mut back), None);
        let run = good[COUNT_BYTES..][..BASE64_RUN_BYTES].to_vec();
        for (at, value) in [(0, 2), (3, 0xff), (8, 0), (9, 2), (10, 0), (11, 0xff)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(put_back(&bad, raw.len(), &mut back), None, "byte {at} of {run:?}");
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let lines =
            (any::<u64>(), 0usize..3_000, 1usize..300, prop::sample::select(vec!["\n", "\r\n", "\r", ""]));
        prop_oneof![
            4 => lines.prop_map(|(seed, length, groups, ending)| attachment(&noise(seed, length), groups, ending)),
            2 => "[ -~\r\n]{0,400}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..300),
        ]
    }

    proptest! {
        #[test]
        fn put_back_undoes_take(pieces in prop::collection::vec(piece(), 0..12), cut in 0usize..200) {
            let raw = pieces.concat();
            let raw = &raw[cut.min(raw.len())..];
            let mut parts = Parts::default();
            if parts.take(raw) {
                let joined = joined(&parts);
                prop_assert!(joined.len() < raw.len());
                let mut back = vec![7; 3];
                prop_assert_eq!(put_back(&joined, raw.len(), &mut back), Some(()));
                prop_assert!(back == raw);
            }
        }

        #[test]
        fn hostile_parts_are_refused(
            count in 0u32..5,
            table in prop::collection::vec(any::<[u8; BASE64_RUN_BYTES]>(), 0..4),
            rest in prop::collection::vec(any::<u8>(), 0..3_000),
            raw_bytes in 0usize..5_000,
        ) {
            let parts = [&count.to_le_bytes()[..], &table.concat(), &rest].concat();
            let mut back = Vec::new();
            if put_back(&parts, raw_bytes, &mut back).is_some() {
                prop_assert_eq!(back.len(), raw_bytes);
            }
            prop_assert!(back.capacity() <= raw_bytes.max(8));
        }
    }
}
