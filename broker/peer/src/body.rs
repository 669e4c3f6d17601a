//! A body to be sent: the parts it is made of, none of them copied.

use bytes::{Bytes, BytesMut};

/// The body of a message on its way out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Body {
    parts: Vec<Bytes>,
    len: usize,
}

impl Body {
    /// Adds what comes behind the rest. Empty parts are left out.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In one piece; copies unless it is.
    pub fn to_bytes(&self) -> Bytes {
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            [..] => {
                let mut all = BytesMut::with_capacity(self.len);
                self.parts.iter().for_each(|part| all.extend_from_slice(part));
                all.freeze()
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(part: Bytes) -> Self {
        let mut body = Self::default();
        body.push(part);
        body
    }
}

/// Takes a body off piece by piece, each byte once.
#[derive(Debug)]
pub(crate) struct Cursor {
    body: Body,
    part: usize,
    /// In that part.
    at: usize,
    left: usize,
}

impl Cursor {
    pub(crate) fn new(body: Body) -> Self {
        let left = body.len;
        Self { body, part: 0, at: 0, left }
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Appends the next `len` bytes, or what is left, to `out`.
    pub(crate) fn take(&mut self, len: usize, out: &mut Vec<Bytes>) {
        let mut wanted = len.min(self.left);
        self.left -= wanted;
        while wanted > 0 {
            let part = &mut self.body.parts[self.part];
            let bytes = wanted.min(part.len() - self.at);
            out.push(part.slice(self.at..self.at + bytes));
            self.at += bytes;
            wanted -= bytes;
            if self.at == part.len() {
                // Let go of at once: it may be large, and others may wait for it.
                *part = Bytes::new();
                self.part += 1;
                self.at = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_taken_off_in_pieces_of_any_size() {
        let parts: [&'static [u8]; 4] = [b"ab", b"", b"cdefg", b"h"];
        for step in 1..10 {
            let mut body = Body::default();
            parts.into_iter().for_each(|part| body.push(Bytes::from_static(part)));
            assert_eq!((body.len(), &body.to_bytes()[..]), (8, &b"abcdefgh"[..]));
            let (mut cursor, mut out) = (Cursor::new(body), Vec::new());
            while cursor.left() > 0 {
                cursor.take(step, &mut out);
            }
            assert_eq!(out.concat(), b"abcdefgh", "in steps of {step}");
        }
    }
}
