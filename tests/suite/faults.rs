//! A rank that fails or hangs ends the worker, and the report names rank, step and operation.

use std::time::{Duration, Instant};

use capstan::{base::fault::Fault, engine::Ending, event::Event};
use libtest_mimic::{Failed, Trial};

use crate::in_process::{Bench, Setting, Told};

/// Promise P9: all ranks are done within this time of a fault.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("faults::a_cpp_exception_names_its_rank", || {
            fails("exception", "must match the size", true)
        }),
        Trial::test("faults::a_panic_names_its_rank", || {
            fails("panic", "a planted panic", true)
        }),
        Trial::test("faults::a_hang_names_the_rank_furthest_behind", || {
            fails("hang", "no progress for", true)
        }),
        Trial::test("faults::a_nan_says_where_it_appeared", nan_says_where),
        Trial::test("faults::divergence_stops_the_run", divergence),
    ]
}

fn fault(told: &Told) -> Result<Fault, Failed> {
    let Ending::Faulted(fault) = &told.ending else {
        return Err(format!("{:?}", told.ending).into());
    };
    let events = told
        .events
        .iter()
        .filter(|event| matches!(event, Event::Fault { .. }))
        .count();
    assert_eq!(events, 1, "one event says so");
    Ok(fault.clone())
}

/// On one, two and four ranks, at the last of them.
fn fails(kind: &str, cause: &str, retry: bool) -> Result<(), Failed> {
    for dp in [1, 2, 4] {
        let bench = Bench::new();
        let inject = format!("{}:3:{kind}", dp - 1);
        let changes = [
            &format!("parallel.dp={dp}"),
            "restart.hang_after_s=1",
            "precision=fp32",
        ];
        let began = Instant::now();
        let told = bench.run(
            &changes,
            Setting {
                inject: Some(&inject),
                ..Setting::default()
            },
        );
        assert!(began.elapsed() < ENDS_WITHIN, "{:?}", began.elapsed());
        let fault = fault(&told)?;
        assert_eq!(
            (fault.rank, fault.step, fault.retry),
            (dp - 1, 3, retry),
            "{fault:?}"
        );
        assert!(
            fault.cause.contains(cause) && !fault.operation.is_empty(),
            "{fault:?}"
        );
        assert!(!fault.cause.contains('\n'), "one line: {fault:?}");
    }
    Ok(())
}

fn nan_says_where() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = ["precision=fp32", "parallel.dp=2"];
    for rank in [0, 1] {
        let told = bench.run(
            &changes,
            Setting {
                inject: Some(&format!("{rank}:3:nan-grad")),
                ..Setting::default()
            },
        );
        let fault = fault(&told)?;
        assert!(
            !fault.retry
                && fault.rank == rank
                && fault.cause.contains("already hold it, first in wte.weight"),
            "{fault:?}"
        );
    }
    Ok(())
}

/// No planted fault: a learning rate beyond all reason.
fn divergence() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = [
        "precision=fp32",
        "optimizer.sgd={\"lr\":1e30}",
        "stop.steps=50",
    ];
    let fault = fault(&bench.run(&changes, Setting::default()))?;
    assert!(fault.cause.contains("no finite number"), "{fault:?}");
    Ok(())
}
