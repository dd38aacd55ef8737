//! Collectives of threads in one process.

use std::sync::Arc;

use tch::Tensor;

use super::{
    CommError, Progress,
    deferred::{Deferred, Meeting},
};
use crate::{
    base::fault::FaultCell,
    torch::peers::{Operation, PeerGroup},
};

/// One rank's end.
pub type LocalComm = Deferred<Threads>;

/// Threads that read each other's memory.
pub struct Threads {
    rank: usize,
    world: usize,
    group: Arc<PeerGroup>,
    progress: Arc<Progress>,
    sequence: u64,
}

impl LocalComm {
    /// Makes the ends of a group's ranks; each moves to its own thread.
    pub fn ends(fault: &Arc<FaultCell>, progress: &[Arc<Progress>]) -> Vec<Self> {
        let world = progress.len();
        let group = Arc::new(PeerGroup::new(world, fault));
        let end = |rank: usize| Threads {
            rank,
            world,
            group: Arc::clone(&group),
            progress: Arc::clone(&progress[rank]),
            sequence: 0,
        };
        (0..world).map(|rank| Self::new(end(rank))).collect()
    }
}

impl Meeting for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn perform(&mut self, operation: Operation, buffers: &[&Tensor]) -> Result<(), CommError> {
        self.sequence += 1;
        self.progress.enter_collective();
        self.group
            .perform(self.rank, self.sequence, operation, buffers)?;
        self.progress.leave_collective();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{
        super::{Communicator, Reduction},
        *,
    };

    /// Runs `body` on every rank's thread and returns the results in rank order.
    fn on_ranks<R: Send>(world: usize, body: impl Fn(LocalComm) -> R + Sync) -> Vec<R> {
        let fault = Arc::new(FaultCell::default());
        let progress: Vec<_> = (0..world).map(|_| Arc::new(Progress::default())).collect();
        let ends = LocalComm::ends(&fault, &progress);
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
                end.start_all_reduce(&buffer, Reduction::Sum)
                    .expect("started");
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
    fn all_reduce_finds_the_maximum() {
        let results = on_ranks(3, |mut end| {
            let buffer =
                Tensor::from_slice(&[end.rank() as f32, -(end.rank() as f32), f32::NEG_INFINITY]);
            end.start_all_reduce(&buffer, Reduction::Max)
                .expect("started");
            end.wait().expect("done");
            values(&buffer)
        });
        assert!(
            results
                .iter()
                .all(|result| *result == [2.0, 0.0, f32::NEG_INFINITY])
        );
    }

    #[test]
    fn reduce_scatter_and_all_gather_together_are_an_all_reduce() {
        for world in [2, 3] {
            let results = on_ranks(world, |mut end| {
                let len = 96 * world;
                let buffers: Vec<Tensor> = (0..3)
                    .map(|number| {
                        Tensor::arange(len as i64, (tch::Kind::Float, tch::Device::Cpu)) + number
                    })
                    .collect();
                for buffer in &buffers {
                    end.start_reduce_scatter(buffer).expect("started");
                }
                for buffer in &buffers {
                    end.start_all_gather(buffer).expect("started");
                }
                end.wait().expect("done");
                assert_eq!(end.take_traffic().all_gather, 3 * 4 * len as u64);
                buffers.iter().map(values).collect::<Vec<_>>()
            });
            for (number, buffer) in results
                .iter()
                .flat_map(|buffers| buffers.iter().enumerate())
            {
                let expected = |i: usize| (world * (i + number)) as f32;
                assert!(buffer.iter().enumerate().all(|(i, &x)| x == expected(i)));
            }
        }
    }

    #[test]
    fn disagreement_is_named_before_memory_is_touched() {
        let results = on_ranks(2, |mut end| {
            let buffer = Tensor::from_slice(&vec![1f32; 10 + end.rank()]);
            end.start_all_reduce(&buffer, Reduction::Sum)
                .expect("started");
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
