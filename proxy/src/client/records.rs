//! Where TLS records begin and end in a client's stream, and handing them over one by one: so of each byte of plaintext it
//! is known which bytes on the wire it came in. Pure; what records hold is rustls' to say.

use std::io;
use std::ops::Range;

/// A record's type, version and length (RFC 8446, 5.1).
const HEADER_BYTES: usize = 5;
/// What a record may hold at most: rustls refuses longer ones, too (RFC 5246, 6.2.3; RFC 8446, 5.2 is stricter).
const PAYLOAD_BYTES_MAX: usize = (1 << 14) + 2048;

/// Bytes of records on their way from the socket to rustls.
#[derive(Debug, Default)]
pub(super) struct Records {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that are known.
    known: usize,
    /// Bytes of the payload to come.
    left: usize,
    /// Stream offset of the record under way, or of the next.
    start: u64,
    /// Stream offset of the next byte to hand over.
    at: u64,
    /// Read from the socket and not handed over.
    unfed: Vec<u8>,
    /// How much of `unfed` was handed over.
    fed: usize,
}

/// What was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// There was nothing.
    Nothing,
    /// A part of a record.
    Part,
    /// The end of a record, and where on the wire it lies.
    Whole(Range<u64>),
}

impl Records {
    /// Bytes that were read from the socket.
    pub(super) fn read_bytes(&self) -> u64 {
        self.at + self.waiting()
    }

    /// Where on the wire the next record to be handed over begins.
    pub(super) fn next_start(&self) -> u64 {
        self.start
    }

    /// Nothing waits to be handed over, and no record is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.known == 0
    }

    fn waiting(&self) -> u64 {
        u64::try_from(self.unfed.len().saturating_sub(self.fed)).unwrap_or(0)
    }

    /// Hands over what waits, up to the end of a record.
    pub(super) fn feed_waiting(&mut self, feed: impl FnMut(&mut &[u8]) -> io::Result<usize>) -> io::Result<Piece> {
        if self.waiting() == 0 {
            return Ok(Piece::Nothing);
        }
        let unfed = std::mem::take(&mut self.unfed);
        let fed = self.fed;
        let bytes = unfed.get(fed..).unwrap_or_default();
        let given = self.give(bytes, feed);
        let (used, piece) = given?;
        self.fed = fed + used;
        if self.fed < unfed.len() {
            self.unfed = unfed;
        } else {
            // A quiet connection holds no buffer.
            self.fed = 0;
        }
        Ok(piece)
    }

    /// Hands over what was just read, up to the end of a record; the rest waits. Nothing may wait already.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        feed: impl FnMut(&mut &[u8]) -> io::Result<usize>,
    ) -> io::Result<Piece> {
        let (used, piece) = self.give(bytes, feed)?;
        self.unfed = bytes.get(used..).unwrap_or_default().to_vec();
        self.fed = 0;
        Ok(piece)
    }

    fn give(
        &mut self,
        bytes: &[u8],
        mut feed: impl FnMut(&mut &[u8]) -> io::Result<usize>,
    ) -> io::Result<(usize, Piece)> {
        let mut used = 0;
        for byte in bytes.iter().take(HEADER_BYTES - self.known) {
            if let Some(place) = self.header.get_mut(self.known) {
                *place = *byte;
            }
            self.known += 1;
            used += 1;
            if self.known == HEADER_BYTES {
                let [.., high, low] = self.header;
                self.left = usize::from(u16::from_be_bytes([high, low]));
                if self.left > PAYLOAD_BYTES_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a record longer than any may be"));
                }
            }
        }
        if self.known == HEADER_BYTES {
            let payload = self.left.min(bytes.len() - used);
            self.left -= payload;
            used += payload;
        }
        let mut given = bytes.get(..used).unwrap_or_default();
        // Behind the peer's goodbye rustls takes nothing more.
        while !given.is_empty() && feed(&mut given)? > 0 {}
        self.at += u64::try_from(used).unwrap_or(0);
        if self.known < HEADER_BYTES || self.left > 0 {
            return Ok((used, Piece::Part));
        }
        let whole = self.start..self.at;
        (self.known, self.start) = (0, self.at);
        Ok((used, Piece::Whole(whole)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3];
        bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
        bytes.extend((0..payload).map(|i| u8::try_from(i % 251).unwrap()));
        bytes
    }

    /// Reads of these sizes: all records, and all bytes as they were handed over.
    fn read(stream: &[u8], sizes: impl Iterator<Item = usize>) -> (Vec<Range<u64>>, Vec<u8>) {
        let (mut records, mut whole, mut got) = (Records::default(), Vec::new(), Vec::new());
        let mut rest = stream;
        // Like rustls, it takes a part at a time.
        let mut take = |bytes: &mut &[u8]| {
            let (now, later) = bytes.split_at(bytes.len().min(4096));
            got.extend_from_slice(now);
            *bytes = later;
            Ok(now.len())
        };
        for size in sizes {
            let (now, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let mut piece = records.feed(now, &mut take).unwrap();
            loop {
                match piece {
                    Piece::Whole(range) => whole.push(range),
                    Piece::Part => {}
                    Piece::Nothing => break,
                }
                piece = records.feed_waiting(&mut take).unwrap();
            }
            assert_eq!(records.read_bytes(), u64::try_from(stream.len() - rest.len()).unwrap());
        }
        assert!(records.is_idle() && rest.is_empty());
        (whole, got)
    }

    #[test]
    fn records_are_found_however_the_stream_is_cut_into_reads() {
        let stream = [record(1), record(0), record(300), record(PAYLOAD_BYTES_MAX), record(7)].concat();
        let ends = [6, 11, 316, 316 + 5 + 18_432, 316 + 5 + 18_432 + 12];
        let starts = [0, 6, 11, 316, 316 + 5 + 18_432];
        let wanted: Vec<_> = starts.into_iter().zip(ends).map(|(start, end)| start..end).collect();
        for cut in [1, 2, 3, 4, 5, 6, 7, 11, 100, 4096, 16_384, 20_000] {
            let (whole, got) = read(&stream, std::iter::repeat_n(cut, stream.len().div_ceil(cut)));
            assert_eq!(whole, wanted, "reads of {cut}");
            assert!(got == stream, "reads of {cut}");
        }
        // One cut at every byte.
        let short = [record(3), record(9)].concat();
        for cut in 0..short.len() {
            assert_eq!(read(&short, [cut, short.len()].into_iter()).0, [0..8, 8..22], "cut at {cut}");
        }
    }

    #[test]
    fn a_length_that_no_record_has_is_refused() {
        let mut records = Records::default();
        let refused = records.feed(&[22, 3, 1, 0xff, 0xff, 0], |_| panic!("nothing is handed over"));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn who_takes_nothing_more_ends_the_handing_over() {
        let mut records = Records::default();
        assert_eq!(records.feed(&record(9), |_| Ok(0)).unwrap(), Piece::Whole(0..14));
    }
}
