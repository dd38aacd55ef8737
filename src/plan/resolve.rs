//! From what the user wrote to what will happen.

use super::{
    Communicator, DataSummary, MemoryPlan, Mesh, PlanError, RankPlan, Refusal, RefusalKind,
    RunPlan, Split, StopPlan, Strategy,
};
use crate::{
    arch::{ModelShape, gpt::GptShape},
    base::units,
    config::{
        DeviceConfig, DevicesConfig, GptConfig, ModelConfig, OptimizerConfig, ParallelConfig,
        Precision, Recompute, RunConfig, ScheduleConfig, StopConfig, WindowsConfig,
    },
    hw::{Device, Machine, peak_flops},
};

/// Buckets of this size and more start their reduction during the backward pass (PyTorch DDP's size).
const BUCKET_BYTES: u64 = 25 * units::MIB;
/// Memory that gradients of further lanes may take; large operators gain nothing from lanes.
const MOST_LANE_BYTES: u64 = 64 * units::MIB;
/// Sequences in a step beyond any use; sums of tokens stay far from overflow.
const LARGEST_BATCH: usize = 1 << 32;
/// CPU ranks that a run takes when neither devices nor degrees are given.
const AUTO_CPU_RANKS: usize = 2;
/// Lowest compute capability that the pinned libtorch has kernels for.
const OLDEST_CAPABILITY: [u32; 2] = [7, 5];

/// Fills in every automatic choice and checks every number against the others, the machine and the data.
///
/// # Errors
/// All refusals together, each with the nearest thing that works.
pub fn resolve(
    config: &RunConfig,
    machine: &Machine,
    data: &DataSummary,
) -> Result<RunPlan, PlanError> {
    let mut resolver = Resolver {
        config,
        machine,
        data,
        refusals: Vec::new(),
        notes: Vec::new(),
    };
    let mut plan = resolver.plan();
    if resolver.refusals.is_empty() {
        plan.notes.extend(super::notes::notes(config, &plan));
        Ok(plan)
    } else {
        Err(PlanError(resolver.refusals))
    }
}

pub(super) struct Resolver<'a> {
    pub(super) config: &'a RunConfig,
    machine: &'a Machine,
    data: &'a DataSummary,
    refusals: Vec<Refusal>,
    pub(super) notes: Vec<String>,
}

