//! Ending the worker, and its allocator's thresholds.

/// Ends the process at once, without destructors.
///
/// `exit` would run libtorch's static destructors under living rank threads, which crashes more
/// often than not and hides the exit code.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and touches nothing of ours.
    unsafe { libc::_exit(code) }
}

/// Keeps freed memory in the process: without this every step faults its activations in anew.
pub fn keep_freed_memory() {
    const LARGEST_HEAP_BLOCK: libc::c_int = 1 << 30;
    // SAFETY: `mallopt` takes plain numbers; an unknown one is refused by its return value.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGEST_HEAP_BLOCK);
    }
}
