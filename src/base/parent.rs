//! Ending with the process that started this one.

use std::io;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Has the kernel kill this process when its parent ends: process `parent`, where that is known.
///
/// To the kernel the parent is the thread that started this process.
///
/// # Errors
/// The kernel refuses, or `parent` has ended before.
pub fn end_with_parent(parent: Option<Pid>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match parent.is_none() || getppid() == parent {
        true => Ok(()),
        false => Err(io::Error::other("the parent has ended")),
    }
}