impl Resolver<'_> {
    fn plan(&mut self) -> RunPlan {
        let model = self.model();
        let devices = self.devices();
        let mesh = self.mesh(devices.len());
        let (local_batch, micro_batch) = self.batch(mesh);
        let split = self.split(&model, mesh, local_batch / micro_batch.max(1));
        self.optimizer();
        self.schedule();
        self.cadence();
        self.check_data(&model);
        let mut memory = MemoryPlan::of(
            &model,
            &split,
            self.config.precision,
            &self.config.optimizer,
        );
        let threads = self.threads(devices.len());
        let lanes = lanes(&devices, &split, threads, micro_batch, memory.grads_bytes);
        memory.grads_bytes *= lanes as u64;
        self.check_memory(&memory, &devices);
        let bucket_bytes = devices
            .iter()
            .any(|device| *device != Device::Cpu)
            .then_some(BUCKET_BYTES);
        RunPlan {
            n_params: model.n_params(),
            flops_per_token: model.flops_per_token(),
            stop: self.stop(&model),
            model,
            precision: self.precision(&devices),
            split,
            communicator: communicator(&devices),
            peak_flops: self.peak(&devices),
            ranks: devices
                .into_iter()
                .map(|device| RankPlan {
                    device,
                    threads,
                    lanes,
                })
                .collect(),
            global_batch: self.config.batch.global,
            local_batch,
            micro_batch,
            grad_accum_steps: local_batch / micro_batch.max(1),
            bucket_bytes,
            data: self.data.clone(),
            memory,
            notes: std::mem::take(&mut self.notes),
        }
    }

    pub(super) fn refuse(
        &mut self,
        path: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.refuse_as(RefusalKind::Config, path, problem, remedy);
    }

    fn refuse_as(
        &mut self,
        kind: RefusalKind,
        path: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.refusals.push(Refusal {
            path: path.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
            kind,
        });
    }

    fn model(&mut self) -> ModelShape {
        let ModelConfig::Gpt(gpt) = &self.config.model;
        ModelShape::Gpt(self.gpt(gpt))
    }

    fn gpt(&mut self, gpt: &GptConfig) -> GptShape {
        let preset = gpt.preset.map(|preset| preset.sizes());
        let mut size = |name: &str, own: Option<usize>, preset: Option<usize>| match own.or(preset)
        {
            Some(0) => {
                self.refuse(&format!("model.gpt.{name}"), "is 0", "give at least 1");
                1
            }
            Some(size) if size > largest(name) => {
                let remedy = format!("give at most {}", largest(name));
                self.refuse(&format!("model.gpt.{name}"), format!("is {size}"), remedy);
                1
            }
            Some(size) => size,
            None => {
                self.refuse(
                    &format!("model.gpt.{name}"),
                    "is missing",
                    "give it, or a preset such as \"gpt-micro\"",
                );
                1
            }
        };
        let mut shape = GptShape {
            n_layer: size("n_layer", gpt.n_layer, preset.map(|p| p.n_layer)),
            n_head: size("n_head", gpt.n_head, preset.map(|p| p.n_head)),
            d_model: size("d_model", gpt.d_model, preset.map(|p| p.d_model)),
            seq_len: size("seq_len", gpt.seq_len, preset.map(|p| p.seq_len)),
            vocab_size: gpt.vocab_size.unwrap_or(self.data.vocab_size),
            bias: gpt.bias.unwrap_or(true),
            dropout: gpt.dropout.unwrap_or(0.0),
        };
        if !shape.d_model.is_multiple_of(shape.n_head) {
            let nearest = nearest_divisor(shape.d_model, shape.n_head);
            let problem = format!(
                "{} heads do not divide a width of {}",
                shape.n_head, shape.d_model
            );
            self.refuse("model.gpt.n_head", problem, format!("try {nearest}"));
            shape.n_head = 1;
        }
        if !(0.0..1.0).contains(&shape.dropout) {
            self.refuse(
                "model.gpt.dropout",
                format!("is {}", shape.dropout),
                "give a number in [0, 1)",
            );
        }
        if shape.vocab_size < self.data.vocab_size {
            let problem = format!(
                "{} rows for a vocabulary of {}",
                shape.vocab_size, self.data.vocab_size
            );
            self.refuse(
                "model.gpt.vocab_size",
                problem,
                format!("give at least {}, or leave it out", self.data.vocab_size),
            );
        }
        shape
    }

    /// The devices of the ranks, in rank order.
    fn devices(&mut self) -> Vec<Device> {
        let wanted = self
            .config
            .parallel
            .map(|parallel| parallel.dp * parallel.tp * parallel.pp);
        if let Some(ParallelConfig { dp, tp, pp, .. }) =
            self.config.parallel.filter(|_| wanted == Some(0))
        {
            for (axis, degree) in [("dp", dp), ("tp", tp), ("pp", pp)] {
                if degree == 0 {
                    self.refuse(&format!("parallel.{axis}"), "is 0", "give at least 1");
                }
            }
            return vec![Device::Cpu];
        }
        let mut devices = match &self.config.devices {
            DevicesConfig::Auto => self.automatic_devices(wanted),
            DevicesConfig::List(list) => list
                .iter()
                .map(|&device| self.named_device(device))
                .collect(),
        };
        if devices.is_empty() {
            self.refuse(
                "devices",
                "is empty",
                "name at least one, such as [\"cpu\"], or \"auto\"",
            );
            devices.push(Device::Cpu);
        }
        if devices.contains(&Device::Cpu)
            && devices
                .iter()
                .any(|device| matches!(device, Device::Cuda(_)))
        {
            self.refuse("devices", "mixes CPU and GPU ranks", "name one kind");
        }
        let wanted = wanted.unwrap_or(devices.len());
        if wanted > devices.len() {
            let problem = format!("{wanted} ranks on {} device(s)", devices.len());
            let remedy = format!(
                "try {} rank(s), or name {wanted} devices (one may stand twice)",
                devices.len()
            );
            self.refuse("parallel", problem, remedy);
        } else if wanted < devices.len() {
            self.notes.push(format!(
                "{} of {} devices stay unused",
                devices.len() - wanted,
                devices.len()
            ));
            devices.truncate(wanted);
        }
        devices
    }

    fn automatic_devices(&mut self, wanted: Option<usize>) -> Vec<Device> {
        let usable = |capability: [u32; 2]| capability >= OLDEST_CAPABILITY;
        let old = self
            .machine
            .gpus
            .iter()
            .filter(|gpu| !usable(gpu.compute_capability))
            .count();
        if old > 0 {
            self.notes.push(format!(
                "{old} GPU(s) are older than sm_75 and can't be used by libtorch 2.11"
            ));
        }
        let gpus: Vec<Device> = (0..self.machine.gpus.len())
            .filter(|&index| usable(self.machine.gpus[index].compute_capability))
            .map(Device::Cuda)
            .collect();
        if !gpus.is_empty() && self.config.precision != Precision::Fp64 {
            return gpus;
        }
        let ranks = wanted.unwrap_or_else(|| {
            let most = AUTO_CPU_RANKS.min(self.machine.cores);
            (1..=most)
                .rev()
                .find(|n| self.config.batch.global.is_multiple_of(*n))
                .unwrap_or(1)
        });
        vec![Device::Cpu; ranks]
    }

    fn named_device(&mut self, device: DeviceConfig) -> Device {
        let DeviceConfig::Gpu(index) = device else {
            return Device::Cpu;
        };
        let n_gpus = self.machine.gpus.len();
        if index >= n_gpus {
            let problem = match (&self.machine.no_gpus_because, n_gpus) {
                (Some(reason), 0) => format!("names GPU {index}, but {reason}"),
                (_, n) => format!("names GPU {index} of {n}"),
            };
            self.refuse_as(
                RefusalKind::DeviceMissing,
                "devices",
                problem,
                "try \"auto\" or [\"cpu\"]; `capstan doctor` says more",
            );
        }
        let capability = self
            .machine
            .gpus
            .get(index)
            .map(|gpu| gpu.compute_capability);
        if capability.is_some_and(|capability| capability < OLDEST_CAPABILITY) {
            let problem = format!("names GPU {index}, which is older than sm_75");
            self.refuse_as(
                RefusalKind::DeviceMissing,
                "devices",
                problem,
                "name another, or \"auto\"",
            );
        }
        Device::Cuda(index)
    }

    /// Local and micro batch; both 1 after a refusal.
    fn batch(&mut self, mesh: Mesh) -> (usize, usize) {
        let (global, dp) = (self.config.batch.global, mesh.dp);
        if global == 0 {
            self.refuse("batch.global", "is 0", format!("try {dp}"));
            return (1, 1);
        }
        if global > LARGEST_BATCH {
            self.refuse(
                "batch.global",
                format!("is {global}"),
                format!("give at most {LARGEST_BATCH}"),
            );
            return (1, 1);
        }
        if !global.is_multiple_of(dp) {
            let nearest = nearest_multiple(global, dp);
            self.refuse(
                "batch.global",
                format!("{global} is not divisible by {dp} data-parallel ranks"),
                format!("try {nearest}"),
            );
            return (1, 1);
        }
        let local = global / dp;
        match self.config.batch.micro {
            None if mesh.pp > 1 => (local, local / n_micros(local, mesh.pp)),
            None => (local, local),
            Some(micro) if micro > 0 && local.is_multiple_of(micro) => (local, micro),
            Some(micro) => {
                let problem = format!("{micro} does not divide the {local} sequences of a rank");
                self.refuse(
                    "batch.micro",
                    problem,
                    format!("try {}", nearest_divisor(local, micro)),
                );
                (1, 1)
            }
        }
    }

    fn optimizer(&mut self) {
        let optimizer = &self.config.optimizer;
        let mut check = |path: &str, value: f64, ok: bool, remedy: &str| {
            if !ok || !value.is_finite() {
                self.refuse(path, format!("is {value}"), remedy);
            }
        };
        match optimizer {
            OptimizerConfig::Adamw(adamw) => {
                check(
                    "optimizer.adamw.lr",
                    adamw.lr,
                    adamw.lr >= 0.0,
                    "give a number of at least 0, such as 0.001",
                );
                for beta in adamw.betas {
                    check(
                        "optimizer.adamw.betas",
                        beta,
                        (0.0..1.0).contains(&beta),
                        "give two numbers in [0, 1)",
                    );
                }
                check(
                    "optimizer.adamw.eps",
                    adamw.eps,
                    adamw.eps > 0.0,
                    "give a positive number, such as 1e-8",
                );
                check(
                    "optimizer.adamw.weight_decay",
                    adamw.weight_decay,
                    adamw.weight_decay >= 0.0,
                    "give at least 0",
                );
            }
            OptimizerConfig::Sgd(sgd) => {
                check(
                    "optimizer.sgd.lr",
                    sgd.lr,
                    sgd.lr >= 0.0,
                    "give a number of at least 0, such as 0.1",
                );
                check(
                    "optimizer.sgd.momentum",
                    sgd.momentum,
                    (0.0..1.0).contains(&sgd.momentum),
                    "give a number in [0, 1)",
                );
                check(
                    "optimizer.sgd.weight_decay",
                    sgd.weight_decay,
                    sgd.weight_decay >= 0.0,
                    "give at least 0",
                );
            }
        }
        if let Some(clip) = optimizer.clip() {
            let path = match optimizer {
                OptimizerConfig::Adamw(_) => "optimizer.adamw.clip",
                OptimizerConfig::Sgd(_) => "optimizer.sgd.clip",
            };
            check(
                path,
                clip,
                clip > 0.0,
                "give a positive number, or null for no clipping",
            );
        }
    }

    fn schedule(&mut self) {
        let (name, min_lr) = match self.config.schedule {
            ScheduleConfig::Constant(_) => return,
            ScheduleConfig::Linear(linear) => ("linear", linear.min_lr),
            ScheduleConfig::Cosine(cosine) => ("cosine", cosine.min_lr),
            ScheduleConfig::Wsd(wsd) => ("wsd", wsd.min_lr),
        };
        let lr = self.config.optimizer.lr();
        if !(0.0..=lr).contains(&min_lr) {
            let problem = format!("is {min_lr} for a peak of {lr}");
            self.refuse(
                &format!("schedule.{name}.min_lr"),
                problem,
                "give a number between 0 and lr",
            );
        }
    }

    fn cadence(&mut self) {
        if let Some(sample) = &self.config.sample {
            if !(sample.temperature >= 0.0 && sample.temperature.is_finite()) {
                let problem = format!("is {}", sample.temperature);
                self.refuse("sample.temperature", problem, "give a number of at least 0");
            }
            if sample.top_k == Some(0) {
                self.refuse(
                    "sample.top_k",
                    "is 0",
                    "give at least 1, or null for all tokens",
                );
            }
        }
        for (path, value) in [
            ("eval.every", self.config.eval.every),
            ("eval.batches", self.config.eval.batches),
            ("checkpoint.every", self.config.checkpoint.every),
            ("log.every", self.config.log.every),
            ("restart.hang_after_s", self.config.restart.hang_after_s),
        ] {
            if value == 0 {
                self.refuse(path, "is 0", "give at least 1");
            }
        }
        if self.config.checkpoint.keep < 2 {
            let problem = format!("keeps {}", self.config.checkpoint.keep);
            self.refuse(
                "checkpoint.keep",
                problem,
                "give at least 2: the newest may turn out to be damaged",
            );
        }
    }

    fn check_data(&mut self, model: &ModelShape) {
        let window = model.seq_len() as u64 + 1;
        for (what, n_tokens) in [
            ("training", self.data.train_tokens),
            ("held-out", self.data.val_tokens),
        ] {
            if n_tokens < window {
                let problem =
                    format!("the {what} text has {n_tokens} tokens, a window needs {window}");
                self.refuse(
                    "data",
                    problem,
                    "give a longer text, another val_fraction or a smaller seq_len",
                );
            }
        }
    }

    fn check_memory(&mut self, memory: &MemoryPlan, devices: &[Device]) {
        let on_cpu = devices
            .iter()
            .filter(|device| **device == Device::Cpu)
            .count() as u64;
        let needed = memory.total() * on_cpu;
        // A machine that does not say how much memory it has is not doubted.
        let is_known = self.machine.memory_bytes > 0;
        if on_cpu > 0 && is_known && needed > self.machine.memory_bytes {
            let problem = format!(
                "weights, gradients and optimizer state take {} of {} memory",
                units::bytes(needed),
                units::bytes(self.machine.memory_bytes)
            );
            self.refuse_as(
                RefusalKind::DoesNotFit,
                "model",
                problem,
                "take a smaller model or fewer ranks",
            );
        }
        for (index, gpu) in self.machine.gpus.iter().enumerate() {
            let ranks = devices
                .iter()
                .filter(|device| **device == Device::Cuda(index))
                .count() as u64;
            if memory.total() * ranks > gpu.memory_bytes {
                let problem = format!(
                    "weights, gradients and optimizer state take {} of GPU {index}'s {}",
                    units::bytes(memory.total() * ranks),
                    units::bytes(gpu.memory_bytes)
                );
                self.refuse_as(
                    RefusalKind::DoesNotFit,
                    "model",
                    problem,
                    "take a smaller model",
                );
            }
        }
    }

    fn threads(&mut self, world: usize) -> usize {
        match self.config.threads_per_rank {
            Some(0) => {
                self.refuse(
                    "threads_per_rank",
                    "is 0",
                    "give at least 1, or leave it out",
                );
                1
            }
            Some(threads) => threads,
            None => (self.machine.cores / world).max(1),
        }
    }

    fn stop(&mut self, model: &ModelShape) -> StopPlan {
        let tokens_per_step = (self.config.batch.global * model.seq_len()) as u64;
        let windows = match self.config.data.windows() {
            WindowsConfig::Disjoint => self
                .data
                .train_tokens
                .saturating_sub(1)
                .div_ceil(model.seq_len() as u64),
            WindowsConfig::Random => self.data.train_tokens / model.seq_len() as u64,
        };
        let steps = match self.config.stop {
            StopConfig::Steps(steps) => steps,
            StopConfig::Tokens(tokens) => tokens.div_ceil(tokens_per_step.max(1)),
            StopConfig::Epochs(epochs) => {
                (epochs * windows as f64 / self.config.batch.global.max(1) as f64).ceil() as u64
            }
            StopConfig::Seconds(seconds) => {
                if !(seconds.is_finite() && seconds > 0.0) {
                    self.refuse(
                        "stop.seconds",
                        format!("is {seconds}"),
                        "give a positive number",
                    );
                }
                return StopPlan::Seconds { seconds };
            }
        };
        if steps == 0 {
            self.refuse("stop", "makes no step", "give at least one step's worth");
        }
        StopPlan::Steps { steps }
    }

    fn precision(&mut self, devices: &[Device]) -> Precision {
        let on_cpu = devices.iter().all(|device| *device == Device::Cpu);
        match self.config.precision {
            Precision::Tf32 if on_cpu => {
                self.notes.push("tf32 computes as fp32 on CPU".to_owned());
                Precision::Fp32
            }
            Precision::Fp64 if !on_cpu => {
                self.refuse("precision", "fp64 is for CPU ranks", "try fp32");
                Precision::Fp32
            }
            precision => precision,
        }
    }

    fn peak(&self, devices: &[Device]) -> Option<f64> {
        let mut indices: Vec<usize> = devices
            .iter()
            .map(|device| match device {
                Device::Cuda(index) => Some(*index),
                Device::Cpu => None,
            })
            .collect::<Option<_>>()?;
        indices.sort_unstable();
        indices.dedup();
        if self.config.precision != Precision::Bf16 {
            return None;
        }
        indices
            .iter()
            .map(|&index| peak_flops(&self.machine.gpus.get(index)?.name).map(|peak| peak.flops))
            .sum()
    }
}

