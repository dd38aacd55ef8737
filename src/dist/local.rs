//! The communicator of threads in one process.

use std::sync::Arc;

use tch::Tensor;

use super::{CommError, Communicator, Progress, Reduction, comm::n_bytes};
use crate::{
    base::fault::FaultCell,
    event::Traffic,
    torch::peers::{Operation, PeerGroup},
};

/// One rank's end.
///
/// There is no second stream on a CPU: `start_*` registers, `wait` performs. Operations of one kind are
/// performed together, in one meeting of the ranks.
pub struct LocalComm {
    rank: usize,
    world: usize,
    group: Arc<PeerGroup>,
    progress: Arc<Progress>,
    sequence: u64,
    started: Vec<(Operation, Tensor)>,
    traffic: Traffic,
}

impl LocalComm {
    /// Makes the ends of a group's ranks; each moves to its own thread.
    pub fn ends(fault: &Arc<FaultCell>, progress: &[Arc<Progress>]) -> Vec<Self> {
        let world = progress.len();
        let group = Arc::new(PeerGroup::new(world, fault));
        (0..world)
            .map(|rank| Self {
                rank,
                world,
                group: Arc::clone(&group),
                progress: Arc::clone(&progress[rank]),
                sequence: 0,
                started: Vec::new(),
                traffic: Traffic::default(),
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

    fn start_all_reduce(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError> {
        self.traffic.all_reduce += n_bytes(buffer);
        self.start(Operation::AllReduce { reduction }, buffer);
        Ok(())
    }

    fn start_reduce(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.traffic.reduce += n_bytes(buffer);
        self.start(Operation::Reduce { root }, buffer);
        Ok(())
    }

    fn start_broadcast(&mut self, buffer: &Tensor, root: usize) -> Result<(), CommError> {
        self.traffic.broadcast += n_bytes(buffer);
        self.start(Operation::Broadcast { root }, buffer);
        Ok(())
    }

    fn start_reduce_scatter(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.traffic.reduce_scatter += n_bytes(buffer);
        self.start(Operation::ReduceScatter, buffer);
        Ok(())
    }

    fn start_all_gather(&mut self, buffer: &Tensor) -> Result<(), CommError> {
        self.traffic.all_gather += n_bytes(buffer);
        self.start(Operation::AllGather, buffer);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CommError> {
        let started = std::mem::take(&mut self.started);
        for alike in started.chunk_by(|(a, _), (b, _)| a == b) {
            let buffers: Vec<&Tensor> = alike.iter().map(|(_, buffer)| buffer).collect();
            self.sequence += 1;
            self.progress.enter_collective();
            self.group
                .perform(self.rank, self.sequence, alike[0].0, &buffers)?;
            self.progress.leave_collective();
        }
        Ok(())
    }

    fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
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
