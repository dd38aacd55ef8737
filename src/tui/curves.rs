//! What the run's devices did over its steps.

use std::collections::VecDeque;

use super::series::Series;
use crate::{
    base::units::GIB,
    event::{GpuReading, Reading},
    plan::RunPlan,
};

/// Looks at the sensors that are kept card by card.
pub const LOOKS: usize = 12;

/// One curve each over all devices of the run; on CPU ranks over the host. A look at which a value is not known of
/// every device adds nothing.
#[derive(Clone, Default)]
pub struct DeviceCurves {
    /// Mean share of time in which the devices worked, percent.
    pub busy: Series,
    /// Of the fullest device, GiB.
    pub memory: Series,
    /// Of all devices, watts.
    pub power: Series,
    /// Of the hottest device, degrees Celsius.
    pub temperature: Series,
    /// Shares of time in which the visible GPUs were busy, at the latest looks.
    busy_by_gpu: VecDeque<Vec<Option<f64>>>,
}

impl DeviceCurves {
    /// Shares of time in which a GPU was busy, at the latest looks; the latest last.
    pub fn busy_of(&self, index: usize) -> impl Iterator<Item = Option<f64>> {
        let looks = self.busy_by_gpu.iter();
        looks.map(move |look| look.get(index).copied().flatten())
    }

    /// Takes in a look at the sensors after a step.
    pub fn push(&mut self, step: u64, reading: &Reading, plan: &RunPlan) {
        if self.busy_by_gpu.len() == LOOKS {
            self.busy_by_gpu.pop_front();
        }
        let busy = reading.gpus.iter().map(|gpu| gpu.busy);
        self.busy_by_gpu.push_back(busy.collect());
        let indices = plan.gpus();
        let host = &reading.host;
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        let power = reading.power_of(&indices);
        let (busy, memory, temperature) = if indices.is_empty() {
            let memory = host.memory_used_bytes.map(gib);
            (host.cpu_busy, memory, None)
        } else {
            let cards: Vec<Option<&GpuReading>> = indices
                .iter()
                .map(|&index| reading.gpus.get(index))
                .collect();
            let all = |of: fn(&GpuReading) -> Option<f64>| {
                let values = cards.iter().map(|card| card.and_then(of));
                values.collect::<Option<Vec<f64>>>()
            };
            let most = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
            let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
            (
                all(|card| card.busy).map(mean),
                all(|card| card.memory_used_bytes.map(|bytes| bytes as f64))
                    .map(|bytes| most(bytes) / GIB as f64),
                all(|card| card.temperature_c.map(f64::from)).map(most),
            )
        };
        let x = step as f64;
        for (series, value) in [
            (&mut self.busy, busy.map(|share| share * 100.0)),
            (&mut self.memory, memory),
            (&mut self.power, power),
            (&mut self.temperature, temperature),
        ] {
            if let Some(value) = value {
                series.push(x, value);
            }
        }
    }

    /// Forgets what lies after a step.
    pub fn cut(&mut self, step: f64) {
        for series in [
            &mut self.busy,
            &mut self.memory,
            &mut self.power,
            &mut self.temperature,
        ] {
            series.cut(step);
        }
    }
}
