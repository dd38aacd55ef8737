//! A queue from one thread to another whose reader notices faults elsewhere.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::{fault::FaultCell, rendezvous::Poisoned};

/// How long a waiting reader takes to notice a fault.
const FAULT_CHECK: Duration = Duration::from_millis(20);

/// Values in the order in which they were sent.
#[derive(Debug)]
pub struct Mailbox<T> {
    fault: Arc<FaultCell>,
    values: Mutex<VecDeque<T>>,
    arrived: Condvar,
}

impl<T> Mailbox<T> {
    /// An empty queue.
    pub fn new(fault: &Arc<FaultCell>) -> Self {
        Self {
            fault: Arc::clone(fault),
            values: Mutex::new(VecDeque::new()),
            arrived: Condvar::new(),
        }
    }

    /// Leaves a value; never waits.
    pub fn send(&self, value: T) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.push_back(value);
        self.arrived.notify_one();
    }

    /// Takes the next value, where there is one.
    pub fn try_recv(&self) -> Option<T> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.pop_front()
    }

    /// Takes the next value, waiting for it.
    ///
    /// # Errors
    /// A rank failed meanwhile.
    pub fn recv(&self) -> Result<T, Poisoned> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = values.pop_front() {
                return Ok(value);
            }
            if self.fault.is_poisoned() {
                return Err(Poisoned);
            }
            let waited = self.arrived.wait_timeout(values, FAULT_CHECK);
            values = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::base::fault::{Fault, FaultKind};

    #[test]
    fn values_arrive_in_order_and_a_fault_frees_the_reader() {
        let fault = Arc::new(FaultCell::default());
        let mailbox = Mailbox::new(&fault);
        thread::scope(|scope| {
            let reader = scope.spawn(|| [mailbox.recv(), mailbox.recv(), mailbox.recv()]);
            mailbox.send(1);
            mailbox.send(2);
            thread::yield_now();
            fault.poison(Fault {
                rank: 0,
                step: 1,
                operation: "forward".to_owned(),
                cause: "a test".into(),
                kind: FaultKind::Other,
                retry: false,
            });
            assert_eq!(
                reader.join().expect("no panic"),
                [Ok(1), Ok(2), Err(Poisoned)]
            );
        });
    }
}
