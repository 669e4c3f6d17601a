//! What one connection has to say in this turn.
//!
//! An idle connection has none: the buffer comes from the shard's pool with
//! the first packet and goes back when the socket has taken everything.

use std::io::IoSlice;

use bytes::Bytes;

/// Buffers the pool keeps, and bytes in all of them: large payloads to a few
/// receivers find their buffer warm, a fan-out does not leave one a receiver.
const POOL_MAX: usize = 1_024;
const POOL_BYTES_MAX: usize = 8 << 20;
/// Written bytes that are not worth moving the rest for.
const COMPACT_BYTES_MIN: usize = 16 << 10;
/// Slices offered to one write.
const SLICES_MAX: usize = 64;

/// Bytes to send, with large payloads spliced in from shared buffers.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// Payloads, each with the place in `bytes` before which it goes.
    splices: Vec<(usize, Bytes)>,
    spliced: usize,
    written: usize,
}

impl Output {
    /// Where packets are appended.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a shared payload without copying it.
    pub(crate) fn splice(&mut self, payload: Bytes) {
        self.spliced += payload.len();
        self.splices.push((self.bytes.len(), payload));
    }

    /// Bytes not yet written.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.spliced - self.written
    }

    /// The next slices to write, at most `SLICES_MAX`.
    pub(crate) fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.written;
        let mut push = |mut part: &'a [u8]| {
            if skip >= part.len() {
                skip -= part.len();
                return;
            }
            part = &part[skip..];
            skip = 0;
            if into.len() < SLICES_MAX {
                into.push(IoSlice::new(part));
            }
        };
        let mut from = 0;
        for (at, payload) in &self.splices {
            push(&self.bytes[from..*at]);
            push(payload);
            from = *at;
        }
        push(&self.bytes[from..]);
    }

    /// Only plain bytes, nothing spliced: the usual case, one slice.
    #[inline]
    pub(crate) fn plain(&self) -> Option<&[u8]> {
        self.splices.is_empty().then(|| &self.bytes[self.written..])
    }

    pub(crate) fn advance(&mut self, n: usize) {
        self.written += n;
        if self.written >= COMPACT_BYTES_MIN && self.written >= self.len() {
            self.compact();
        }
    }

    /// Drops what was written. A reader that is always a little behind never
    /// empties its output, which would grow for ever otherwise; that as much
    /// goes as stays makes it cost less than a copy a byte.
    fn compact(&mut self) {
        let (mut cut, mut left, mut gone) = (0, self.written, 0);
        for (at, payload) in &self.splices {
            let part = at - cut;
            if left < part + payload.len() {
                break;
            }
            left -= part + payload.len();
            cut = *at;
            gone += 1;
            self.spliced -= payload.len();
        }
        let end = self.splices.get(gone).map_or(self.bytes.len(), |(at, _)| *at);
        let part = left.min(end - cut);
        cut += part;
        self.written = left - part;
        self.splices.drain(..gone);
        for (at, _) in &mut self.splices {
            *at -= cut;
        }
        self.bytes.drain(..cut);
    }
}

/// Spare outputs of a shard.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    // Boxed on purpose: a connection holds one pointer, not four vectors.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Output>>,
    bytes: usize,
}

impl Pool {
    #[inline]
    pub(crate) fn take(&mut self) -> Box<Output> {
        let output = self.spare.pop().unwrap_or_default();
        self.bytes -= output.bytes.capacity();
        output
    }

    #[inline]
    pub(crate) fn put(&mut self, mut output: Box<Output>) {
        let bytes = self.bytes + output.bytes.capacity();
        if self.spare.len() < POOL_MAX && bytes <= POOL_BYTES_MAX {
            self.bytes = bytes;
            output.bytes.clear();
            output.splices.clear();
            output.spliced = 0;
            output.written = 0;
            self.spare.push(output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(output: &Output) -> Vec<u8> {
        let mut slices = Vec::new();
        output.slices(&mut slices);
        slices.iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn spliced_payloads_leave_in_their_place_whatever_was_written_before() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(b"ab");
        output.splice(Bytes::from_static(b"CDE"));
        output.buffer().extend_from_slice(b"f");
        output.splice(Bytes::from_static(b"GH"));
        let all = b"abCDEfGH";
        for written in 0..all.len() {
            assert_eq!(text(&output), &all[written..]);
            assert_eq!(output.len(), all.len() - written);
            output.advance(1);
        }
        assert_eq!(output.len(), 0);
    }

    #[test]
    fn what_was_written_is_dropped_wherever_the_cut_is() {
        for written in 0..=8 {
            let mut output = Output::default();
            output.buffer().extend_from_slice(b"ab");
            output.splice(Bytes::from_static(b"CDE"));
            output.buffer().extend_from_slice(b"f");
            output.splice(Bytes::from_static(b"GH"));
            output.advance(written);
            output.compact();
            assert_eq!(text(&output), &b"abCDEfGH"[written..]);
            assert_eq!(output.len(), 8 - written);
            assert!(output.written < 3, "at most the begun payload is kept");
            output.buffer().extend_from_slice(b"i");
            assert_eq!(text(&output), &b"abCDEfGHi"[written..]);
        }
    }

    #[test]
    fn a_reader_that_is_always_behind_does_not_make_its_output_grow() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(&[7; 100_000]);
        for _ in 0..1_000 {
            output.buffer().extend_from_slice(&[7; 5_000]);
            output.splice(Bytes::from_static(&[8; 5_000]));
            output.advance(10_000);
        }
        assert_eq!(output.len(), 100_000);
        assert!(output.bytes.len() <= 300_000, "{} bytes are kept", output.bytes.len());
        assert!(output.splices.len() <= 60, "{} payloads are kept", output.splices.len());
    }
}
