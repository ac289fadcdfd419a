//! Where a member lies in a struct of the running kernel, read from its BTF. What to ask for belongs to `plan`.
//!
//! rustc emits no CO-RE relocations and aya shows no members, so this is the reader: every length and index in the
//! blob is checked, and anonymous structs and unions are walked.

use std::collections::HashMap;

// include/uapi/linux/btf.h, v6.12.
const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const KIND_MAX: u32 = KIND_ENUM64;

/// How deep anonymous structs and typedef chains are followed; the kernel's are under 8. A cycle ends here.
const DEPTH_MAX: u32 = 16;

/// Why an offset is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Not BTF, or cut short.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
    /// No such struct or member, or the member is of another kind.
    #[error("no {shape} {structure}.{member} in the kernel's BTF")]
    Missing {
        /// What was wanted.
        shape: Shape,
        /// The struct.
        structure: String,
        /// Its member.
        member: String,
    },
}

/// What a member must be for a program to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    U64,
    U32,
    Pointer,
    Array,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::Pointer => "pointer",
            Self::Array => "array",
        })
    }
}

/// A parsed blob: where each type is, and the structs by name.
pub(super) struct Btf<'a> {
    strings: &'a [u8],
    /// Type id less one -> the record; id 0 is void.
    types: Vec<Type<'a>>,
    structs: HashMap<&'a [u8], usize>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    info: u32,
    /// The size of an int or struct, the target of a typedef or qualifier.
    size_or_type: u32,
    rest: &'a [u8],
}

impl Type<'_> {
    fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }
}

impl<'a> Btf<'a> {
    /// Indexes the types of a blob.
    ///
    /// # Errors
    /// [`Error::Malformed`] where a length leads outside, or a kind is not known.
    pub(super) fn parse(blob: &'a [u8]) -> Result<Self, Error> {
        let magic = blob.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(Error::Malformed("magic"));
        }
        let header = |at| word(blob, at).ok_or(Error::Malformed("header"));
        let (header_len, types_at, types_len) = (header(4)?, header(8)?, header(12)?);
        let (strings_at, strings_len) = (header(16)?, header(20)?);
        let section = |at: u32, len: u32| {
            let from = usize::try_from(header_len.checked_add(at)?).ok()?;
            blob.get(from..)?.get(..usize::try_from(len).ok()?)
        };
        let strings = section(strings_at, strings_len).ok_or(Error::Malformed("strings"))?;
        let mut left = section(types_at, types_len).ok_or(Error::Malformed("types"))?;

        let mut btf = Self { strings, types: Vec::new(), structs: HashMap::new() };
        while !left.is_empty() {
            let cut = || Error::Malformed("type record");
            let (name, info) = (word(left, 0).ok_or_else(cut)?, word(left, 4).ok_or_else(cut)?);
            let size_or_type = word(left, 8).ok_or_else(cut)?;
            let len = rest_len(info).ok_or(Error::Malformed("kind"))?;
            let rest = left.get(12..).and_then(|bytes| bytes.get(..len)).ok_or_else(cut)?;
            let found = Type { info, size_or_type, rest };
            if found.kind() == KIND_STRUCT
                && name != 0
                && let Some(name) = btf.string(name)
            {
                btf.structs.entry(name).or_insert(btf.types.len());
            }
            btf.types.push(found);
            left = left.get(12 + len..).unwrap_or_default();
        }
        Ok(btf)
    }

    /// The byte offset of a member of this shape, aligned as one.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none.
    pub(super) fn offset(&self, shape: Shape, structure: &str, member: &str) -> Result<u64, Error> {
        let found = self.structs.get(structure.as_bytes()).and_then(|index| self.types.get(*index));
        let alignment = if shape == Shape::U32 { 32 } else { 64 };
        found
            .and_then(|found| self.find(found, member.as_bytes(), DEPTH_MAX))
            .filter(|(bits, type_id)| bits % alignment == 0 && self.is(shape, *type_id))
            .map(|(bits, _)| bits / 8)
            .ok_or_else(|| Error::Missing { shape, structure: structure.to_owned(), member: member.to_owned() })
    }

    /// Bit offset and type of a member, also inside anonymous members. A bit field's offset is masked by its size in
    /// the upper byte, so it is either refused here or by its type.
    fn find(&self, structure: &Type<'_>, member: &[u8], depth: u32) -> Option<(u64, u32)> {
        let depth = depth.checked_sub(1)?;
        let has_bit_fields = structure.info >> 31 == 1;
        let (members, _) = structure.rest.as_chunks::<12>();
        members.iter().find_map(|record| {
            let (name, type_id, mut offset) = (word(record, 0)?, word(record, 4)?, word(record, 8)?);
            if has_bit_fields {
                if offset >> 24 != 0 {
                    return None;
                }
                offset &= 0x00ff_ffff;
            }
            if name == 0 {
                let inner = self.resolve(type_id)?;
                let is_composite = matches!(inner.kind(), KIND_STRUCT | KIND_UNION);
                let (bits, type_id) = is_composite.then(|| self.find(inner, member, depth))??;
                return Some((u64::from(offset).checked_add(bits)?, type_id));
            }
            (self.string(name)? == member).then_some((u64::from(offset), type_id))
        })
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut type_id: u32) -> Option<&Type<'a>> {
        for _ in 0..DEPTH_MAX {
            let found = self.types.get(usize::try_from(type_id).ok()?.checked_sub(1)?)?;
            match found.kind() {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_TYPE_TAG => type_id = found.size_or_type,
                _ => return Some(found),
            }
        }
        None
    }

    fn is(&self, shape: Shape, type_id: u32) -> bool {
        self.resolve(type_id).is_some_and(|found| match shape {
            Shape::U64 => found.kind() == KIND_INT && found.size_or_type == 8,
            Shape::U32 => found.kind() == KIND_INT && found.size_or_type == 4,
            Shape::Pointer => found.kind() == KIND_PTR,
            Shape::Array => found.kind() == KIND_ARRAY,
        })
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(usize::try_from(offset).ok()?..)?.split(|byte| *byte == 0).next()
    }
}

