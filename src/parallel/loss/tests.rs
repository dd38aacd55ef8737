//! The loss and its gradients against autograd's over whole logits. In fp64 rounding leaves 1e-14, a mistake 1e-4 and
//! more.

use std::{sync::Arc, thread};

use proptest::prelude::*;
use tch::{Device, Kind, Reduction as LossReduction, Tensor};

use super::{Chunks, Head, Hooks, cross_entropy};
use crate::{
    arch::Shard,
    base::fault::FaultCell,
    data::IGNORED_TARGET,
    dist::{CommError, Communicator, LocalComm, Progress, Reduction, SoloComm},
    nn::GradSum,
    torch::vjp,
};

const FP64: f64 = 1e-12;
/// bf16 has 8 bits.
const BF16: f64 = 1.0 / 128.0;

/// Rows of a head's input, and how they are computed.
#[derive(Clone, Debug)]
struct Case {
    n_rows: i64,
    width: i64,
    n_classes: i64,
    /// Tensor-parallel ranks.
    ranks: usize,
    /// Rows that each rank's part is padded to a multiple of.
    multiple: i64,
    chunk_rows: i64,
    targets: Vec<i64>,
}

/// A loss with its gradients.
struct Found {
    loss: f64,
    of_input: Tensor,
    of_weight: Tensor,
}

struct Together(Box<dyn Communicator>);

impl Hooks for Together {
    fn share(&mut self, buffer: &Tensor, reduction: Reduction) -> Result<(), CommError> {
        assert!(self.0.world() > 1, "a rank alone has nobody to share with");
        self.0.all_reduce(buffer, reduction)
    }
}

fn values(shape: [i64; 2], by: f64, kind: Kind) -> Tensor {
    let ramp = Tensor::arange(shape[0] * shape[1], (Kind::Double, Device::Cpu));
    (ramp * by).sin().view(shape).to_kind(kind)
}

impl Case {
    fn input(&self, kind: Kind) -> Tensor {
        values([self.n_rows, self.width], 0.37, kind) * 3.0
    }

    fn weight(&self, kind: Kind) -> Tensor {
        values([self.n_classes, self.width], 1.91, kind)
    }

    fn n_valid(&self) -> u64 {
        let valid = self.targets.iter().filter(|&&id| id != IGNORED_TARGET);
        valid.count() as u64
    }

    /// What autograd makes of all logits at once, in fp64, of values that are rounded to `kind`.
    fn expected(&self, kind: Kind) -> Found {
        let leaf = |x: Tensor| x.to_kind(Kind::Double).set_requires_grad(true);
        let (input, weight) = (leaf(self.input(kind)), leaf(self.weight(kind)));
        let loss = input.mm(&weight.tr()).cross_entropy_loss(
            &Tensor::from_slice(&self.targets),
            None::<Tensor>,
            LossReduction::Sum,
            IGNORED_TARGET,
            0.0,
        );
        let seed = loss.full_like(1.0 / self.n_valid().max(1) as f64);
        let grads = vjp(&[&loss], &[&seed], &[&input, &weight]).expect("a graph");
        let [of_input, of_weight] = grads.try_into().expect("two");
        Found {
            loss: loss.double_value(&[]),
            of_input: of_input.expect("a path"),
            of_weight: of_weight.expect("a path"),
        }
    }

    /// What the ranks make of it together.
    fn found(&self, kind: Kind) -> Found {
        let mut parts = on_ranks(self.ranks, |end| self.on_rank(kind, end));
        let mut found = parts.remove(0);
        for part in parts {
            assert_eq!(part.loss, found.loss, "all ranks hear the same loss");
            found.of_input += part.of_input;
            found.of_weight = Tensor::cat(&[found.of_weight, part.of_weight], 0);
        }
        let padding = found.of_weight.narrow(
            0,
            self.n_classes,
            found.of_weight.size()[0] - self.n_classes,
        );
        assert!(padding.count_nonzero(None).int64_value(&[]) == 0);
        found.of_weight = found.of_weight.narrow(0, 0, self.n_classes);
        found
    }

