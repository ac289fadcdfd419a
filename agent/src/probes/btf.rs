//! What the probes must know of the running kernel's types, read from its BTF: where a member lies in a struct, and the
//! ids of tracepoints' typedefs. What to ask for belongs to `plan`.
//!
//! rustc emits no CO-RE relocations and aya shows no members, so this is the reader: every length and index in the
//! blob is checked, and anonymous structs and unions are walked. Of the kernel's 126,000 types half a dozen are wanted, so
//! they are looked for and not kept: the blob alone is 5.5 MB, and all of it parsed took 45.

// include/uapi/linux/btf.h, v6.12.
const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const KIND_MAX: u32 = KIND_ENUM64;

/// The header's size, and of the part that all types have.
const HEADER_LEN: u32 = 24;
const TYPE_LEN: usize = 12;

/// Every so many types one's place is kept: a type is found by its id in a few hundred nanoseconds, and the places of
/// all the kernel's types take 8 KiB.
const PLACE_EVERY: usize = 256;

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

/// What a program is attached to, as the kernel's types have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Typedef,
    Function,
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

/// A blob whose lengths are right.
pub(super) struct Btf<'a> {
    strings: &'a [u8],
    types: Types<'a>,
    /// Where the types with the ids 1, 1 + [`PLACE_EVERY`], .. begin.
    places: Vec<Types<'a>>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
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

/// The types from some place on; the first of all has id 1, since 0 is void. Ends early at what is no type.
#[derive(Clone, Copy)]
struct Types<'a> {
    left: &'a [u8],
}

impl<'a> Iterator for Types<'a> {
    type Item = Type<'a>;

    fn next(&mut self) -> Option<Type<'a>> {
        let (name, info, size_or_type) = (word(self.left, 0)?, word(self.left, 4)?, word(self.left, 8)?);
        let (rest, left) = self.left.get(TYPE_LEN..)?.split_at_checked(rest_len(info)?)?;
        self.left = left;
        Some(Type { name, info, size_or_type, rest })
    }
}

impl<'a> Btf<'a> {
    /// Checks a blob.
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
        let types = Types { left: section(types_at, types_len).ok_or(Error::Malformed("types"))? };
        let (mut places, mut left) = (Vec::new(), types);
        while !left.left.is_empty() {
            places.push(left);
            left.by_ref().take(PLACE_EVERY).for_each(drop);
            if places.last().is_some_and(|place| place.left.len() == left.left.len()) {
                return Err(Error::Malformed("type record"));
            }
        }
        Ok(Self { strings, types, places })
    }

    /// A blob of the types with these names under the ids that they have here, and nothing else of use: all that aya reads
    /// of the kernel's types to attach a program. Names that are not here are not there either.
    pub(super) fn only(&self, names: &[(Kind, String)]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut types: Vec<[u32; 3]> = Vec::new();
        for (kind, name) in names {
            let kind = match kind {
                Kind::Typedef => KIND_TYPEDEF,
                Kind::Function => KIND_FUNC,
            };
            let Some((index, _)) = self.named(kind, name.as_bytes()) else { continue };
            if types.len() <= index {
                types.resize(index + 1, [0, KIND_FWD << 24, 0]);
            }
            if let (Some(place), Ok(at)) = (types.get_mut(index), u32::try_from(strings.len())) {
                *place = [at, kind << 24, 0];
            }
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        let types: Vec<u8> = types.into_iter().flatten().flat_map(u32::to_ne_bytes).collect();
        blob(&types, &strings)
    }

    /// The first type of that kind and name, and its id less one.
    fn named(&self, kind: u32, name: &[u8]) -> Option<(usize, Type<'a>)> {
        self.types.enumerate().find(|(_, found)| found.kind() == kind && self.is_name(found.name, name))
    }

    fn by_id(&self, type_id: u32) -> Option<Type<'a>> {
        let index = usize::try_from(type_id).ok()?.checked_sub(1)?;
        let mut place = *self.places.get(index / PLACE_EVERY)?;
        place.nth(index % PLACE_EVERY)
    }

    /// The byte offset of a member of this shape, aligned as one.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none.
    pub(super) fn offset(&self, shape: Shape, structure: &str, member: &str) -> Result<u64, Error> {
        let alignment = if shape == Shape::U32 { 32 } else { 64 };
        self.named(KIND_STRUCT, structure.as_bytes())
            .and_then(|(_, found)| self.find(&found, member.as_bytes(), DEPTH_MAX))
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
                let (bits, type_id) = is_composite.then(|| self.find(&inner, member, depth))??;
                return Some((u64::from(offset).checked_add(bits)?, type_id));
            }
            self.is_name(name, member).then_some((u64::from(offset), type_id))
        })
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut type_id: u32) -> Option<Type<'a>> {
        for _ in 0..DEPTH_MAX {
            let found = self.by_id(type_id)?;
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

    fn is_name(&self, offset: u32, name: &[u8]) -> bool {
        let string = usize::try_from(offset).ok().and_then(|offset| self.strings.get(offset..));
        string.and_then(|string| string.strip_prefix(name)).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// A blob of these sections.
fn blob(types: &[u8], strings: &[u8]) -> Vec<u8> {
    let len = |section: &[u8]| u32::try_from(section.len()).unwrap_or(u32::MAX);
    let mut blob = MAGIC.to_ne_bytes().to_vec();
    blob.extend([1, 0]);
    for value in [HEADER_LEN, 0, len(types), len(types), len(strings)] {
        blob.extend(value.to_ne_bytes());
    }
    blob.extend(types);
    blob.extend(strings);
    blob
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
        blob(&types, strings)
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
        let ask = |btf: &Btf<'_>| {
            (btf.offset(Shape::U64, "sample", "deep"), btf.only(&[(Kind::Typedef, "alias".to_owned())]))
        };
        let blob = sample();
        for len in 0..blob.len() {
            let _ = Btf::parse(&blob[..len]).map(|btf| ask(&btf));
        }
        for at in 0..blob.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut blob = blob.clone();
                blob[at] = value;
                let _ = Btf::parse(&blob).map(|btf| ask(&btf));
            }
        }
    }

    #[test]
    fn typedefs_keep_their_ids_in_what_is_left_of_the_blob() {
        let blob = sample();
        let left =
            Btf::parse(&blob).unwrap().only(&["alias", "absent", "u64"].map(|name| (Kind::Typedef, name.to_owned())));
        let ids =
            |name: &str| Btf::parse(&left).unwrap().named(KIND_TYPEDEF, name.as_bytes()).map(|(index, _)| index + 1);
        assert_eq!((ids("alias"), ids("absent"), ids("u64")), (Some(3), None, None));
        assert!(aya::Btf::parse(&left, aya::Endianness::default()).is_ok(), "and aya reads it");
    }

    #[test]
    fn a_type_is_found_by_its_id_wherever_it_stands() {
        let types: Vec<u8> =
            (0..1000_u32).flat_map(|size| [0, KIND_FWD << 24, size]).flat_map(u32::to_ne_bytes).collect();
        let blob = blob(&types, &[0]);
        let btf = Btf::parse(&blob).unwrap();
        for id in [1, 2, 256, 257, 258, 512, 513, 1000] {
            assert_eq!(btf.by_id(id).map(|found| found.size_or_type), Some(id - 1), "id {id}");
        }
        assert!(btf.by_id(0).is_none() && btf.by_id(1001).is_none());
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
