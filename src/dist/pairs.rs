//! Whether what one rank sends another arrives unchanged: peer access between some cards is known to report
//! success and deliver other bytes.

use tch::{Kind, Tensor};

use super::{CommError, Expected, Flow, Links};
use crate::torch::{NumberOps, TorchError};

/// Elements of what is sent: more than any protocol's smallest buffers hold.
const LEN: i64 = 1 << 18;

/// Sends a pattern from every rank to every other, one pair after the other; all ranks call it together. `links`
/// reach every rank.
///
/// # Errors
/// The pair of which other bytes arrived.
pub fn check_pairs(
    links: &mut dyn Links,
    rank: usize,
    world: usize,
    device: tch::Device,
) -> Result<(), CommError> {
    let pattern = |from: usize, to: usize| {
        // Odd, so that no two pairs' patterns agree anywhere.
        let factor = 0x9E37_79B9 + 2 * (from * world + to) as i64;
        Tensor::try_arange(1, LEN + 1, (Kind::Int64, device))?.try_mul(factor)
    };
    // Told at the end: the others are not left waiting.
    let mut changed = None;
    let pairs = (0..world).flat_map(|from| (0..world).map(move |to| (from, to)));
    for (from, to) in pairs.filter(|(from, to)| from != to) {
        if rank == from {
            links.send(Flow::Activation, to, &pattern(from, to)?)?;
        }
        if rank == to {
            let expected = Expected {
                shape: vec![LEN],
                kind: Kind::Int64,
                device,
            };
            let received = links.recv(Flow::Activation, from, &expected)?;
            let expected = pattern(from, to)?;
            if !received.f_equal(&expected).map_err(TorchError::from)? {
                changed.get_or_insert(CommError::Changed { from, to });
            }
        }
    }
    changed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::{
        super::{LocalLinks, Progress},
        *,
    };

    /// Changes one element of what rank 2 hears of rank 0.
    struct Broken(LocalLinks);

    impl Links for Broken {
        fn send(&mut self, flow: Flow, to: usize, tensor: &Tensor) -> Result<(), CommError> {
            self.0.send(flow, to, tensor)
        }

        fn recv(
            &mut self,
            flow: Flow,
            from: usize,
            expected: &Expected,
        ) -> Result<Tensor, CommError> {
            let tensor = self.0.recv(flow, from, expected)?;
            if from == 0 {
                let _ = tensor.narrow(0, LEN - 1, 1).fill_(7);
            }
            Ok(tensor)
        }

        fn take_sent_bytes(&mut self) -> u64 {
            self.0.take_sent_bytes()
        }
    }

    #[test]
    fn changed_bytes_are_found_and_the_pair_named() {
        let progress: Vec<_> = (0..3).map(|_| Arc::new(Progress::default())).collect();
        let check = |is_broken: bool| -> Vec<Result<(), CommError>> {
            let ends = LocalLinks::ends(&Arc::default(), &progress);
            thread::scope(|scope| {
                let threads: Vec<_> = ends
                    .into_iter()
                    .enumerate()
                    .map(|(rank, end)| {
                        scope.spawn(move || {
                            let mut links: Box<dyn Links> = match is_broken && rank == 2 {
                                true => Box::new(Broken(end)),
                                false => Box::new(end),
                            };
                            check_pairs(links.as_mut(), rank, 3, tch::Device::Cpu)
                        })
                    })
                    .collect();
                let ended = threads.into_iter().map(|thread| thread.join());
                ended.map(|ended| ended.expect("no panic")).collect()
            })
        };
        assert_eq!(check(false), [Ok(()), Ok(()), Ok(())]);
        let [_, _, found] = &check(true)[..] else {
            unreachable!("three ranks")
        };
        assert_eq!(*found, Err(CommError::Changed { from: 0, to: 2 }));
        let text = CommError::Changed { from: 0, to: 2 }.to_string();
        assert!(text.contains("NCCL_P2P_DISABLE=1"), "{text}");
    }
}
