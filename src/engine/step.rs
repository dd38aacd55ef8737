//! One rank's forward and backward passes over the spans of a model.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::{
    EngineError, RankDevice,
    batch::DeviceBatch,
    clock::{Phase, StepClock},
};
use crate::{
    arch::ModelShape,
    config::Precision,
    data::HostBatch,
    dist::Communicator,
    models::{self, Context, Dropout, Segment},
    nn::ParamStore,
    parallel::{self, Strategy},
    torch::{TorchError, vjp},
};

/// A model on a rank's device, cut into spans.
pub struct Stepper {
    segments: Vec<Box<dyn Segment>>,
    spans: Vec<Range<usize>>,
    pub store: ParamStore,
    device: RankDevice,
    seed: u64,
}

/// What the backward passes of a step need to know.
pub struct Backward<'a> {
    pub strategy: &'a mut dyn Strategy,
    pub comm: &'a mut dyn Communicator,
    pub clock: &'a mut StepClock,
    /// The step's number from 1; dropout masks depend on it.
    pub step: u64,
    /// What the summed loss is divided by: valid targets of the whole global batch.
    pub global_valid: u64,
    /// The last micro-batch completes the gradients.
    pub is_last: bool,
}

impl Stepper {
    /// Builds a model with its initial weights, cut into spans of at least `bucket_bytes` of gradients.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(
        model: &ModelShape,
        precision: Precision,
        seed: u64,
        device: RankDevice,
        bucket_bytes: Option<u64>,
    ) -> Result<Self, TorchError> {
        let store = ParamStore::new(&model.segments(), precision, seed, device.device)?;
        Ok(Self::with_store(model, store, seed, device, bucket_bytes))
    }

    /// Builds a model over given weights.
    pub fn with_store(
        model: &ModelShape,
        store: ParamStore,
        seed: u64,
        device: RankDevice,
        bucket_bytes: Option<u64>,
    ) -> Self {
        let element = store.grads().kind().elt_size_in_bytes() as u64;
        let bytes: Vec<u64> = model
            .segments()
            .iter()
            .map(|segment| {
                segment
                    .params
                    .iter()
                    .map(|param| param.numel() * element)
                    .sum()
            })
            .collect();
        let spans = parallel::spans(&bytes, bucket_bytes);
        Self {
            segments: models::build(model),
            spans,
            store,
            device,
            seed,
        }
    }

    /// Forward and backward over one micro-batch; gradients go to the store.
    ///
    /// Returns the loss summed over the micro-batch's valid targets.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn train(
        &mut self,
        batch: HostBatch,
        cx: &mut Backward<'_>,
    ) -> Result<Tensor, EngineError> {
        let batch = DeviceBatch::new(batch, self.device.device)?;
        let dropout = Dropout {
            seed: self.seed,
            step: cx.step,
            samples: &batch.samples,
        };
        let context = Context {
            targets: Some(&batch.targets),
            dropout: Some(dropout),
        };
        let passes = self.forward_spans(&batch.inputs, &context)?;
        cx.clock.mark(Phase::Forward)?;
        let loss = passes
            .last()
            .map(|pass| pass.output.f_detach())
            .transpose()?;
        self.backward_spans(passes, cx)?;
        loss.ok_or_else(|| TorchError::new("a model without segments").into())
    }

    /// Loss summed over the valid targets of a batch, in fp64; nothing is kept.
    ///
    /// # Errors
    /// libtorch's.
    pub fn loss_sum(&self, batch: HostBatch) -> Result<f64, TorchError> {
        let batch = DeviceBatch::new(batch, self.device.device)?;
        let context = Context {
            targets: Some(&batch.targets),
            dropout: None,
        };
        Ok(self.forward(&batch.inputs, &context)?.f_double_value(&[])?)
    }

    /// Logits `[rows, time, vocab]` in fp32 for token ids `[rows, time]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn logits(&self, tokens: &Tensor) -> Result<Tensor, TorchError> {
        let context = Context {
            targets: None,
            dropout: None,
        };
        let logits = self.forward(&tokens.f_to_device(self.device.device)?, &context)?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }

    /// The name of the first segment whose output is not finite on a batch, run as in training.
    ///
    /// # Errors
    /// libtorch's.
    pub fn first_bad_segment(
        &self,
        batch: HostBatch,
        step: u64,
    ) -> Result<Option<String>, TorchError> {
        let _guard = tch::no_grad_guard();
        let batch = DeviceBatch::new(batch, self.device.device)?;
        let dropout = Dropout {
            seed: self.seed,
            step,
            samples: &batch.samples,
        };
        let context = Context {
            targets: Some(&batch.targets),
            dropout: Some(dropout),
        };
        let mut x = batch.inputs.shallow_clone();
        for (index, segment) in self.segments.iter().enumerate() {
            x = segment.forward(self.store.weights(index), &x, &context)?;
            if x.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                return Ok(Some(segment.name().to_owned()));
            }
        }
        Ok(None)
    }

    fn forward(&self, inputs: &Tensor, context: &Context<'_>) -> Result<Tensor, TorchError> {
        let _guard = tch::no_grad_guard();
        self.run(0..self.segments.len(), inputs.shallow_clone(), context)
    }

    fn run(
        &self,
        segments: Range<usize>,
        mut x: Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        for index in segments {
            x = self.segments[index].forward(self.store.weights(index), &x, context)?;
        }
        Ok(x)
    }

    /// Runs span by span, each from a fresh leaf, so that each is a graph of its own.
    fn forward_spans(
        &self,
        inputs: &Tensor,
        context: &Context<'_>,
    ) -> Result<Vec<Pass>, TorchError> {
        let mut passes: Vec<Pass> = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            let input = match passes.last() {
                None => inputs.shallow_clone(),
                Some(before) => before.output.f_detach()?.f_set_requires_grad(true)?,
            };
            let output = self.run(span.clone(), input.shallow_clone(), context)?;
            passes.push(Pass {
                span: span.clone(),
                input,
                output,
            });
        }
        Ok(passes)
    }

    fn backward_spans(
        &mut self,
        passes: Vec<Pass>,
        cx: &mut Backward<'_>,
    ) -> Result<(), EngineError> {
        let mut grad_output: Option<Tensor> = None;
        for (index, pass) in passes.into_iter().enumerate().rev() {
            let grad = match grad_output.take() {
                Some(grad) => grad,
                None => pass
                    .output
                    .f_full_like(1.0 / cx.global_valid.max(1) as f64)?,
            };
            grad_output = self.backward(&pass, &grad, index > 0)?;
            cx.clock.mark(Phase::Backward)?;
            if cx.is_last {
                self.store.zero_unfilled(pass.span.clone())?;
                cx.strategy
                    .grads_ready(&self.store.grads_of(pass.span)?, cx.comm)?;
                cx.clock.mark(Phase::Comm)?;
            }
        }
        Ok(())
    }

    /// Takes a span's parameter gradients; returns its input's, where `wants_input`.
    fn backward(
        &mut self,
        pass: &Pass,
        grad: &Tensor,
        wants_input: bool,
    ) -> Result<Option<Tensor>, TorchError> {
        let (entries, mut inputs) = self.store.leaves_of(pass.span.clone());
        if wants_input {
            inputs.push(&pass.input);
        }
        let mut grads = vjp(&[&pass.output], &[grad], &inputs)?;
        let input_grad = if wants_input {
            grads.pop().flatten()
        } else {
            None
        };
        for (entry, grad) in entries.into_iter().zip(&grads) {
            if let Some(grad) = grad {
                self.store.take_grad(entry, grad)?;
            }
        }
        Ok(input_grad)
    }
}

/// One span's graph.
struct Pass {
    span: Range<usize>,
    input: Tensor,
    output: Tensor,
}
