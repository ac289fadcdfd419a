//! Which route gets a request that several take, where objects say it by hosts and paths: of Ingress and HTTPRoute, on one scale, which
//! is also that of the rules' lengths by which IngressRoutes and the file's routes rank.
//!
//! A route of an exact host has about the length that its rule would have in Traefik. Wildcards, and below them routes without a
//! host, are below all that name a host, and not below a route that somebody gives a priority of 1 so that it is the last: there is
//! room for a few numbers, and their order is in the turn.

/// Of what is the same in all rules: `Host("") && PathPrefix("")`.
const FRAME: i64 = 26;
/// From prefixes to expressions, and from these to whole paths: above the longest path.
const KIND_STEP: i64 = 1 << (PATH_BITS + 1);
const PATH_BITS: u32 = 11;
/// Of wildcards: the shortest rule of a host has 9.
const WILDCARD: i64 = 3;
const NO_HOST: i64 = 2;
/// Of what takes everything, as in Traefik.
const EVERYTHING: i64 = 1;

/// Hosts of which each is one name; wildcards have 1, and none is 0.
const EXACT: i64 = 2;

/// How a path is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum PathKind {
    #[default]
    Prefix,
    Regexp,
    Exact,
}

/// Whose rule it is: each kind has an order of its own among paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Ingress,
    HttpRoute,
}

/// What decides, the first first. Ties are broken by age and name.
#[derive(Debug)]
pub(super) struct Rank {
    of: Of,
    host_kind: i64,
    host: usize,
    pub path_kind: PathKind,
    pub path: usize,
    /// It names a method.
    pub method: bool,
    pub headers: usize,
    pub params: usize,
}

impl Rank {
    /// Of a host, a wildcard, or none.
    pub(super) fn new(of: Of, host: &str) -> Self {
        let host_kind = match host {
            "" => 0,
            name if name.starts_with('*') => 1,
            _ => EXACT,
        };
        let path_kind = PathKind::default();
        Self { of, host_kind, host: host.len(), path_kind, path: 0, method: false, headers: 0, params: 0 }
    }

    /// Never 0, which means the rule's own.
    pub(super) fn priority(&self) -> i64 {
        let kind = self.path_kind as i64;
        // An exact path of an Ingress is before a prefix of the same length, and behind a longer one, which it cannot meet. Of an
        // HTTPRoute it is before expressions, which any path may meet, and its prefix is before an Ingress's of the same length.
        let path = 2 * within(self.path, PATH_BITS)
            + match self.of {
                Of::Ingress => i64::from(self.path_kind == PathKind::Exact),
                Of::HttpRoute => 1 + kind * KIND_STEP,
            };
        match self.host_kind {
            EXACT => FRAME + within(self.host, 8) + path,
            1 => WILDCARD,
            _ if kind == 0 && self.path == 0 && !self.asks_more() => EVERYTHING,
            _ => NO_HOST,
        }
    }

    /// Beside host and path.
    fn asks_more(&self) -> bool {
        self.method || self.headers + self.params > 0
    }

    /// The order among those of one priority, as a text of one length.
    pub(super) fn turn(&self) -> String {
        let fields = [
            (self.host_kind, 2),
            (within(self.host, 8), 8),
            (self.path_kind as i64, 2),
            (within(self.path, PATH_BITS), PATH_BITS),
            (i64::from(self.method), 1),
            (within(self.headers, 5), 5),
            (within(self.params, 5), 5),
        ];
        let bits: u32 = fields.iter().map(|(_, bits)| bits).sum();
        let number = fields.into_iter().fold(0, |number, (value, bits)| (number << bits) | value);
        format!("{:09x}", (1_i64 << bits) - 1 - number)
    }
}

fn within(count: usize, bits: u32) -> i64 {
    let most = (1_i64 << bits) - 1;
    i64::try_from(count).unwrap_or(most).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_asks_for_nothing_takes_everything() {
        let plain = || Rank::new(Of::HttpRoute, "");
        assert_eq!(plain().priority(), EVERYTHING);
        for asking in [
            Rank { method: true, ..plain() },
            Rank { headers: 1, ..plain() },
            Rank { params: 1, ..plain() },
            Rank { path: 1, ..plain() },
        ] {
            assert_eq!(asking.priority(), NO_HOST, "{asking:?}");
        }
    }

    #[test]
    fn priorities_and_turns_are_one_order() {
        // Of requests that both take: of one exact host, or of wildcards and none.
        for hosts in [&["a.example"][..], &["*.a.example", "*.example", ""]] {
            let mut all = Vec::new();
            for host in hosts {
                for path_kind in [PathKind::Exact, PathKind::Regexp, PathKind::Prefix] {
                    for path in [5000, 2046, 4, 1, 0] {
                        for (method, headers, params) in [(true, 0, 0), (false, 1, 0), (false, 0, 40), (false, 0, 0)] {
                            let rank = Rank::new(Of::HttpRoute, host);
                            all.push(Rank { path_kind, path, method, headers, params, ..rank });
                        }
                    }
                }
            }
            let order: Vec<_> = all.iter().map(|rank| (std::cmp::Reverse(rank.priority()), rank.turn())).collect();
            assert!(order.is_sorted(), "{hosts:?}");
            assert!(all.iter().all(|rank| (1..100_000).contains(&rank.priority())));
            assert!(all.iter().all(|rank| rank.turn().len() == 9));
        }
    }
}
