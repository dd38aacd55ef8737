//! The same training under every split.

use libtest_mimic::{Failed, Trial};

use crate::in_process::{Bench, Setting, apart};

/// Promise P6 in fp64: rounding leaves 1e-13, a mistake 1e-4 and more.
const FP64_STEP_1: f64 = 1e-9;
const FP64_50_STEPS: f64 = 1e-8;
/// In fp32 at the first step.
const FP32_STEP_1: f64 = 1e-6;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "equivalence::every_dp_and_accumulation_agrees_in_fp64",
            every_split_agrees,
        ),
        Trial::test("equivalence::fp32_agrees_at_the_first_step", fp32_agrees),
        Trial::test("equivalence::primary_is_ddp_bit_for_bit", primary_is_ddp),
        Trial::test("equivalence::buckets_change_no_bit", buckets_change_no_bit),
        Trial::test("equivalence::lanes_are_one_rank", lanes_are_one_rank),
        Trial::test(
            "equivalence::dropout_does_not_depend_on_the_split",
            dropout_agrees,
        ),
        Trial::test(
            "equivalence::a_planted_mean_of_means_is_seen",
            mean_of_means_is_seen,
        ),
        Trial::test("equivalence::bf16_follows_fp32", bf16_follows),
        Trial::test(
            "equivalence::every_optimizer_and_schedule_learns",
            everything_learns,
        ),
    ]
}

/// 2 003 letters: the windows of an epoch are 112 whole ones and a partial one, so token counts are uneven.
fn every_split_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    let steps = "stop.steps=50";
    let one = bench.losses(&[steps]);
    assert!(
        one[49] < one[0] - 0.3,
        "it learns: {} to {}",
        one[0],
        one[49]
    );
    for (dp, micro) in [(1, 4), (1, 2), (2, 4), (2, 2), (2, 1), (4, 2), (4, 1)] {
        let changes = [
            steps,
            &format!("parallel.dp={dp}"),
            &format!("batch.micro={micro}"),
        ];
        let other = bench.losses(&changes);
        assert!(
            apart(&other[..1], &one[..1]) < FP64_STEP_1,
            "dp {dp}, micro {micro}, step 1"
        );
        let difference = apart(&other, &one);
        assert!(
            difference < FP64_50_STEPS,
            "dp {dp}, micro {micro}: {difference:e} over 50 steps"
        );
    }
    Ok(())
}

fn fp32_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    let one = bench.losses(&["precision=fp32", "stop.steps=1"]);
    for dp in [2, 4] {
        let other = bench.losses(&[
            "precision=fp32",
            "stop.steps=1",
            &format!("parallel.dp={dp}"),
        ]);
        assert!(apart(&other, &one) < FP32_STEP_1, "dp {dp}");
    }
    Ok(())
}

fn primary_is_ddp() -> Result<(), Failed> {
    let bench = Bench::new();
    let ddp = bench.run(&["precision=fp32", "parallel.dp=4"], Setting::default());
    let primary = bench.run(
        &["precision=fp32", "parallel.dp=4", "parallel.primary=true"],
        Setting::default(),
    );
    assert_eq!(ddp.losses(), primary.losses());
    assert_eq!(ddp.grad_norms(), primary.grad_norms());
    assert_eq!(ddp.final_eval(), primary.final_eval());
    Ok(())
}

fn buckets_change_no_bit() -> Result<(), Failed> {
    let bench = Bench::new();
    let with_buckets = |changes: &[&str], bucket_bytes| {
        bench
            .run(
                changes,
                Setting {
                    bucket_bytes,
                    ..Setting::default()
                },
            )
            .losses()
    };
    let changes = ["precision=fp32", "parallel.dp=2"];
    let whole = with_buckets(&changes, None);
    for bucket_bytes in [1, 20_000] {
        assert_eq!(
            with_buckets(&changes, Some(bucket_bytes)),
            whole,
            "buckets of {bucket_bytes} bytes"
        );
    }
    // With accumulation too, though the tied embedding's gradient is then a sum of many.
    let accumulating = ["parallel.dp=2", "batch.micro=2", "stop.steps=20"];
    assert_eq!(
        with_buckets(&accumulating, Some(1)),
        with_buckets(&accumulating, None)
    );
    Ok(())
}

