//! What the chart beside the loss shows.

use super::{board::Board, chart::number, live::turned, series::Series};
use crate::base::units;

/// A value over the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    #[default]
    Throughput,
    LearningRate,
    GradNorm,
    StepTime,
    Mfu,
    Busy,
    Memory,
    Power,
    Temperature,
}

const METRICS: [Metric; 9] = [
    Metric::Throughput,
    Metric::LearningRate,
    Metric::GradNorm,
    Metric::StepTime,
    Metric::Mfu,
    Metric::Busy,
    Metric::Memory,
    Metric::Power,
    Metric::Temperature,
];

impl Metric {
    /// The metric `by` places on, of those of which there is a value.
    pub fn turned(self, board: &Board, by: isize) -> Self {
        let mut next = turned(&METRICS, self, by);
        while next != self && next.series(board).span().is_none() {
            next = turned(&METRICS, next, by);
        }
        next
    }

    /// Its curve.
    pub fn series(self, board: &Board) -> &Series {
        match self {
            Self::Throughput => &board.tokens_per_sec,
            Self::LearningRate => &board.lr,
            Self::GradNorm => &board.grad_norm,
            Self::StepTime => &board.step_time,
            Self::Mfu => &board.mfu,
            Self::Busy => &board.devices.busy,
            Self::Memory => &board.devices.memory,
            Self::Power => &board.devices.power,
            Self::Temperature => &board.devices.temperature,
        }
    }

    /// Its name, which says what becomes of several devices, or that it is the whole host's.
    pub fn title(self, board: &Board) -> &'static str {
        let is_hosts = board
            .plan
            .as_ref()
            .is_some_and(|plan| plan.gpus().is_empty());
        match self {
            Self::Busy if is_hosts => "host busy",
            Self::Memory if is_hosts => "host memory",
            Self::Power if is_hosts => "package power",
            Self::Throughput => "throughput",
            Self::LearningRate => "learning rate",
            Self::GradNorm => "grad norm",
            Self::StepTime => "step time",
            Self::Mfu => "MFU",
            Self::Busy => "busy, mean",
            Self::Memory => "memory, fullest",
            Self::Power => "power, all",
            Self::Temperature => "temperature, hottest",
        }
    }

    /// A value with its unit, as wide as any other.
    pub fn told(self, value: f64) -> String {
        match self {
            Self::Throughput => format!("{:>5} tok/s", units::count(value.round())),
            Self::LearningRate => format!("{value:.3e}"),
            Self::GradNorm => format!("{:>6}", number(value)),
            Self::StepTime => format!("{:>7}", units::seconds(value)),
            Self::Mfu => format!("{:>4.1} %", value * 100.0),
            Self::Busy => format!("{value:>3.0} %"),
            Self::Memory => format!("{value:>6.2} GiB"),
            Self::Power => format!("{value:>4.0} W"),
            Self::Temperature => format!("{value:>3.0} °C"),
        }
    }
}
