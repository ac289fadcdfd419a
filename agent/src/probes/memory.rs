//! Tells the allocator to give free memory back to the system. Here since it is a call into C, and `unsafe` has no other
//! place; who calls it, and when, is decided elsewhere.
#![expect(unsafe_code, reason = "mimalloc's own call; the crate of its safe wrapper has none")]

use std::sync::atomic::{AtomicBool, Ordering};

/// Gives back what this thread has freed, and all that lies free between the threads. `false` where another thread is at
/// it, whose turn may have missed what is this thread's: ask again later.
///
/// mimalloc gives back by itself only in the course of many more allocations, and an idle process makes none. It takes
/// half a millisecond after a few thousand connections, and a fault for each page that is needed again, so this is for when
/// much was freed, not for every time.
#[must_use]
pub fn give_back() -> bool {
    // mimalloc lets one thread at a time give back and sends the others away without a word.
    static BUSY: AtomicBool = AtomicBool::new(false);
    if BUSY.swap(true, Ordering::Acquire) {
        return false;
    }
    // SAFETY: mi_collect may be called on any thread at any time, also where mimalloc is not the global allocator.
    unsafe { libmimalloc_sys::mi_collect(true) };
    BUSY.store(false, Ordering::Release);
    true
}
