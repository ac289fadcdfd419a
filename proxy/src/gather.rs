//! What hyper writes in several slices, as one where that is cheap: send(2) takes the kernel less than writev(2), and than
//! what copying a little together costs.

use std::io::IoSlice;

/// Up to so many bytes the copy costs less than what writev(2) takes longer than send(2).
const GATHERED_MAX: usize = 2048;

/// The bytes of all slices in one: of a single one as they are, of several as a copy if they are few.
pub(crate) fn gather<'s>(slices: &'s [IoSlice<'_>], scratch: &'s mut [u8]) -> Option<&'s [u8]> {
    if let [one] = slices {
        return Some(one);
    }
    let mut filled = 0;
    for slice in slices {
        let end = filled + slice.len();
        if end > GATHERED_MAX {
            return None;
        }
        scratch.get_mut(filled..end)?.copy_from_slice(slice);
        filled = end;
    }
    scratch.get(..filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_are_gathered_in_their_order_and_many_are_left_where_they_are() {
        let (head, body, much) = (b"head".as_slice(), b"body".as_slice(), [0; GATHERED_MAX]);
        let mut scratch = [1; 2 * GATHERED_MAX];
        let slices = [head, b"", body].map(IoSlice::new);
        assert_eq!(gather(&slices, &mut scratch), Some(b"headbody".as_slice()));
        assert_eq!(gather(&[IoSlice::new(head), IoSlice::new(&much)], &mut scratch), None);
        assert_eq!(gather(&slices, &mut [0; 7]), None, "more than there is room for");
        assert_eq!(
            gather(&[IoSlice::new(head), IoSlice::new(&much[4..])], &mut scratch).map(<[u8]>::len),
            Some(GATHERED_MAX)
        );
        assert_eq!(gather(&[IoSlice::new(&much)], &mut scratch), Some(much.as_slice()));
        let one = [0; 2 * GATHERED_MAX];
        assert_eq!(gather(&[IoSlice::new(&one)], &mut []), Some(one.as_slice()), "one alone is not copied");
    }
}