    fn on_rank(&self, kind: Kind, end: Box<dyn Communicator>) -> Found {
        let _guard = tch::no_grad_guard();
        let shard = Shard {
            index: end.rank(),
            of: self.ranks,
        };
        let rows = self.n_classes.div_euclid(shard.of as i64) + 1;
        let rows = (rows + self.multiple - 1) / self.multiple * self.multiple;
        // What stands in padding has no effect.
        let weight = Tensor::full([rows, self.width], 7.0, (kind, Device::Cpu));
        let first = (shard.index as i64 * rows).min(self.n_classes);
        let n_own = rows.min(self.n_classes - first);
        weight
            .narrow(0, 0, n_own)
            .copy_(&self.weight(kind).narrow(0, first, n_own));
        let input = self.input(kind);
        let head = Head {
            input: &input,
            weight: &weight,
            n_classes: self.n_classes,
            shard,
        };
        let place = Tensor::full_like(&weight, 9.0);
        let mut of_weight = GradSum::over(place.shallow_clone(), false);
        let mut hooks = Together(end);
        let targets = Tensor::from_slice(&self.targets);
        let work = cross_entropy::Work::new(head, &targets).expect("fits");
        let mut grads = work.grads(self.n_valid(), &mut of_weight).expect("room");
        let chunks = Chunks::of(self.n_rows, self.chunk_rows);
        let loss = work.run(chunks.clone(), Some(&mut grads), &mut hooks);
        let loss = loss.expect("done").double_value(&[]);
        let of_input = grads.of_input.to_kind(Kind::Double);
        of_weight.finish().expect("brought");
        let alone = work.run(chunks, None, &mut hooks).expect("done");
        assert_eq!(alone.double_value(&[]), loss, "without gradients the same");
        Found {
            loss,
            of_input,
            of_weight: place.to_kind(Kind::Double),
        }
    }

    /// The rows of the last chunk.
    fn last_chunk(&self) -> std::ops::Range<usize> {
        let (first, n) = Chunks::of(self.n_rows, self.chunk_rows)
            .last()
            .expect("rows");
        first as usize..(first + n) as usize
    }
}

impl Found {
    /// The largest difference, each relative to its own size.
    fn apart(&self, other: &Self) -> f64 {
        let of = |a: &Tensor, b: &Tensor| {
            let size = b.abs().max().double_value(&[]).max(f64::MIN_POSITIVE);
            (a - b).abs().max().double_value(&[]) / size
        };
        let loss = (self.loss - other.loss).abs() / other.loss.abs().max(f64::MIN_POSITIVE);
        loss.max(of(&self.of_input, &other.of_input))
            .max(of(&self.of_weight, &other.of_weight))
    }
}

/// Runs `body` on every rank's thread and returns the results in rank order.
fn on_ranks<R: Send>(world: usize, body: impl Fn(Box<dyn Communicator>) -> R + Sync) -> Vec<R> {
    if world == 1 {
        return vec![body(Box::new(SoloComm))];
    }
    let fault = Arc::new(FaultCell::default());
    let progress: Vec<_> = (0..world).map(|_| Arc::new(Progress::default())).collect();
    let ends = LocalComm::ends(&fault, &progress);
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = ends
            .into_iter()
            .map(|end| scope.spawn(move || body(Box::new(end))))
            .collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.map(|result| result.expect("no panic")).collect()
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..40i64, 1..9i64, 2..150i64);
    (sizes, 1..=4usize, 1..50i64).prop_flat_map(
        |((n_rows, width, n_classes), ranks, chunk_rows)| {
            let target = prop_oneof![3 => 0..n_classes, 1 => Just(IGNORED_TARGET)];
            let targets = prop::collection::vec(target, n_rows as usize);
            (targets, 1..70i64).prop_map(move |(targets, multiple)| Case {
                n_rows,
                width,
                n_classes,
                ranks,
                multiple,
                chunk_rows,
                targets,
            })
        },
    )
}

