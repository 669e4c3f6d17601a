//! A cursor over the body of one packet. Whatever is missing is `Truncated`.

use crate::error::refuse;
use crate::{DecodeError, PacketType, Version, defect};

/// The unread rest of a body, and whose it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    packet: PacketType,
    version: Version,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(rest: &'a [u8], packet: PacketType, version: Version) -> Reader<'a> {
        Reader { rest, packet, version }
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn packet(&self) -> PacketType {
        self.packet
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Truncated(self.packet));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let Some((&byte, rest)) = self.rest.split_first() else {
            return Err(DecodeError::Truncated(self.packet));
        };
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<2>() else {
            return Err(DecodeError::Truncated(self.packet));
        };
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<4>() else {
            return Err(DecodeError::Truncated(self.packet));
        };
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A variable byte integer of up to four bytes, in its shortest form.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u32::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for at in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * at);
            if byte < 0x80 {
                // [MQTT-1.5.5-1]
                if at > 0 && byte == 0 {
                    refuse("5:1.5.5-1", DecodeError::NonMinimalLength)?;
                }
                return Ok(value);
            }
        }
        Err(DecodeError::MalformedVarint(self.packet))
    }

    /// Two bytes of length, then that many bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string as MQTT wants it: well formed and without U+0000. A byte
    /// order mark is kept [MQTT-1.5.4-3].
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        self.string_of("", "")
    }

    /// As [`string`](Self::string), for a field of which the standards have a
    /// statement of its own: its ids in 5.0 and in 3.1.1.
    pub(crate) fn string_of(
        &mut self,
        five: &'static str,
        three: &'static str,
    ) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => not_utf8(self.packet, self.version, self.version.pick(five, three))?,
        };
        // [MQTT-1.5.4-2] [MQTT-1.5.3-2 of 3.1.1]
        if has_nul(bytes) {
            let statement = self.version.pick("5:1.5.4-2", "3:1.5.3-2");
            refuse(statement, DecodeError::NulInString(self.packet))?;
        }
        // [MQTT-1.5.4-3] [MQTT-1.5.3-3 of 3.1.1]
        if bytes.first() == Some(&0xEF) && defect::on(self.version.pick("5:1.5.4-3", "3:1.5.3-3")) {
            return Ok(text.trim_start_matches('\u{FEFF}'));
        }
        Ok(text)
    }

    /// The length-prefixed list of a 5.0 packet, as a reader of its own.
    #[inline]
    pub(crate) fn property_list(&mut self) -> Result<Reader<'a>, DecodeError> {
        // [MQTT-2.2.2-1]: a list that is empty says so.
        if self.rest.is_empty() && defect::on("5:2.2.2-1") {
            return Ok(*self);
        }
        let length = self.varint()?;
        let list = self.take(length as usize)?;
        Ok(Reader { rest: list, packet: self.packet, version: self.version })
    }

    /// A packet identifier, which is never 0.
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        let id = self.u16()?;
        if id == 0 {
            // [MQTT-2.2.1-3] [MQTT-2.3.1-1 of 3.1.1]
            let statement = self.version.pick("5:2.2.1-3", "3:2.3.1-1");
            refuse(statement, DecodeError::ZeroPacketId(self.packet))?;
        }
        Ok(id)
    }

    /// Nothing may be left behind the last field.
    #[inline]
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::TrailingBytes(self.packet, self.rest.len() as u32))
    }
}

/// Whether any byte is 0. The names and values of properties are mostly shorter
/// than what a call of `memchr` costs.
#[inline]
fn has_nul(bytes: &[u8]) -> bool {
    match bytes.len() {
        0..=32 => bytes.iter().fold(false, |found, byte| found | (*byte == 0)),
        _ => bytes.contains(&0),
    }
}

/// Refuses a string, under the general statement or the field's own. With the
/// defect planted something stands in for it, as a `str` cannot hold the bytes.
#[cold]
pub(crate) fn not_utf8(
    packet: PacketType,
    version: Version,
    field: &'static str,
) -> Result<&'static str, DecodeError> {
    if !defect::on(field) {
        // [MQTT-1.5.4-1] [MQTT-1.5.3-1 of 3.1.1]
        refuse(version.pick("5:1.5.4-1", "3:1.5.3-1"), DecodeError::NotUtf8(packet))?;
    }
    Ok("\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader::new(bytes, PacketType::Publish, Version::V5)
    }

    #[test]
    fn variable_byte_integers_are_read_to_their_edges() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x7F], 127),
            (&[0x80, 0x01], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 0x01], 16_384),
            (&[0xFF, 0xFF, 0x7F], 2_097_151),
            (&[0x80, 0x80, 0x80, 0x01], 2_097_152),
            (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            assert_eq!(reader(bytes).varint(), Ok(value));
        }
    }

    #[test]
    fn variable_byte_integers_are_short_and_end() {
        use DecodeError::*;
        for (bytes, error) in [
            (&[][..], Truncated(PacketType::Publish)),
            (&[0x80], Truncated(PacketType::Publish)),
            (&[0xFF, 0xFF, 0xFF], Truncated(PacketType::Publish)),
            (&[0x80, 0x00], NonMinimalLength),
            (&[0xFF, 0x80, 0x00], NonMinimalLength),
            (&[0x80, 0x80, 0x80, 0x00], NonMinimalLength),
            (&[0xFF, 0xFF, 0xFF, 0xFF], MalformedVarint(PacketType::Publish)),
            (&[0x80, 0x80, 0x80, 0x80, 0x01], MalformedVarint(PacketType::Publish)),
        ] {
            assert_eq!(reader(bytes).varint(), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn strings_are_utf8_without_nul_and_keep_their_byte_order_mark() {
        assert_eq!(reader(b"\0\x03\xEF\xBB\xBF").string(), Ok("\u{FEFF}"));
        assert_eq!(reader(b"\0\x04\xF4\x8F\xBF\xBF").string(), Ok("\u{10FFFF}"));
        for bad in [
            &b"\0\x01\xFF"[..],
            b"\0\x02\xC0\x80",         // overlong U+0000
            b"\0\x02\xC1\xBF",         // overlong ASCII
            b"\0\x03\xE0\x80\xAF",     // overlong slash
            b"\0\x03\xED\xA0\x80",     // surrogate U+D800
            b"\0\x03\xED\xBF\xBF",     // surrogate U+DFFF
            b"\0\x04\xF4\x90\x80\x80", // above U+10FFFF
            b"\0\x02\xE2\x82",         // cut short
            b"\0\x01\x80",             // a lone continuation
        ] {
            assert_eq!(reader(bad).string(), Err(DecodeError::NotUtf8(PacketType::Publish)));
        }
        let nul = DecodeError::NulInString(PacketType::Publish);
        assert_eq!(reader(b"\0\x03a\0b").string(), Err(nul));
        assert_eq!(reader(b"\0\x03ab").string(), Err(DecodeError::Truncated(PacketType::Publish)));
    }
}