/// NCCL needs a GPU of its own for each rank.
fn communicator(devices: &[Device]) -> Communicator {
    let distinct: std::collections::HashSet<_> = devices.iter().collect();
    let on_gpus = devices
        .iter()
        .all(|device| matches!(device, Device::Cuda(_)));
    match devices.len() {
        1 => Communicator::Solo,
        n if on_gpus && distinct.len() == n => Communicator::Nccl,
        _ => Communicator::Local,
    }
}

/// The most lanes of a CPU rank that divide its threads and its micro-batch, and whose gradients stay small.
fn lanes(
    devices: &[Device],
    split: &Split,
    threads: usize,
    micro_batch: usize,
    grads_bytes: u64,
) -> usize {
    let is_plain = matches!(split.data, Strategy::Single | Strategy::Ddp)
        && (split.mesh.pp, split.mesh.tp, split.recompute) == (1, 1, Recompute::None);
    if devices.iter().any(|device| *device != Device::Cpu) || !is_plain {
        return 1;
    }
    let fits = |lanes: usize| {
        let more_bytes = grads_bytes.saturating_mul(lanes as u64 - 1);
        threads.is_multiple_of(lanes)
            && micro_batch.is_multiple_of(lanes)
            && more_bytes <= MOST_LANE_BYTES
    };
    (1..=threads).rev().find(|&lanes| fits(lanes)).unwrap_or(1)
}

