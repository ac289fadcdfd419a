//! The Gateway API's `retry`: a request that fails is sent again, to whoever's turn it is then.

use std::time::Duration;

/// When a request is sent again. Only one without a body can be: what was read of a body is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often at most, beyond the first time.
    pub attempts: u16,
    /// Statuses of responses that count as failures.
    pub codes: Vec<u16>,
    /// How long to wait before.
    pub backoff: Duration,
    /// How long each of them may take; zero: as long as all together.
    pub each: Duration,
}
