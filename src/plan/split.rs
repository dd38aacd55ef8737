//! Which splits make sense for a model.

use super::{Mesh, Split, Strategy, resolve::Resolver, stages};
use crate::{
    arch::ModelShape,
    config::{ParallelConfig, PipelineSchedule},
};

impl Resolver<'_> {
    /// The mesh of `n_ranks` ranks; without degrees in the config all are data-parallel.
    pub(super) fn mesh(&self, n_ranks: usize) -> Mesh {
        let ParallelConfig { dp, tp, pp, .. } = self.config.parallel.unwrap_or_default();
        let mesh = Mesh { pp, dp, tp };
        match self.config.parallel {
            Some(_) if mesh.world() == n_ranks => mesh,
            _ => Mesh {
                pp: 1,
                dp: n_ranks,
                tp: 1,
            },
        }
    }

    /// Checks a split of `n_micros` micro-batches, where that number is the user's, and cuts the model into stages.
    pub(super) fn split(
        &mut self,
        model: &ModelShape,
        mesh: Mesh,
        n_micros: Option<usize>,
    ) -> Split {
        let parallel = self.config.parallel.unwrap_or_default();
        self.check_tensor(model, &parallel);
        self.check_data_axis(&parallel);
        let n_chunks = self.check_pipeline(model, &parallel, n_micros);
        let costs: Vec<f64> = model
            .segments()
            .iter()
            .map(|segment| segment.forward_flops)
            .collect();
        let runs = stages::balance(&costs, (mesh.pp * n_chunks).min(costs.len()));
        Split {
            mesh,
            data: self.data_strategy(mesh.dp),
            schedule: parallel.schedule,
            chunks: stages::deal(&runs, mesh.pp.min(runs.len())),
            sequence_parallel: parallel.sequence_parallel,
            recompute: parallel.recompute,
        }
    }

    fn data_strategy(&self, dp: usize) -> Strategy {
        let parallel = self.config.parallel.unwrap_or_default();
        match (parallel.zero, parallel.primary) {
            (1, _) => Strategy::Zero1,
            (2, _) => Strategy::Zero2,
            (3, _) => Strategy::Zero3,
            (_, true) => Strategy::Primary,
            _ if dp == 1 => Strategy::Single,
            _ => Strategy::Ddp,
        }
    }

    fn check_tensor(&mut self, model: &ModelShape, parallel: &ParallelConfig) {
        let tp = parallel.tp;
        if tp <= 1 {
            if parallel.sequence_parallel {
                self.refuse(
                    "parallel.sequence_parallel",
                    "has no tensor-parallel ranks to share a sequence",
                    "set parallel.tp to 2 or more, or leave it out",
                );
            }
            return;
        }
        let mut sizes = model.shardable_sizes();
        if parallel.sequence_parallel {
            sizes.push(("seq_len", model.seq_len()));
        }
        let fits = |tp: usize| sizes.iter().all(|(_, size)| size.is_multiple_of(tp));
        let nearest = (1..=tp).rev().find(|&tp| fits(tp)).unwrap_or(1);
        for (name, size) in sizes.iter().filter(|(_, size)| !size.is_multiple_of(tp)) {
            let problem = format!("{tp} ranks can't share {name} {size} evenly");
            self.refuse("parallel.tp", problem, format!("try tp={nearest}"));
        }
    }

    fn check_data_axis(&mut self, parallel: &ParallelConfig) {
        if parallel.zero > 3 {
            self.refuse(
                "parallel.zero",
                format!("is {}", parallel.zero),
                "give 0, 1, 2 or 3",
            );
        } else if parallel.zero > 0 && parallel.dp < 2 {
            let problem = format!(
                "zero {} shards over data-parallel ranks, and dp is {}",
                parallel.zero, parallel.dp
            );
            self.refuse("parallel.zero", problem, "try dp=2, or zero=0");
        }
        if parallel.zero > 1 && parallel.pp > 1 {
            let problem = format!(
                "zero {} would reduce gradients after every micro-batch of every stage",
                parallel.zero
            );
            self.refuse("parallel.zero", problem, "with a pipeline try zero=1");
        }
        if parallel.primary {
            if parallel.dp < 2 {
                self.refuse(
                    "parallel.primary",
                    "needs more than one rank",
                    "raise parallel.dp or leave it out",
                );
            }
            if parallel.zero > 0 || parallel.tp > 1 || parallel.pp > 1 {
                self.refuse(
                    "parallel.primary",
                    "goes with data parallelism alone",
                    "leave primary out, or tp, pp and zero",
                );
            }
        }
    }

    /// Returns the chunks of a stage.
    fn check_pipeline(
        &mut self,
        model: &ModelShape,
        parallel: &ParallelConfig,
        n_micros: Option<usize>,
    ) -> usize {
        let (pp, chunks) = (parallel.pp.max(1), parallel.virtual_stages.max(1));
        let n_segments = model.segments().len();
        let is_interleaved = parallel.schedule == PipelineSchedule::Interleaved;
        if parallel.virtual_stages == 0 {
            self.refuse("parallel.virtual_stages", "is 0", "give at least 1");
        }
        if is_interleaved && (chunks < 2 || pp < 2) {
            let problem = format!("interleaved with {pp} stage(s) of {chunks} chunk(s)");
            self.refuse(
                "parallel.schedule",
                problem,
                "try pp=2 and virtual_stages=2, or schedule 1f1b",
            );
        } else if !is_interleaved && chunks > 1 {
            let problem = format!("is {chunks}, which only the interleaved schedule uses");
            self.refuse(
                "parallel.virtual_stages",
                problem,
                "try schedule interleaved, or virtual_stages=1",
            );
        }
        if pp.saturating_mul(chunks) > n_segments {
            let problem = format!("{pp} stages of {chunks} chunk(s) for {n_segments} segments");
            let remedy = match n_segments / chunks {
                0 => "try fewer virtual_stages".to_owned(),
                most => format!("try pp={most}"),
            };
            self.refuse("parallel.pp", problem, remedy);
            return 1;
        }
        if let Some(n_micros) = n_micros {
            self.check_micros(parallel, pp, n_micros);
        }
        chunks
    }

    /// Whether a schedule of `pp` stages can run, and fill, so many micro-batches.
    fn check_micros(&mut self, parallel: &ParallelConfig, pp: usize, n_micros: usize) {
        let is_interleaved = parallel.schedule == PipelineSchedule::Interleaved;
        if is_interleaved && !n_micros.is_multiple_of(pp) {
            let problem = format!(
                "the interleaved schedule runs micro-batches in rounds of {pp}, and there are {n_micros}"
            );
            // A micro-batch of one makes the most of them; fewer, larger ones are better where they fit.
            let local = self.config.batch.global / parallel.dp.max(1);
            let fitting = (1..=local / pp)
                .rev()
                .find(|micro| local.is_multiple_of(*micro) && (local / micro).is_multiple_of(pp));
            let remedy = match fitting {
                Some(micro) => format!("try batch.micro={micro}"),
                None => format!(
                    "try a batch.global that {} divides",
                    pp * parallel.dp.max(1)
                ),
            };
            self.refuse("batch.micro", problem, remedy);
        }
        if pp > 1 && !is_interleaved && n_micros < pp {
            let idle = 100.0 * (pp - 1) as f64 / (n_micros + pp - 1) as f64;
            self.notes.push(format!(
                "{n_micros} micro-batch(es) for {pp} stages: at least {idle:.0} % of a step is bubble; a smaller batch.micro fills it"
            ));
        }
    }
}