/// Micro-batches of a pipeline: the divisor of the batch nearest to four rounds, as rounds where that works.
fn n_micros(local_batch: usize, n_stages: usize) -> usize {
    let most = 4 * n_stages;
    let divisors = (1..=most.min(local_batch)).filter(|n| local_batch.is_multiple_of(*n));
    let in_rounds = divisors
        .clone()
        .filter(|n| n.is_multiple_of(n_stages))
        .max();
    in_rounds.or(divisors.max()).unwrap_or(1)
}

fn nearest_multiple(n: usize, of: usize) -> usize {
    ((n + of / 2) / of * of).max(of)
}

/// The divisor of `n` closest to `wanted`.
fn nearest_divisor(n: usize, wanted: usize) -> usize {
    const FURTHEST: usize = 1 << 20;
    let wanted = wanted.clamp(1, n.max(1));
    let nearby = (0..FURTHEST).flat_map(|d| [wanted.saturating_sub(d), wanted.saturating_add(d)]);
    nearby
        .into_iter()
        .find(|&d| d > 0 && d <= n && n.is_multiple_of(d))
        .unwrap_or(1)
}

/// The largest size that a model's arithmetic is made for.
fn largest(name: &str) -> usize {
    match name {
        "n_layer" => 10_000,
        _ => 1 << 20,
    }
}
