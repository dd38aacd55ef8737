//! How far the preparation of data has come.

/// One report of a preparation; sent from any of its threads, possibly out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, as a phrase: "tokenizing".
    pub what: &'static str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Where a preparation reports to; called from several threads.
pub(super) type Report<'a> = &'a (dyn Fn(Progress) + Sync);
