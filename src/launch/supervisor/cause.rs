//! Why a worker died, in words.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use signal_hook::consts::{SIGABRT, SIGBUS, SIGILL, SIGKILL, SIGSEGV};

use crate::{
    base::fault::FaultKind,
    config::Recompute,
    plan::{RunPlan, Strategy},
};

/// A worker's death as the supervisor saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub text: String,
    /// Whether starting again may help.
    pub retry: bool,
    /// The run's exit code if it ends of this.
    pub code: u8,
}

/// Names the cause of an exit that no last event announced.
///
/// `out_of_memory`: the kernel counted a kill while the worker lived. `last_line`: of worker.log.
pub fn of_exit(status: ExitStatus, out_of_memory: bool, last_line: Option<&str>) -> Cause {
    let quoted = last_line
        .map(|line| format!(": {line}"))
        .unwrap_or_default();
    if let Some(signal) = status.signal() {
        return Cause {
            text: of_signal(signal, out_of_memory, &quoted),
            retry: true,
            code: 1,
        };
    }
    let code = status.code().unwrap_or_default();
    let (text, retry, code) = match code {
        0 => ("the worker left without its last event".to_owned(), true, 1),
        101 => (format!("a panic (exit code 101){quoted}"), true, 1),
        // The dynamic loader's: a library is missing.
        127 => (
            format!("the worker could not be loaded (exit code 127){quoted}"),
            false,
            4,
        ),
        2 => (
            format!("the worker refused its config (exit code 2){quoted}"),
            false,
            2,
        ),
        3 => (
            format!("the plan does not fit (exit code 3){quoted}"),
            false,
            3,
        ),
        4 => (
            format!("a driver, device or library is missing (exit code 4){quoted}"),
            false,
            4,
        ),
        5 => (
            format!("the data can't be read (exit code 5){quoted}"),
            false,
            5,
        ),
        _ => (format!("exit code {code}{quoted}"), true, 1),
    };
    Cause { text, retry, code }
}

/// What `kind` adds to the cause of a fault that the worker reported: what to try, and whether starting again helps.
///
/// `has_stepped`: this life had finished a step. Before its first step memory runs out again in the next life; later it
/// may have been somebody else's doing.
pub fn with_remedy(cause: Cause, kind: FaultKind, plan: &RunPlan, has_stepped: bool) -> Cause {
    let remedy = match kind {
        FaultKind::Other => return cause,
        FaultKind::NotFinite => {
            "a smaller learning rate, a longer warm-up or clipping may help".to_owned()
        }
        FaultKind::OutOfMemory => less_memory(plan),
    };
    // libtorch ends a sentence with a full stop.
    let text = format!("{}; {remedy}", cause.text.trim_end_matches('.'));
    match kind {
        FaultKind::OutOfMemory if !has_stepped => Cause {
            text,
            retry: false,
            code: DOES_NOT_FIT,
        },
        _ => Cause { text, ..cause },
    }
}

/// The exit code of a run that does not fit, as in the README.
const DOES_NOT_FIT: u8 = 3;

/// The ways out of a lack of memory that the plan has not taken yet, the cheapest first.
fn less_memory(plan: &RunPlan) -> String {
    let is_cut = plan.split.mesh.dp > 1 && plan.split.data != Strategy::Primary;
    let ways = [
        (plan.micro_batch > 1, "a smaller batch.micro"),
        (
            plan.split.recompute == Recompute::None,
            "parallel.recompute=selective or full",
        ),
        (
            is_cut && plan.split.data.zero() < 3,
            "a higher parallel.zero",
        ),
    ];
    let open: Vec<&str> = ways
        .into_iter()
        .filter(|(is_open, _)| *is_open)
        .map(|(_, way)| way)
        .collect();
    match open.as_slice() {
        [] => "a smaller model or more GPUs take less of each".to_owned(),
        ways => format!("{} takes less", ways.join(", ")),
    }
}

fn of_signal(signal: i32, out_of_memory: bool, quoted: &str) -> String {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("unnamed");
    let killed = format!("killed by signal {signal} ({name})");
    match signal {
        SIGKILL if out_of_memory => format!("{killed}: the kernel's out-of-memory killer acted"),
        SIGKILL => killed,
        SIGABRT => format!("{killed}, an abort or an uncaught C++ exception{quoted}"),
        SIGSEGV => format!("{killed}, an access to memory that is not its own{quoted}"),
        SIGBUS => format!(
            "{killed}, an access to a file that became shorter, or to broken memory{quoted}"
        ),
        SIGILL => format!("{killed}, an instruction that this processor does not have{quoted}"),
        _ => format!("{killed}{quoted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(raw: i32) -> ExitStatus {
        ExitStatus::from_raw(raw)
    }

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn signals_are_named() {
        assert_eq!(
            of_exit(signal(9), false, Some("x")).text,
            "killed by signal 9 (SIGKILL)"
        );
        let oom = of_exit(signal(9), true, None).text;
        assert!(oom.contains("out-of-memory killer"), "{oom}");
        let abort = of_exit(signal(6), true, Some("what(): bad size")).text;
        assert!(
            abort.contains("SIGABRT") && abort.ends_with("what(): bad size"),
            "{abort}"
        );
        assert!(of_exit(signal(11), false, None).text.contains("SIGSEGV"));
    }

    #[test]
    fn what_starting_again_cannot_help_is_not_retried() {
        for (code, out) in [(2, 2), (3, 3), (4, 4), (5, 5), (127, 4)] {
            let cause = of_exit(exit(code), false, Some("why"));
            assert_eq!((cause.retry, cause.code), (false, out));
            assert!(cause.text.ends_with("why"), "{}", cause.text);
        }
        for code in [0, 1, 101, 70] {
            assert!(of_exit(exit(code), false, None).retry, "{code}");
        }
    }
}
