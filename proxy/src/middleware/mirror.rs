//! The Gateway API's `RequestMirror`: a copy of some of the requests goes to another service, whose answers nobody sees.

/// Who gets copies, and of how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go: the service at this place of [`crate::snapshot::Snapshot::services`].
    pub service: u32,
    /// How many requests are copied.
    pub share: Share,
}

/// Some of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many,
    pub some: u32,
    /// of so many.
    pub of: u32,
}

impl Share {
    /// Each one.
    pub const ALL: Self = Self { some: 1, of: 1 };

    /// Whether this one is among them.
    pub fn takes(self, random: &mut fastrand::Rng) -> bool {
        self.some >= self.of || random.u32(0..self.of) < self.some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_about_as_many_as_it_says() {
        let mut random = fastrand::Rng::with_seed(7);
        for (share, least, most) in [
            (Share::ALL, 10_000, 10_000),
            (Share { some: 0, of: 100 }, 0, 0),
            (Share { some: 20, of: 100 }, 1_800, 2_200),
            (Share { some: 25, of: 50 }, 4_800, 5_200),
            (Share { some: 1, of: 0 }, 10_000, 10_000),
        ] {
            let taken = (0..10_000).filter(|_| share.takes(&mut random)).count();
            assert!((least..=most).contains(&taken), "{share:?} took {taken}");
        }
    }
}