proptest! {
    #[test]
    fn any_chunks_of_any_cut_are_autograds(case in cases()) {
        let apart = case.found(Kind::Double).apart(&case.expected(Kind::Double));
        prop_assert!(apart < FP64, "{apart:e}");
    }

    #[test]
    fn bf16_is_as_good_as_its_rounding(case in cases()) {
        let apart = case.found(Kind::BFloat16).apart(&case.expected(Kind::BFloat16));
        prop_assert!(apart < 4.0 * BF16, "{apart:e}");
    }
}

/// 23 rows in chunks of ten, the last of three, over 65 classes.
fn case(ranks: usize) -> Case {
    let target = |row: i64| match row % 4 {
        2 => IGNORED_TARGET,
        _ => row * row * 7 % 65,
    };
    Case {
        n_rows: 23,
        width: 6,
        n_classes: 65,
        ranks,
        multiple: 64,
        chunk_rows: 10,
        targets: (0..23).map(target).collect(),
    }
}

#[test]
fn planted_mistakes_are_seen() {
    for ranks in [1, 2] {
        let case = case(ranks);
        let expected = case.expected(Kind::Double);
        assert!(case.found(Kind::Double).apart(&expected) < FP64);
        let last = case.last_chunk();
        assert_eq!(last, 20..23);
        // As the sum of a row over all chunks but one, the divisor being that of all rows.
        let mut dropped = case.clone();
        dropped.targets[last.clone()].fill(IGNORED_TARGET);
        let fewer = dropped.n_valid() as f64 / case.n_valid() as f64;
        let without = dropped.found(Kind::Double);
        let dropped = Found {
            loss: expected.loss,
            of_input: without.of_input * fewer,
            of_weight: without.of_weight * fewer,
        };
        let mut unmasked = case.clone();
        for target in &mut unmasked.targets[last] {
            *target = (*target).max(0);
        }
        let more = unmasked.n_valid() as f64 / case.n_valid() as f64;
        let with = unmasked.found(Kind::Double);
        assert!(more > 1.0, "the last chunk has a row that doesn't count");
        let unmasked = Found {
            loss: expected.loss,
            of_input: with.of_input * more,
            of_weight: with.of_weight * more,
        };
        for (what, mistaken) in [("dropped", dropped), ("unmasked", unmasked)] {
            let apart = mistaken.apart(&expected);
            assert!(apart > 1e6 * FP64, "{what}: {apart:e}");
        }
    }
}

#[test]
fn padding_that_wins_is_seen() {
    let case = case(1);
    let counted = Case {
        n_classes: 66,
        ..case.clone()
    };
    let counted = counted.found(Kind::Double);
    let apart = Found {
        of_weight: counted.of_weight.narrow(0, 0, 65),
        ..counted
    }
    .apart(&case.expected(Kind::Double));
    assert!(apart > 1e6 * FP64, "{apart:e}");
}

#[test]
fn a_step_without_valid_targets_has_no_gradient() {
    for ranks in [1, 3] {
        let mut case = case(ranks);
        case.targets.fill(IGNORED_TARGET);
        let found = case.found(Kind::Double);
        let none = |x: &Tensor| x.count_nonzero(None).int64_value(&[]) == 0;
        assert!(found.loss == 0.0 && none(&found.of_input) && none(&found.of_weight));
    }
}

/// In fp32 a logit that is far above the others leaves no overflow, and one far below no lost loss.
#[test]
fn large_logits_keep_their_loss() {
    for target in [0, 1] {
        let (input, weight) = (
            Tensor::from_slice(&[1_000.0f32]).view([1, 1]),
            Tensor::from_slice(&[1.0f32, -1.0]).view([2, 1]),
        );
        let head = Head {
            input: &input,
            weight: &weight,
            n_classes: 2,
            shard: Shard::WHOLE,
        };
        let targets = Tensor::from_slice(&[target]);
        let loss = cross_entropy::sum(head, &targets, &mut Together(Box::new(SoloComm)));
        let loss = loss.expect("done").double_value(&[]);
        assert_eq!(loss, 2_000.0 * target as f64);
    }
}
