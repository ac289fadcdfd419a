//! Traefik's `inFlightReq`: so many requests of one source at once, in all workers together.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use http::request::Parts;

use super::source::Source;
use super::{Answer, Client};

/// Traefik's `inFlightReq`.
#[derive(Debug, Clone, PartialEq)]
pub struct InFlightReq {
    /// Requests at once.
    pub amount: u64,
    /// What is counted together.
    pub source: Source,
}

/// A lock is held for one look-up, and workers meet at one only by sources that share it.
const SHARDS: usize = 64;

/// One that counts. Its sources are those of requests under way, which connections bound.
#[derive(Debug)]
pub struct InFlightLimiter {
    settings: InFlightReq,
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, u64>>; SHARDS],
}

/// A request's place; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<InFlightLimiter>,
    source: u64,
}

impl InFlightLimiter {
    /// One that has counted nothing.
    #[must_use]
    pub fn new(settings: &InFlightReq) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { settings: settings.clone(), hasher: RandomState::new(), shards }
    }

    /// A place, if there is one.
    ///
    /// # Errors
    /// The refusal where there is none.
    pub fn request(self: &Arc<Self>, parts: &Parts, client: &Client) -> Result<Permit, Box<Answer>> {
        let source = self.settings.source.key(parts, client, &self.hasher);
        let entered = self.counted(source, |counts| {
            let count = counts.entry(source).or_default();
            let free = *count < self.settings.amount;
            if free {
                *count += 1;
            } else if *count == 0 {
                counts.remove(&source);
            }
            free
        });
        if entered {
            return Ok(Permit { limiter: Arc::clone(self), source });
        }
        let text = format!("max connections reached: {}", self.settings.amount);
        Err(Answer::text(StatusCode::TOO_MANY_REQUESTS, text))
    }

    fn counted<T>(&self, source: u64, then: impl FnOnce(&mut HashMap<u64, u64>) -> T) -> T {
        let shard = usize::try_from(source >> 32).unwrap_or(0) % SHARDS;
        let shard = self.shards.get(shard).expect("the shard is a remainder");
        then(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.counted(self.source, |counts| {
            let left = counts.get_mut(&self.source).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                counts.remove(&self.source);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::{PLAIN, parts};

    #[test]
    fn so_many_of_one_source_are_let_on_and_places_come_back() {
        let limiter = Arc::new(InFlightLimiter::new(&InFlightReq { amount: 2, source: Source::Host }));
        let ask = |host: &str| limiter.request(&parts("GET", "/", &[("host", host)]), &PLAIN);
        let (first, second) = (ask("a").unwrap(), ask("A").unwrap());
        let refused = ask("a").unwrap_err();
        assert_eq!((refused.status.as_u16(), &*refused.body), (429, &b"max connections reached: 2"[..]));
        let other = ask("b").unwrap();
        drop(first);
        let third = ask("a").unwrap();
        assert!(ask("a").is_err());
        drop((second, third, other));
        assert!(
            limiter.shards.iter().all(|shard| shard.lock().unwrap().is_empty()),
            "sources without requests are kept"
        );
        let none = Arc::new(InFlightLimiter::new(&InFlightReq { amount: 0, source: Source::Host }));
        assert!(none.request(&parts("GET", "/", &[]), &PLAIN).is_err());
        assert!(none.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
