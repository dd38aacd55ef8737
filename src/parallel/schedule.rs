//! Pipeline schedules: the order of a stage's passes in a step, as lists.
//!
//! Hand-offs follow from them: a forward pass takes what the chunk before gave and gives to the chunk
//! after, a backward pass the other way round. On each flow between two stages what is sent first is
//! received first, so both must pass the same chunks and micro-batches in the same order.

/// One pass of one micro-batch through one of the stage's chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Forward { chunk: usize, micro: usize },
    Backward { chunk: usize, micro: usize },
}

use Action::{Backward, Forward};

/// All forward passes, then all backward passes (Huang et al., 2019): every micro-batch is kept.
pub fn gpipe(n_micros: usize) -> Vec<Action> {
    let forward = (0..n_micros).map(|micro| Forward { chunk: 0, micro });
    let backward = (0..n_micros).map(|micro| Backward { chunk: 0, micro });
    forward.chain(backward).collect()
}

/// One forward, one backward (Narayanan et al., 2019): stage s keeps at most n_stages - s micro-batches.
pub fn one_forward_one_backward(stage: usize, n_stages: usize, n_micros: usize) -> Vec<Action> {
    let forward = (0..n_micros).map(|micro| Forward { chunk: 0, micro });
    let backward = (0..n_micros).map(|micro| Backward { chunk: 0, micro });
    in_turn(forward, backward, n_stages - stage - 1)
}

/// One forward, one backward over several chunks a stage (Narayanan et al., 2021).
///
/// Rounds of n_stages micro-batches go through one chunk after the other: `n_micros` is a multiple of
/// `n_stages`.
pub fn interleaved(stage: usize, n_stages: usize, n_chunks: usize, n_micros: usize) -> Vec<Action> {
    let place = move |pass: usize| {
        let round = n_stages * n_chunks;
        let chunk = pass % round / n_stages;
        (chunk, pass / round * n_stages + pass % n_stages)
    };
    let n_passes = n_micros * n_chunks;
    let forward = (0..n_passes).map(move |pass| {
        let (chunk, micro) = place(pass);
        Forward { chunk, micro }
    });
    let backward = (0..n_passes).map(move |pass| {
        let (chunk, micro) = place(pass);
        Backward {
            chunk: n_chunks - 1 - chunk,
            micro,
        }
    });
    let ahead = 2 * (n_stages - stage - 1) + (n_chunks - 1) * n_stages;
    in_turn(forward, backward, ahead)
}

/// `ahead` forward passes, then forward and backward in turn, then the backward passes that are left.
fn in_turn(
    mut forward: impl Iterator<Item = Action>,
    mut backward: impl Iterator<Item = Action>,
    ahead: usize,
) -> Vec<Action> {
    let mut actions: Vec<Action> = forward.by_ref().take(ahead).collect();
    for next in forward {
        actions.push(next);
        actions.extend(backward.next());
    }
    actions.extend(backward);
    actions
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use super::*;
    use crate::{config::PipelineSchedule, parallel::Pipeline};

    /// Runs all stages until none can go on; panics where a stage would take another pass's tensor. A pass receives,
    /// then sends as soon as what it sent before on the same flow has been received, as NCCL's sends may wait.
    /// Returns the most micro-batches (times chunks) that each stage kept.
    fn simulate(stages: &[Pipeline], n_micros: usize) -> Vec<usize> {
        let mut actions: Vec<VecDeque<Action>> = stages
            .iter()
            .map(|stage| stage.actions(n_micros).into())
            .collect();
        let mut flows: HashMap<(bool, usize, usize), VecDeque<(usize, usize)>> = HashMap::new();
        let (mut kept, mut most) = (vec![0usize; stages.len()], vec![0usize; stages.len()]);
        let mut has_received = vec![false; stages.len()];
        loop {
            let mut moved = false;
            for (stage, pipeline) in stages.iter().enumerate() {
                while let Some(&action) = actions[stage].front() {
                    let (is_backward, chunk, micro) = match action {
                        Forward { chunk, micro } => (false, chunk, micro),
                        Backward { chunk, micro } => (true, chunk, micro),
                    };
                    let (from, to) = match is_backward {
                        false => (pipeline.before(chunk), pipeline.after(chunk)),
                        true => (pipeline.after(chunk), pipeline.before(chunk)),
                    };
                    let position = chunk * stages.len() + stage;
                    if let Some(from) = from.filter(|_| !has_received[stage]) {
                        let flow = flows.entry((is_backward, from, stage)).or_default();
                        match flow.pop_front() {
                            None => break,
                            Some(arrived) => assert_eq!(
                                arrived,
                                (position, micro),
                                "{action:?} on stage {stage}"
                            ),
                        }
                    }
                    moved |= !std::mem::replace(&mut has_received[stage], true);
                    let is_blocked = to.is_some_and(|to| {
                        let flow = flows.get(&(is_backward, stage, to));
                        to != stage && flow.is_some_and(|flow| !flow.is_empty())
                    });
                    if is_blocked {
                        break;
                    }
                    has_received[stage] = false;
                    if let Some(to) = to {
                        let next = if is_backward {
                            position - 1
                        } else {
                            position + 1
                        };
                        flows
                            .entry((is_backward, stage, to))
                            .or_default()
                            .push_back((next, micro));
                    }
                    kept[stage] = if is_backward {
                        kept[stage] - 1
                    } else {
                        kept[stage] + 1
                    };
                    most[stage] = most[stage].max(kept[stage]);
                    actions[stage].pop_front();
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        assert!(
            actions.iter().all(VecDeque::is_empty),
            "the stages wait for each other: {actions:?}"
        );
        assert!(flows.values().all(VecDeque::is_empty) && kept.iter().all(|&n| n == 0));
        most
    }

    fn pipeline(schedule: PipelineSchedule, n_stages: usize, n_chunks: usize) -> Vec<Pipeline> {
        (0..n_stages)
            .map(|stage| Pipeline {
                stage,
                n_stages,
                n_chunks,
                schedule,
            })
            .collect()
    }

    #[test]
    fn no_schedule_deadlocks_or_mixes_micro_batches() {
        for n_stages in 1..=8 {
            for n_micros in 1..=17 {
                let once = [
                    PipelineSchedule::Gpipe,
                    PipelineSchedule::OneForwardOneBackward,
                ];
                for schedule in once {
                    simulate(&pipeline(schedule, n_stages, 1), n_micros);
                }
            }
            for n_chunks in 2..=4 {
                for rounds in 1..=4 {
                    let stages = pipeline(PipelineSchedule::Interleaved, n_stages, n_chunks);
                    simulate(&stages, rounds * n_stages);
                }
            }
        }
    }

    #[test]
    fn each_keeps_what_it_promises() {
        let gpipe = simulate(&pipeline(PipelineSchedule::Gpipe, 4, 1), 12);
        assert_eq!(gpipe, [12; 4]);
        let one = simulate(&pipeline(PipelineSchedule::OneForwardOneBackward, 4, 1), 12);
        assert_eq!(one, [4, 3, 2, 1]);
        let interleaved = simulate(&pipeline(PipelineSchedule::Interleaved, 4, 2), 12);
        assert_eq!(interleaved, [11, 9, 7, 5]);
    }

    #[test]
    #[should_panic(expected = "on stage 1")]
    fn a_stage_that_takes_the_wrong_micro_batch_is_seen() {
        let mut stages = pipeline(PipelineSchedule::Interleaved, 2, 2);
        stages[0].n_chunks = 2;
        stages[1].schedule = PipelineSchedule::Gpipe;
        simulate(&stages, 4);
    }
}
