//! What the relay has to know of a packet: IPv4 and TCP headers (RFC 791, RFC 9293), and whose request it carries.

/// A TCP segment as it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) from_port: u16,
    pub(super) to_port: u16,
    pub(super) seq: u32,
    /// The next byte that its sender waits for; of meaning where `ack` is set.
    pub(super) next: u32,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) payload: &'a [u8],
}

impl Segment<'_> {
    /// The sequence number after its payload.
    pub(super) fn end(&self) -> u32 {
        self.seq.wrapping_add(u32::try_from(self.payload.len()).unwrap_or(0))
    }
}

/// Reads a packet; nothing where it is no TCP over IPv4, or cut off.
pub(super) fn segment(packet: &[u8]) -> Option<Segment<'_>> {
    const TCP: u8 = 6;
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let tcp = packet.get(..total)?.get(usize::from(first & 15) * 4..)?;
    let short = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let flags = *tcp.get(13)?;
    Some(Segment {
        from_port: short(0)?,
        to_port: short(2)?,
        seq: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        next: u32::from_be_bytes(tcp.get(8..12)?.try_into().ok()?),
        syn: flags & 0x02 != 0,
        ack: flags & 0x10 != 0,
        payload: tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?,
    })
}

/// The number in a request line's path `/r/<number>` or `/r/<number>/..`, where the payload begins with one.
pub(super) fn request_id(payload: &[u8]) -> Option<u64> {
    let line = payload.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line.get(..line.len().min(64))?).ok()?;
    let (method, target) = line.split_once(' ')?;
    if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    target.strip_prefix("/r/")?.split([' ', '/']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(40 + payload.len()).unwrap();
        let mut bytes = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend([0x1f, 0x40, 0x00, 0x50, 0, 0, 1, 0, 0, 0, 0, 7, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_segment_is_read_and_padding_is_not_payload() {
        let mut bytes = packet(0x12, b"GET /r/42 HTTP/1.1\r\n");
        bytes.extend([0; 6]);
        let segment = segment(&bytes).unwrap();
        assert_eq!((segment.from_port, segment.to_port, segment.seq, segment.next), (8000, 80, 256, 7));
        assert!(segment.syn && segment.ack);
        assert_eq!(request_id(segment.payload), Some(42));
    }

    #[test]
    fn what_is_cut_off_anywhere_is_no_segment() {
        let bytes = packet(0x10, b"x");
        for length in 0..bytes.len() {
            assert_eq!(segment(bytes.get(..length).unwrap()), None, "{length}");
        }
    }

    #[test]
    fn only_a_request_line_of_ours_has_an_id() {
        for (payload, expected) in [
            (b"POST /r/7 HTTP/1.1\r\nhost: x".as_slice(), Some(7)),
            (b"GET /r/70 HTTP/1.1", Some(70)),
            (b"GET /r/71/more HTTP/1.1", Some(71)),
            (b"HTTP/1.1 200 OK\r\n", None),
            (b"body /r/7 x", None),
            (b"", None),
        ] {
            assert_eq!(request_id(payload), expected, "{}", String::from_utf8_lossy(payload));
        }
    }
}