/// A rank of two threads computes as two lanes where its micro-batch is even.
fn lanes_are_one_rank() -> Result<(), Failed> {
    let bench = Bench::new();
    let base = ["stop.steps=30", "model.gpt.dropout=0.1"];
    let one = bench.losses(&base);
    for (dp, micro, n_lanes) in [(1, 8, 2), (1, 4, 2), (2, 2, 2), (1, 1, 1)] {
        let (dp, micro) = (format!("parallel.dp={dp}"), format!("batch.micro={micro}"));
        let changes = [base[0], base[1], "threads_per_rank=2", &dp, &micro];
        assert_eq!(
            bench.plan(&bench.config(&changes)).0.ranks[0].lanes,
            n_lanes
        );
        let difference = apart(&bench.losses(&changes), &one);
        assert!(difference < 1e-6, "{dp}, {micro}: {difference:e}");
    }
    for changes in [
        ["precision=bf16", "parallel.dp=1"],
        ["optimizer.sgd.lr=0.1", "parallel.dp=2"],
    ] {
        let [one, lanes] = ["threads_per_rank=1", "threads_per_rank=2"]
            .map(|threads| bench.losses(&["precision=fp32", changes[0], changes[1], threads]));
        assert!(apart(&lanes, &one) < 2e-3, "{changes:?}");
    }
    Ok(())
}

fn dropout_agrees() -> Result<(), Failed> {
    let bench = Bench::new();
    let with = ["model.gpt.dropout=0.2", "stop.steps=10"];
    let one = bench.losses(&with);
    assert!(
        apart(&one, &bench.losses(&with[1..])) > 1e-4,
        "dropout has an effect"
    );
    let other = bench.losses(&[with[0], with[1], "parallel.dp=4", "batch.micro=1"]);
    let difference = apart(&other, &one);
    // Masks are the same bits; fp32 masks and the masked path's fp32 softmax leave fp32 rounding.
    assert!(difference < 1e-6, "{difference:e}");
    Ok(())
}

fn mean_of_means_is_seen() -> Result<(), Failed> {
    let bench = Bench::new();
    // The partial window comes up within the first epoch's 113 windows.
    let changes = ["stop.steps=15", "batch.micro=2", "parallel.dp=2"];
    let right = bench.losses(&changes);
    let setting = Setting {
        inject: Some("0:0:mean-of-means"),
        ..Setting::default()
    };
    let wrong = bench.run(&changes, setting).losses();
    let difference = apart(&wrong, &right);
    assert!(difference > 100.0 * FP64_50_STEPS, "{difference:e}");
    Ok(())
}

fn bf16_follows() -> Result<(), Failed> {
    let bench = Bench::new();
    let fp32 = bench.losses(&["precision=fp32", "stop.steps=20"]);
    let bf16 = bench.losses(&["precision=bf16", "stop.steps=20"]);
    let difference = apart(&bf16, &fp32);
    assert!(difference > 0.0 && difference < 0.02, "{difference:e}");
    Ok(())
}

fn everything_learns() -> Result<(), Failed> {
    let bench = Bench::new();
    for change in [
        "optimizer.sgd={\"lr\":0.3,\"momentum\":0.9,\"clip\":1.0,\"weight_decay\":0.001}",
        "schedule.linear={\"warmup\":3}",
        "schedule.cosine={\"warmup\":3}",
        "schedule.wsd={\"warmup\":3,\"decay\":10}",
        "schedule.constant={\"warmup\":3}",
        "data.text.windows=\"random\"",
    ] {
        let losses = bench.losses(&["stop.steps=60", "parallel.dp=2", change]);
        let tail = losses[50..].iter().sum::<f64>() / 10.0;
        assert!(tail < losses[0] - 0.1, "{change}: {} to {tail}", losses[0]);
    }
    Ok(())
}
