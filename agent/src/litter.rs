//! When a thread that takes apart what it made of thousands of objects gives the memory back: mimalloc would keep it, and the
//! next reading of them all takes other pages, since little of the old ones is whole. How it is given back is
//! `probes::memory`'s.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// From the first litter to its end. It takes some milliseconds with 5,000 routes, so a stream of changes pays for it once a
/// second; and by then whoever held what was before has let go of it.
const AFTER: Duration = Duration::from_secs(1);

/// What lies about of one thread. To be made, waited for and dropped there.
#[derive(Debug)]
pub struct Litter {
    due: Option<Pin<Box<Sleep>>>,
    give_back: fn() -> bool,
}

impl Litter {
    /// Of a thread that has made none yet. `give_back` is `false` where it could not be done now.
    #[must_use]
    pub fn new(give_back: fn() -> bool) -> Self {
        Self { due: None, give_back }
    }

    /// There is some now.
    pub fn drop_some(&mut self) {
        self.due.get_or_insert_with(|| Box::pin(sleep(AFTER)));
    }

    /// Waits until it is time and gives back what lies about; without any it waits for ever. Cancel-safe.
    pub async fn given_back(&mut self) {
        let Some(due) = &mut self.due else { return std::future::pending().await };
        due.as_mut().await;
        self.due = None;
        if !(self.give_back)() {
            self.drop_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_comes_within_a_second_is_given_back_together_and_again_where_it_was_refused() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        // Refuses the second time.
        let mut litter = Litter::new(|| ASKED.fetch_add(1, Ordering::Relaxed) != 1);
        let due = |litter: &Litter| litter.due.as_ref().map(|due| due.deadline());
        assert!(litter.given_back().now_or_never().is_none(), "there is none");
        litter.drop_some();
        assert!(litter.given_back().now_or_never().is_none(), "not yet");
        let first = due(&litter);
        litter.drop_some();
        assert!(first.is_some() && due(&litter) == first, "a stream of changes does not put it off");
        litter.given_back().await;
        assert_eq!((ASKED.load(Ordering::Relaxed), due(&litter)), (1, None));
        litter.drop_some();
        litter.given_back().await;
        assert!(due(&litter) > first, "refused, so it comes again");
        litter.given_back().await;
        assert_eq!((ASKED.load(Ordering::Relaxed), due(&litter)), (3, None));
    }
}
