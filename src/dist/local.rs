//! The communicator of threads in one process.

use std::sync::Arc;

use tch::Tensor;

use super::{CommError, Communicator, Progress};
use crate::{
    base::fault::FaultCell,
    torch::peers::{Operation, PeerGroup},
};

/// One rank's end.
///
/// There is no second stream on a CPU: `start_*` registers, `wait` performs.
pub struct LocalComm {
    rank: usize,
    world: usize,
    group: Arc<PeerGroup>,
    progress: Arc<Progress>,
    sequence: u64,
    started: Vec<(Operation, Tensor)>,
}

impl LocalComm {
    /// Makes the ends of all ranks; each moves to its own thread.
    pub fn ends(world: usize, fault: &Arc<FaultCell>, progress: &[Arc<Progress>]) -> Vec<Self> {
        let group = Arc::new(PeerGroup::new(world, fault));
        (0..world)
            .map(|rank| Self {
                rank,
                world,
                group: Arc::clone(&group),
                progress: Arc::clone(&progress[rank]),
                sequence: 0,
                started: Vec::new(),
            })
            .collect()
    }

    fn start(&mut self, operation: Operation, buffer: &Tensor) {
        self.started.push((operation, buffer.shallow_clone()));
    }
}

impl Communicator for LocalComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn start_all_reduce(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.start(Operation::AllReduce, buffer);
        Ok(())
    }

    fn start_reduce(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.start(Operation::Reduce { root }, buffer);
        Ok(())
    }

    fn start_broadcast(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.start(Operation::Broadcast { root }, buffer);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CommError> {
        for (operation, mut buffer) in std::mem::take(&mut self.started) {
            self.sequence += 1;
            self.progress.enter_collective(self.sequence);
            self.group
                .perform(self.rank, self.sequence, operation, &mut buffer)?;
            self.progress.leave_collective();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Runs `body` on every rank's thread and returns the results in rank order.
    fn on_ranks<R: Send>(world: usize, body: impl Fn(LocalComm) -> R + Sync) -> Vec<R> {
        let fault = Arc::new(FaultCell::default());
        let progress: Vec<_> = (0..world).map(|_| Arc::new(Progress::default())).collect();
        let ends = LocalComm::ends(world, &fault, &progress);
        thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> = ends
                .into_iter()
                .map(|end| scope.spawn(move || body(end)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        })
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).expect("fp32")
    }

    #[test]
    fn all_reduce_sums_over_ranks() {
        for world in [2, 3, 8] {
            let results = on_ranks(world, |mut end| {
                let buffer = Tensor::from_slice(&[end.rank() as f32 + 1.0; 5_000]);
                end.start_all_reduce(&buffer).expect("started");
                end.wait().expect("done");
                values(&buffer)
            });
            let expected = (world * (world + 1) / 2) as f32;
            assert!(results.iter().flatten().all(|&x| x == expected));
        }
    }

    #[test]
    fn reduce_and_broadcast_together_are_an_all_reduce() {
        let results = on_ranks(4, |mut end| {
            let buffer = Tensor::from_slice(&[0.1f32 * (end.rank() as f32 + 1.0); 100]);
            end.start_reduce(&buffer, 1).expect("started");
            end.start_broadcast(&buffer, 1).expect("started");
            end.wait().expect("done");
            values(&buffer)
        });
        assert!(results.iter().all(|result| *result == results[0]));
        assert!((results[0][0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn disagreement_is_named_before_memory_is_touched() {
        let results = on_ranks(2, |mut end| {
            let buffer = Tensor::from_slice(&vec![1f32; 10 + end.rank()]);
            end.start_all_reduce(&buffer).expect("started");
            end.wait()
        });
        for result in results {
            let message = result.expect_err("lengths differ").to_string();
            assert!(
                message.contains("all-reduce of 11") && message.contains("all-reduce of 10"),
                "{message}"
            );
        }
    }
}
