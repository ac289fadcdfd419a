//! Protobuf's wire format as far as OTLP's trace messages need it: appends to one buffer, allocates nothing itself.
//! What the messages say is `span`'s and `resource`'s.

use super::peer::Encoded;

/// Wire types, the low three bits of a field's tag (protobuf encoding guide, "Message Structure").
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;

/// The tag of a field numbered below 16: one byte.
const fn tag(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

/// The tag of a field that has a length: strings, bytes, messages.
pub(super) const fn length_tag(field: u8) -> u8 {
    tag(field, LENGTH)
}

const KEY: u8 = length_tag(1);
const VALUE: u8 = length_tag(2);
/// `AnyValue.string_value`, `bool_value`, `int_value`, `double_value`, `array_value`; `ArrayValue.values`.
const STRING_VALUE: u8 = length_tag(1);
const BOOL_VALUE: u8 = tag(2, VARINT);
const INT_VALUE: u8 = tag(3, VARINT);
const DOUBLE_VALUE: u8 = tag(4, FIXED64);
const ARRAY_VALUE: u8 = length_tag(5);
const ARRAY_VALUES: u8 = length_tag(1);

/// Appends a number, seven bits a byte, the lowest first.
#[inline]
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_bits(value) | 0x80);
        value >>= 7;
    }
    out.push(low_bits(value));
}

#[inline]
fn low_bits(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7f
}

/// How many bytes a number takes.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    // One byte per started seven bits, at least one.
    usize::try_from((63 - (value | 1).leading_zeros()) / 7 + 1).unwrap_or(1)
}

/// `length_tag(field) length bytes`.
#[inline]
pub(super) fn bytes(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length @ ..0x80) => out.extend_from_slice(&[tag, length]),
        _ => {
            out.push(tag);
            varint(out, value.len() as u64);
        }
    }
    out.extend_from_slice(value);
}

/// A number of an enum or counter; zero is the default and not written.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(tag(field, VARINT));
        varint(out, value);
    }
}

/// Eight bytes, little-endian; zero is the default and not written.
#[inline]
pub(super) fn fixed64(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(tag(field, FIXED64));
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// A message whose length is known only when it is written. Nearly all are 128 to 16,383 bytes long: two bytes are
/// kept free for the length, and the rare other sizes move the message by a byte.
pub(super) fn message(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    fill(out);
    let length = (out.len() - at - 2) as u64;
    if let (0x80..=0x3fff, Some([low, high])) = (length, out.get_mut(at..at + 2)) {
        *low = low_bits(length) | 0x80;
        *high = low_bits(length >> 7);
    } else {
        let mut prefix = Vec::with_capacity(4);
        varint(&mut prefix, length);
        out.splice(at..at + 2, prefix);
    }
}

/// Writes `KeyValue`s, each as a field of the message around it.
#[derive(Debug)]
pub(super) struct Attributes<'o> {
    out: &'o mut Vec<u8>,
    tag: u8,
}

impl<'o> Attributes<'o> {
    /// `tag` is that of the repeated `KeyValue` field: 9 in a span, 1 in a resource.
    pub(super) fn new(out: &'o mut Vec<u8>, tag: u8) -> Self {
        Self { out, tag }
    }

    /// The key, and the head of a value that is `value_len` bytes long.
    #[inline]
    fn open(&mut self, key: &str, value_len: usize) {
        let length = 4 + key.len() + value_len;
        if let (Ok(length @ ..0x80), Ok(key_len), Ok(value_len)) =
            (u8::try_from(length), u8::try_from(key.len()), u8::try_from(value_len))
        {
            // All lengths take one byte, as for most attributes: a third of the time.
            self.out.extend_from_slice(&[self.tag, length, KEY, key_len]);
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(&[VALUE, value_len]);
            return;
        }
        let (key_len, value_len) = (key.len() as u64, value_len as u64);
        let length = 1 + varint_len(key_len) as u64 + key_len + 1 + varint_len(value_len) as u64 + value_len;
        self.out.push(self.tag);
        varint(self.out, length);
        bytes(self.out, KEY, key.as_bytes());
        self.out.push(VALUE);
        varint(self.out, value_len);
    }

    /// What was encoded before, for a span.
    #[inline]
    pub(super) fn encoded(&mut self, attributes: &Encoded) {
        self.out.extend_from_slice(attributes.bytes());
    }

    /// A string.
    #[inline]
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.open(key, text_value_len(value));
        bytes(self.out, STRING_VALUE, value.as_bytes());
    }

    /// A whole number.
    #[inline]
    pub(super) fn int(&mut self, key: &str, value: u64) {
        self.open(key, 1 + varint_len(value));
        self.out.push(INT_VALUE);
        varint(self.out, value);
    }

    /// A number with a fraction.
    pub(super) fn double(&mut self, key: &str, value: f64) {
        self.open(key, 9);
        self.out.push(DOUBLE_VALUE);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &str, value: bool) {
        self.open(key, 2);
        self.out.extend_from_slice(&[BOOL_VALUE, u8::from(value)]);
    }

    /// A list of strings.
    pub(super) fn texts<'t>(&mut self, key: &str, values: impl Iterator<Item = &'t str> + Clone) {
        let sized = |len: usize| 1 + varint_len(len as u64) + len;
        let array = values.clone().map(|value| sized(text_value_len(value))).sum();
        self.open(key, sized(array));
        self.out.push(ARRAY_VALUE);
        varint(self.out, array as u64);
        for value in values {
            self.out.push(ARRAY_VALUES);
            varint(self.out, text_value_len(value) as u64);
            bytes(self.out, STRING_VALUE, value.as_bytes());
        }
    }
}

#[inline]
fn text_value_len(value: &str) -> usize {
    1 + varint_len(value.len() as u64) + value.len()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn numbers_take_as_many_bytes_as_protobuf_gives_them() {
        for value in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, u64::MAX - (1 << bit)]).chain([u64::MAX]) {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            varint(&mut ours, value);
            prost::encoding::encode_varint(value, &mut theirs);
            assert_eq!((&ours, varint_len(value)), (&theirs, theirs.len()));
        }
    }

    #[test]
    fn a_message_of_any_length_has_the_shortest_length() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let mut out = Vec::new();
            message(&mut out, length_tag(1), |out| out.extend(std::iter::repeat_n(7, length)));
            let mut theirs = Vec::new();
            bytes(&mut theirs, length_tag(1), &vec![7; length]);
            assert_eq!(out, theirs);
        }
    }

    #[test]
    fn every_kind_of_attribute_is_read_by_prost_and_written_back_equal() {
        let long = "x".repeat(300);
        let mut out = Vec::new();
        let mut attributes = Attributes::new(&mut out, length_tag(1));
        attributes.text("k", &long);
        attributes.text("empty", "");
        attributes.int("i", u64::MAX >> 1);
        attributes.double("d", 0.25);
        attributes.flag("b", true);
        attributes.texts("list", ["a", "", long.as_str()].into_iter());
        attributes.texts("none", std::iter::empty());
        let resource = opentelemetry_proto::tonic::resource::v1::Resource::decode(out.as_slice()).unwrap();
        assert_eq!(resource.attributes.len(), 7);
        assert_eq!(resource.encode_to_vec(), out);
    }
}
