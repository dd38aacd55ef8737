//! Reads batches ahead of the step that needs them.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{Builder, JoinHandle},
};

use super::{
    batch::{BatchPlan, StepBatch},
    error::DataError,
    token_file::TokenFile,
    windows::WindowOrder,
};

/// Batches that wait to be taken; a third is being read meanwhile.
const N_READY: usize = 2;

/// A thread that reads one rank's batches, in step order, without end.
///
/// Dropping the loader ends the thread and waits for it, which takes one batch's reading at most.
pub struct Loader {
    ready: Option<Receiver<Result<StepBatch, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts to read `plan`'s part of the steps from `first_step` (counted from 0) on.
    ///
    /// # Errors
    /// The plan doesn't divide, the order is over other tokens, or no thread can be started.
    pub fn spawn(
        tokens: TokenFile,
        order: WindowOrder,
        plan: BatchPlan,
        first_step: u64,
    ) -> Result<Self, DataError> {
        plan.check()?;
        if order.n_tokens() != tokens.len() {
            return Err(DataError::OrderMismatch {
                order: order.n_tokens(),
                file: tokens.len(),
            });
        }
        let (sender, ready) = sync_channel(N_READY);
        let thread = Builder::new()
            .name(format!("loader-{}", plan.dp_rank))
            .spawn(move || read_ahead(&tokens, &order, &plan, first_step, &sender))
            .map_err(|source| DataError::LoaderStart { source })?;
        Ok(Self {
            ready: Some(ready),
            thread: Some(thread),
        })
    }

    /// The batch of the next step; blocks until it is read.
    ///
    /// # Errors
    /// An id of the batch lies outside the vocabulary, or the thread has panicked.
    pub fn next_batch(&mut self) -> Result<StepBatch, DataError> {
        self.ready
            .as_ref()
            .and_then(|ready| ready.recv().ok())
            .ok_or(DataError::LoaderEnded)?
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, and it returns.
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_ahead(
    tokens: &TokenFile,
    order: &WindowOrder,
    plan: &BatchPlan,
    first_step: u64,
    sender: &SyncSender<Result<StepBatch, DataError>>,
) {
    for step in first_step.. {
        let read = StepBatch::read(tokens, order, plan, step);
        let is_last = read.is_err();
        if sender.send(read).is_err() || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::WindowsConfig, data::batch::tests::counting_tokens};

    const PLAN: BatchPlan = BatchPlan {
        global_batch: 4,
        local_batch: 2,
        micro_batch: 1,
        dp_rank: 1,
    };

    fn order(n_tokens: u64) -> WindowOrder {
        WindowOrder::new(WindowsConfig::Disjoint, 1, n_tokens, 8).expect("enough")
    }

    #[test]
    fn steps_come_in_order_from_the_first_on() {
        let tokens = counting_tokens(100);
        let mut loader = Loader::spawn(tokens.clone(), order(100), PLAN, 7).expect("started");
        for step in 7..30 {
            let expected = StepBatch::read(&tokens, &order(100), &PLAN, step).expect("read");
            assert_eq!(loader.next_batch().expect("read"), expected);
        }
    }

    #[test]
    fn dropping_ends_the_thread_and_frees_the_file() {
        let tokens = counting_tokens(100);
        drop(Loader::spawn(tokens, order(100), PLAN, 0).expect("started"));
    }

    #[test]
    fn an_order_over_other_tokens_is_refused() {
        let spawn = |n_tokens, plan| Loader::spawn(counting_tokens(100), order(n_tokens), plan, 0);
        let refused = spawn(101, PLAN).err().expect("refused");
        assert!(matches!(
            refused,
            DataError::OrderMismatch {
                order: 101,
                file: 100
            }
        ));
        let refused = spawn(100, BatchPlan { dp_rank: 2, ..PLAN })
            .err()
            .expect("refused");
        assert!(matches!(refused, DataError::Batch { .. }));
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_of_the_next_call() {
        let (sender, ready) = sync_channel(N_READY);
        drop(sender);
        let mut loader = Loader {
            ready: Some(ready),
            thread: None,
        };
        assert!(matches!(loader.next_batch(), Err(DataError::LoaderEnded)));
    }
}