/// How many bytes follow a type's first twelve.
fn rest_len(info: u32) -> Option<usize> {
    let entries = usize::try_from(info & 0xffff).ok()?;
    match (info >> 24) & 0x1f {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => Some(4),
        KIND_ARRAY => Some(12),
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => Some(entries * 12),
        KIND_ENUM | KIND_FUNC_PROTO => Some(entries * 8),
        kind if kind <= KIND_MAX => Some(0),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a blob: `u64`, `u32`, a typedef, and `sample { u32 small; struct { typedef deep; }; u64 last : 3; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0u64\0u32\0alias\0sample\0small\0deep\0field\0loop\0";
        let at = |name: &str| {
            let pattern = format!("\0{name}\0");
            let found = strings.windows(pattern.len()).position(|window| window == pattern.as_bytes()).unwrap();
            u32::try_from(found + 1).unwrap()
        };
        let info = |kind: u32, entries: u32| kind << 24 | entries;
        let mut types: Vec<u32> = Vec::new();
        types.extend([at("u64"), info(KIND_INT, 0), 8, 64]); // 1
        types.extend([at("u32"), info(KIND_INT, 0), 4, 32]); // 2
        types.extend([at("alias"), info(KIND_TYPEDEF, 0), 1]); // 3
        types.extend([0, info(KIND_STRUCT, 1), 8, at("deep"), 3, 0]); // 4
        types.extend([at("sample"), info(KIND_STRUCT, 3) | 1 << 31, 32]); // 5
        types.extend([at("small"), 2, 0, 0, 4, 128, at("field"), 1, 3 << 24 | 192]);
        types.extend([at("loop"), info(KIND_STRUCT, 1), 8, 0, 6, 0]); // 6: holds itself
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();

        let (types_len, strings_len) = (u32::try_from(types.len()).unwrap(), u32::try_from(strings.len()).unwrap());
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        for value in [24, 0, types_len, types_len, strings_len] {
            blob.extend(value.to_ne_bytes());
        }
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    fn check(member: (&str, &str), expected: Option<u64>) {
        let blob = sample();
        let found = Btf::parse(&blob).unwrap().offset(Shape::U64, member.0, member.1);
        assert_eq!(found.ok(), expected, "{member:?}");
    }

    #[test]
    fn a_member_is_found_also_inside_an_anonymous_struct() {
        check(("sample", "deep"), Some(16));
    }

    #[test]
    fn what_is_not_a_plain_u64_is_refused() {
        check(("sample", "small"), None);
        check(("sample", "field"), None);
        check(("sample", "absent"), None);
        check(("absent", "deep"), None);
        check(("loop", "deep"), None);
    }

    #[test]
    fn a_blob_cut_anywhere_or_with_any_byte_changed_does_no_harm() {
        let blob = sample();
        for len in 0..blob.len() {
            let _ = Btf::parse(&blob[..len]).map(|btf| btf.offset(Shape::U64, "sample", "deep"));
        }
        for at in 0..blob.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut blob = blob.clone();
                blob[at] = value;
                let _ = Btf::parse(&blob).map(|btf| btf.offset(Shape::U64, "sample", "deep"));
            }
        }
    }

    #[test]
    fn the_running_kernels_offsets_are_read_where_it_has_btf() {
        let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(&blob).unwrap();
        for member in ["bytes_received", "tcp_clock_cache"] {
            assert!(btf.offset(Shape::U64, "tcp_sock", member).unwrap() > 0, "{member}");
        }
        assert!(btf.offset(Shape::U64, "tcp_sock", "rcv_nxt").is_err(), "rcv_nxt is a u32");
        assert!(btf.offset(Shape::U32, "tcp_sock", "rcv_nxt").unwrap() > 0);
        assert!(btf.offset(Shape::Pointer, "sock", "sk_socket").unwrap() > 0);
        assert!(btf.offset(Shape::Array, "sk_buff", "cb").unwrap() > 0);
    }
}
