//! The unchanged programs on simulated NVIDIA GPUs: a libtorch_cuda, an NCCL and an NVML that compute on the CPU.

#[path = "simulated/counts.rs"]
mod counts;
#[path = "simulated/coverage.rs"]
mod coverage;
#[path = "simulated/libraries.rs"]
pub mod libraries;
#[path = "simulated/life.rs"]
mod life;
#[path = "simulated/matrix.rs"]
mod matrix;
#[path = "simulated/planted.rs"]
mod planted;
#[path = "simulated/splits.rs"]
mod splits;
#[path = "simulated/steps.rs"]
mod steps;
#[path = "simulated/training.rs"]
mod training;

use std::{process::Command, sync::LazyLock};

use libtest_mimic::{Failed, Trial};

use crate::support::Said;

pub fn trials() -> Vec<Trial> {
    let everything = "simulated::everything_is_in_the_matrix";
    let mut trials = vec![Trial::test(everything, coverage::everything)];
    trials.extend(rows());
    trials.extend(overlaps());
    trials.extend(lives());
    trials.extend([
        trial("counts::a_step_costs_what_the_table_says", counts::steps),
        trial(
            "counts::an_evaluation_costs_what_the_table_says",
            counts::evaluations,
        ),
        trial("counts::the_host_waits_once_a_step", counts::waits),
    ]);
    trials.extend(said_of_steps());
    trials
}

fn rows() -> Vec<Trial> {
    let mut trials = Vec::new();
    for split in splits::all() {
        let name = format!("matrix::{}", split.name);
        if matrix::is_stressed(&split) {
            let split = split.clone();
            let name = format!("stress::{}", split.name);
            trials.push(trial(&name, move || matrix::under_stress(&split)));
        }
        trials.push(trial(&name, move || matrix::plain(&split)));
    }
    trials
}

fn overlaps() -> Vec<Trial> {
    let both = planted::OVERLAPS.iter().flat_map(|overlap| {
        [
            trial(
                &format!("planted::a_missing_wait_of_{}_is_named", overlap.row),
                || planted::named(overlap),
            ),
            trial(
                &format!("planted::a_missing_wait_of_{}_is_felt", overlap.row),
                || planted::felt(overlap),
            ),
        ]
    });
    both.chain([
        trial(
            "planted::a_collective_that_is_left_out_is_told",
            planted::left_out,
        ),
        trial(
            "planted::collectives_out_of_order_are_told",
            planted::out_of_order,
        ),
        trial("planted::a_changed_byte_is_refused", planted::corrupted),
        trial(
            "planted::a_buffer_freed_early_is_named",
            planted::freed_early,
        ),
        trial("planted::a_bound_sees_a_missing_wait", planted::bounds),
    ])
    .collect()
}

fn said_of_steps() -> Vec<Trial> {
    vec![
        trial("steps::a_step_takes_the_time_it_took", steps::times),
        trial("steps::a_run_of_two_seconds_takes_two", steps::seconds),
        trial(
            "steps::a_bad_step_is_told_as_on_cpu_ranks",
            steps::bad_steps,
        ),
        trial("steps::a_bad_step_that_mends_itself_is_told", steps::mended),
        trial("steps::no_room_is_an_error_of_one_line", steps::no_room),
        trial("steps::nothing_warns", steps::silence),
    ]
}

fn lives() -> Vec<Trial> {
    vec![
        trial(
            "life::interruptions_leave_every_number_as_it_was",
            life::interrupted,
        ),
        trial(
            "life::a_run_resumes_on_another_split_as_cpu_ranks_do",
            life::resumed_elsewhere,
        ),
        trial(
            "life::killed_workers_are_named_and_leave_no_trace",
            life::killed,
        ),
        trial("life::a_fault_names_rank_step_and_operation", life::faults),
        trial(
            "life::a_card_that_is_too_small_is_told",
            life::out_of_memory,
        ),
        trial("life::a_failing_kernel_is_told", life::failing_kernel),
        trial(
            "life::a_nan_goes_on_without_cudnns_attention_once",
            life::not_finite,
        ),
        trial("the_worker_tests_itself", self_test),
        trial(
            "life::a_vanished_card_is_a_warning_and_gives_way",
            life::vanished_card,
        ),
        trial(
            "life::visible_cards_are_those_that_were_meant",
            life::visible,
        ),
        trial("life::a_run_takes_all_cards_there_are", life::counted),
    ]
}

/// The worker's own test passes here, and fails where a stream does not wait for another.
fn self_test() -> Result<(), Failed> {
    let test = |missing: &str| -> Result<Said, Failed> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capstan-worker"));
        command
            .arg("self-test")
            .env("CAPSTAN_CUDA", libraries::folder()?)
            .env("SIMGPU_SKIP_WAIT", missing);
        Ok(Said::from(command.output()?))
    };
    test("")?.ended_with(0)?;
    test("stream")?
        .ended_with(1)?
        .says(&["FAILED: streams and events order work"])?;
    Ok(())
}

/// A trial that is ignored where nothing compiles the stand-ins.
fn trial(name: &str, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    static MISSING: LazyLock<Option<&str>> = LazyLock::new(libraries::missing);
    let why = MISSING
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    Trial::test(format!("simulated::{name}{why}"), test).with_ignored_flag(MISSING.is_some())
}
