//! From what the user wrote to what will happen.

use super::{
    DataSummary, Kept, MemoryPlan, Mesh, PlanError, RankPlan, Refusal, RefusalKind, RunPlan, Split,
    StopPlan, Strategy, models::nearest_divisor,
};
use crate::{
    arch::ModelShape,
    base::units,
    config::{
        OptimizerConfig, Precision, Recompute, RunConfig, ScheduleConfig, StopConfig, WindowsConfig,
    },
    hw::{Device, Machine, sensors::LONGEST_INTERVAL_S},
};

/// Buckets of this size and more start their reduction during the backward pass (PyTorch DDP's size).
const BUCKET_BYTES: u64 = 25 * units::MIB;
/// Memory that gradients of further lanes may take; large operators gain nothing from lanes.
const MOST_LANE_BYTES: u64 = 64 * units::MIB;
/// Threads of a rank beyond any machine.
const MOST_THREADS: usize = 4096;
/// Sequences in a step beyond any use; sums of tokens stay far from overflow.
const LARGEST_BATCH: usize = 1 << 32;
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
        plan.take_cards(machine);
        plan.notes
            .extend(super::notes::notes(config, machine, &plan));
        Ok(plan)
    } else {
        Err(PlanError(resolver.refusals))
    }
}

pub(super) struct Resolver<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) machine: &'a Machine,
    pub(super) data: &'a DataSummary,
    pub(super) refusals: Vec<Refusal>,
    pub(super) notes: Vec<String>,
}

impl Resolver<'_> {
    fn plan(&mut self) -> RunPlan {
        let model = self.model();
        let n_refused = self.refusals.len();
        let devices = self.devices();
        let mesh = self.mesh(devices.len());
        let (local_batch, micro_batch) = self.batch(mesh);
        // After a refusal these are not the user's numbers, and say nothing about a schedule.
        let is_meant = self.refusals.len() == n_refused;
        let n_micros = is_meant.then_some(local_batch / micro_batch.max(1));
        let split = self.split(&model, mesh, n_micros);
        self.optimizer();
        self.schedule();
        self.cadence();
        self.check_data(&model);
        let threads = self.threads(devices.len());
        let lanes = lanes(&devices, &split, threads, micro_batch, &model);
        let short_grads =
            self.config.precision == Precision::Bf16 && (local_batch, lanes) == (micro_batch, 1);
        let kept = Kept {
            precision: self.config.precision,
            short_grads,
            optimizer: &self.config.optimizer,
        };
        let mut memory = MemoryPlan::of(&model, &split, kept);
        memory.grads_bytes *= lanes as u64;
        self.check_memory(&memory, &devices);
        let (communicator, n_workers) = self.communicator(&devices);
        let is_on_gpus = devices.iter().any(|device| *device != Device::Cpu);
        let bucket_bytes = is_on_gpus.then_some(BUCKET_BYTES);
        let gpus = self.machine.gpus.iter().filter(|_| is_on_gpus);
        let gpu_uuids = gpus.map(|gpu| gpu.uuid.clone()).collect();
        RunPlan {
            n_params: model.n_params(),
            flops_per_token: model.flops_per_token(),
            stop: self.stop(&model),
            model,
            precision: self.precision(&devices),
            short_grads,
            split,
            communicator,
            n_workers,
            peak_flops: None,
            attention: self.config.attention,
            cudnn_attention: false,
            lacks_peer_access: false,
            ranks: devices
                .into_iter()
                .map(|device| RankPlan {
                    device,
                    threads,
                    lanes,
                })
                .collect(),
            gpu_uuids,
            global_batch: self.config.batch.global,
            local_batch,
            micro_batch,
            grad_accum_steps: local_batch / micro_batch.max(1),
            bucket_bytes,
            data: self.data.clone(),
            memory,
            init: None,
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

    pub(super) fn refuse_as(
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
            (
                "log.sensors_every_s",
                self.config.log.sensors_every_s.unwrap_or(1),
            ),
        ] {
            if value == 0 {
                self.refuse(path, "is 0", "give at least 1");
            }
        }
        let sensors_every_s = self.config.log.sensors_every_s;
        if sensors_every_s.is_some_and(|every_s| every_s > LONGEST_INTERVAL_S) {
            self.refuse(
                "log.sensors_every_s",
                format!("is more than {LONGEST_INTERVAL_S}"),
                "give at most an hour, or null for no looks",
            );
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
            Some(threads) if threads > MOST_THREADS => {
                let problem = format!("is {threads}");
                self.refuse(
                    "threads_per_rank",
                    problem,
                    format!("give at most {MOST_THREADS}"),
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
        let (path, steps) = match self.config.stop {
            StopConfig::Steps(steps) => ("stop.steps", steps),
            StopConfig::Tokens(tokens) => ("stop.tokens", tokens.div_ceil(tokens_per_step.max(1))),
            StopConfig::Epochs(epochs) => {
                let steps = epochs * windows as f64 / self.config.batch.global.max(1) as f64;
                ("stop.epochs", steps.ceil() as u64)
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
            self.refuse(path, "makes no step", "give at least 1");
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
            precision @ (Precision::Tf32 | Precision::Bf16) => {
                self.note_older_cards(precision, devices);
                precision
            }
            Precision::Fp64 if !on_cpu => {
                self.refuse("precision", "fp64 is for CPU ranks", "try fp32");
                Precision::Fp32
            }
            precision => precision,
        }
    }
}

/// The most lanes of a CPU rank that divide its threads and its micro-batch, and whose gradients stay small.
fn lanes(
    devices: &[Device],
    split: &Split,
    threads: usize,
    micro_batch: usize,
    model: &ModelShape,
) -> usize {
    let is_plain = matches!(split.data, Strategy::Single | Strategy::Ddp)
        && (split.mesh.pp, split.mesh.tp, split.recompute) == (1, 1, Recompute::None);
    if devices.iter().any(|device| *device != Device::Cpu) || !is_plain {
        return 1;
    }
    let fits = |lanes: usize| {
        let more_bytes = (4 * model.n_params()).saturating_mul(lanes as u64 - 1);
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
