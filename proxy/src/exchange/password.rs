//! Checking passwords away from the workers, a few at a time: a hash that takes tens of milliseconds would hold up every
//! connection of its worker, and a flood of wrong passwords every CPU.

use std::cell::RefCell;
use std::sync::Arc;

use http::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::around::Waiting;
use crate::clock::MonoNs;
use crate::live::Live;
use crate::middleware::{Answer, Authenticator, Check};

/// Checks at once, in the whole process. Those who have one to make take turns.
const CHECKS_MAX: usize = 2;
static CHECKS: Semaphore = Semaphore::const_new(CHECKS_MAX);

/// The credentials, if they are right.
///
/// # Errors
/// The question for others.
pub(super) async fn checked(
    live: &RefCell<Live>,
    users: &Arc<Authenticator>,
    check: Check,
) -> Result<Check, Box<Answer>> {
    let _waiting = Waiting::new(live, MonoNs::now());
    let busy = || Answer::status(StatusCode::SERVICE_UNAVAILABLE);
    let waits = users.turns().enter().ok_or_else(busy)?;
    let turn = users.turns().next().await.ok_or_else(busy)?;
    // Many ask with the same credentials at once: those behind the first need no check of their own.
    if users.is_known(&check) {
        return Ok(check);
    }
    let permit = CHECKS.acquire().await.map_err(|_| busy())?;
    drop(waits);
    let of = Arc::clone(users);
    let checked = spawn_blocking(move || {
        // Held to the check's end, also where nobody waits for it any more.
        let (_turn, _permit) = (turn, permit);
        let right = check.is_right();
        if right {
            of.learn(&check);
        }
        right.then_some(check)
    });
    checked.await.ok().flatten().ok_or_else(|| users.refusal())
}
