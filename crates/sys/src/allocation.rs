//! How much memory a computation takes, and how often it asks for some: for tests and fuzz targets, which hold a parser or a worker to a
//! bound; and giving back what is not needed.
//!
//! A program that wants to know makes [`Counting`] its global allocator; nobody else pays for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives free memory back to the system where the allocator would keep it for later: after much was freed that does not come again soon.
/// Takes about a millisecond for some megabytes. Does nothing where the C library has no such function.
pub fn give_back_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The system's allocator, which counts for each thread what it holds and has held at most, and for the process what was asked for.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

static ASKED_TIMES: AtomicU64 = AtomicU64::new(0);
static ASKED_BYTES: AtomicU64 = AtomicU64::new(0);

fn note_asked(bytes: usize) {
    ASKED_TIMES.fetch_add(1, Ordering::Relaxed);
    ASKED_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn note(change: isize) {
    HELD.with(|held| {
        // What another thread allocated may be freed here: the count goes below zero and back.
        let now = held.get().wrapping_add(change);
        held.set(now);
        PEAK.with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: every call goes to the system's allocator with the caller's own arguments; the counting allocates nothing, because
// the thread's cells need neither initialisation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note_asked(layout.size());
        note(layout.size().cast_signed());
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(layout.size().cast_signed().wrapping_neg());
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note_asked(layout.size());
        note(layout.size().cast_signed());
        // SAFETY: the caller keeps to the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note_asked(bytes);
        note(bytes.cast_signed().wrapping_sub(layout.size().cast_signed()));
        // SAFETY: the caller keeps to the contract of `realloc`.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

/// Runs something and says how many bytes more than at its start this thread held at most while it ran. 0 without [`Counting`]
/// as the global allocator. Not to be nested.
pub fn peak_of<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = act();
    let peak = PEAK.with(Cell::get).wrapping_sub(before);
    (result, usize::try_from(peak).unwrap_or(0))
}

/// How often all threads of this process have asked for memory so far, or for another size of it, and for how many bytes. 0 without
/// [`Counting`] as the global allocator.
pub fn asked_for() -> (u64, u64) {
    (ASKED_TIMES.load(Ordering::Relaxed), ASKED_BYTES.load(Ordering::Relaxed))
}
