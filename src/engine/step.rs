//! One rank's forward and backward passes over its part of a model.
//!
//! The rank's thread is in charge between pieces: it gathers weights, meets tensor-parallel ranks and
//! lets gradients go. What leaves a piece is detached; a piece's input is a fresh leaf.

use std::{ops::Range, sync::Arc};

use tch::{Kind, Tensor};

use super::{
    EngineError, RankDevice,
    batch::DeviceBatch,
    clock::{Phase, StepClock},
    tape::{Pass, SpanPass, Tape},
};
use crate::{
    arch::{ModelShape, Role, Shard, StageSpec},
    config::Precision,
    data::HostBatch,
    dist::{Communicator, Expected, Groups},
    models::{self, Context, Positions, Segment},
    nn::{self, Layout, MaskKeys, MaskPlaces, Numbers, ParamStore, Partition},
    parallel::{self, Cuts, Piece, Strategy, TensorAxis},
    plan,
    torch::{TorchError, vjp},
};

/// The part of a model that a rank computes, on the rank's device.
pub struct Stepper {
    /// Of the stage, with their roles.
    pub(super) segments: Vec<Box<dyn Segment>>,
    pub(super) roles: Vec<Role>,
    /// Each chunk's pieces.
    chunks: Vec<Vec<Piece>>,
    pub store: ParamStore,
    pub(super) tensor: TensorAxis,
    pub(super) device: RankDevice,
    seed: u64,
    mask_places: Arc<MaskPlaces>,
    pub(super) model: ModelShape,
    /// Planted: a rank that forgets to add up its inputs' gradients.
    pub forgets_input_grads: bool,
}

/// How a stepper's part is cut.
pub struct Recipe<'a> {
    pub stage: &'a StageSpec,
    pub cuts: Cuts,
    pub tensor: TensorAxis,
}

/// What passes need from the rank.
pub struct Crew<'a> {
    pub strategy: &'a mut dyn Strategy,
    pub groups: &'a mut Groups,
    pub clock: &'a mut StepClock,
}

/// What a backward pass needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The pass completes the step's gradients, and they may leave.
    pub is_last: bool,
}

/// What a forward pass without gradients is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The loss summed over valid targets.
    Loss,
    /// Logits; of a cut vocabulary this rank's part.
    Logits,
}

impl Stepper {
    /// A whole model with its initial weights, for one rank alone.
    ///
    /// # Errors
    /// The device has no room.
    pub fn alone(
        model: &ModelShape,
        precision: Precision,
        seed: u64,
        device: RankDevice,
    ) -> Result<Self, TorchError> {
        let stage = StageSpec::whole(model.segments());
        let layout = Layout::new(&stage, Shard::WHOLE, 1);
        let store = ParamStore::new(
            layout,
            Partition::NONE,
            Numbers::of(precision),
            seed,
            device.device,
        )?;
        let recipe = Recipe {
            stage: &stage,
            cuts: Cuts {
                around_cores: false,
                recompute: crate::config::Recompute::None,
                bucket_bytes: None,
                by_segment: false,
            },
            tensor: TensorAxis {
                sequence_parallel: false,
            },
        };
        Ok(Self::new(model, store, seed, device, &recipe))
    }

    /// A stage of a model over given weights.
    pub fn new(
        model: &ModelShape,
        store: ParamStore,
        seed: u64,
        device: RankDevice,
        recipe: &Recipe<'_>,
    ) -> Self {
        let stage = recipe.stage;
        let element = store.grads().kind().elt_size_in_bytes() as u64;
        let shard = store.layout().shard();
        let bytes: Vec<u64> = stage
            .segments
            .iter()
            .map(|segment| {
                let params = segment.params.iter();
                params
                    .map(|param| shard.numel(param) as u64 * element)
                    .sum()
            })
            .collect();
        let roles: Vec<Role> = stage.segments.iter().map(|segment| segment.role).collect();
        let chunks = stage
            .chunks
            .iter()
            .map(|chunk| parallel::pieces(chunk.clone(), &roles, &bytes, recipe.cuts))
            .collect();
        let mut all: Vec<Option<Box<dyn Segment>>> =
            models::build(model).into_iter().map(Some).collect();
        let segments: Vec<Box<dyn Segment>> = stage
            .numbers
            .iter()
            .filter_map(|&number| all.get_mut(number).and_then(Option::take))
            .collect();
        let mask_places = segments.iter().flat_map(|segment| segment.mask_places());
        let mask_places = Arc::new(MaskPlaces::new(mask_places));
        Self {
            segments,
            roles,
            chunks,
            store,
            tensor: recipe.tensor,
            device,
            seed,
            mask_places,
            model: model.clone(),
            forgets_input_grads: false,
        }
    }

    /// Moves a batch to the rank's device; of a training step, with what its dropout masks are drawn from.
    ///
    /// # Errors
    /// The device has no room.
    pub fn load(&self, batch: &HostBatch, step: Option<u64>) -> Result<DeviceBatch, TorchError> {
        let keys = |step| MaskKeys::new(&self.mask_places, self.seed, step, &batch.sample_indices);
        DeviceBatch::new(batch, step.map(keys), self.device.device)
    }

    /// The tensor that the stage before a chunk hands over for `rows` windows of `time` positions.
    pub fn expected(&self, rows: i64, time: i64, tp: &dyn Communicator) -> Expected {
        let positions = self.tensor.positions(time, tp.rank(), tp.world());
        Expected {
            shape: vec![rows, positions.len, self.model.d_model() as i64],
            kind: self.compute_kind(),
            device: self.device.device,
        }
    }

    fn compute_kind(&self) -> Kind {
        let leaf = self.store.leaves_of(0..1).1.first().map(|leaf| leaf.kind());
        leaf.unwrap_or(Kind::Float)
    }

    /// Forward over one micro-batch through a chunk, keeping what the backward pass needs.
    ///
    /// `input` is what the chunk before gave; absent where the chunk takes the batch's tokens. A chunk that
    /// ends in the head gives the loss summed over the micro-batch's valid targets; the gradient of the head's matrix
    /// is in the store then.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn forward(
        &mut self,
        chunk: usize,
        mut tape: Tape,
        input: Option<Tensor>,
        crew: &mut Crew<'_>,
    ) -> Result<(Tensor, Tape), EngineError> {
        let mut x = match input {
            Some(input) => input,
            None => tape.batch.inputs.shallow_clone(),
        };
        let pieces = self.chunks[chunk].clone();
        for (number, piece) in pieces.iter().enumerate() {
            let next = pieces.get(number + 1).map(Piece::segments);
            self.take_run(piece.segments(), next, crew)?;
            let leaf = self.leaf(&x, piece.segments().start)?;
            let context = self.context(&tape, &*crew.groups.tp);
            let (output, pass) = match piece {
                Piece::Span {
                    segments,
                    recompute,
                } => {
                    let segments = segments.clone();
                    self.forward_span(segments, leaf, *recompute, &tape, &context, crew)?
                }
                Piece::Parts { segment, recompute } => {
                    self.forward_parts(*segment, leaf, *recompute, &tape, &context, crew)?
                }
            };
            tape.passes.push(pass);
            x = output;
            crew.clock.mark(Phase::Forward)?;
            crew.strategy.release(&mut self.store, piece.segments())?;
        }
        Ok((x.f_detach()?, tape))
    }

    /// Backward through a chunk; gradients of parameters go to the store. Returns the input's, where the
    /// chunk does not take tokens.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn backward(
        &mut self,
        tape: Tape,
        grad: Option<Tensor>,
        done: Completion,
        crew: &mut Crew<'_>,
    ) -> Result<Option<Tensor>, EngineError> {
        let mut tape = tape;
        let passes = std::mem::take(&mut tape.passes);
        let pieces: Vec<Range<usize>> = passes.iter().map(Pass::segments).collect();
        let mut grad = grad;
        for (number, pass) in passes.into_iter().enumerate().rev() {
            let segments = pieces[number].clone();
            self.take_run(
                segments.clone(),
                number.checked_sub(1).map(|next| pieces[next].clone()),
                crew,
            )?;
            let context = self.context(&tape, &*crew.groups.tp);
            grad = match pass {
                Pass::Span(pass) => self.backward_span(pass, grad, &context)?,
                Pass::Parts(pass) => self.backward_parts(pass, grad, &context, crew)?,
                Pass::Head(pass) => self.backward_head(pass, crew)?,
            };
            crew.clock.mark(Phase::Backward)?;
            crew.strategy.release(&mut self.store, segments.clone())?;
            crew.strategy.grads_ready(
                &mut self.store,
                segments,
                done.is_last,
                &mut *crew.groups.dp,
            )?;
            crew.clock.mark(Phase::Comm)?;
        }
        Ok(grad)
    }

    /// Forward through a chunk with nothing kept: what the next chunk takes, or what is wanted of the head.
    ///
    /// # Errors
    /// libtorch's, or a failed collective.
    pub fn infer(
        &mut self,
        chunk: usize,
        batch: &DeviceBatch,
        input: Option<Tensor>,
        wanted: Wanted,
        strategy: &mut dyn Strategy,
        groups: &mut Groups,
    ) -> Result<Tensor, EngineError> {
        let _guard = tch::no_grad_guard();
        let mut x = input.unwrap_or_else(|| batch.inputs.shallow_clone());
        let time = batch.inputs.size()[1];
        let context = Context {
            dropout: None,
            positions: self.positions(time, &*groups.tp),
        };
        for piece in self.chunks[chunk].clone() {
            let segments = piece.segments();
            strategy.acquire(&mut self.store, segments.clone(), &mut *groups.dp)?;
            for segment in segments.clone() {
                x = match (self.roles[segment], wanted, groups.tp.world()) {
                    (Role::Head, Wanted::Loss, _) => {
                        self.infer_loss(segment, &x, &batch.targets, groups)?
                    }
                    (.., 1) => {
                        self.segments[segment].forward(self.store.weights(segment), &x, &context)?
                    }
                    _ => self.infer_parts(segment, &x, &context, groups)?,
                };
            }
            strategy.release(&mut self.store, segments)?;
        }
        Ok(x)
    }

    fn infer_parts(
        &self,
        segment: usize,
        x: &Tensor,
        context: &Context<'_>,
        groups: &mut Groups,
    ) -> Result<Tensor, EngineError> {
        let (weights, role) = (self.store.weights(segment), self.roles[segment]);
        let this = &self.segments[segment];
        let h = self
            .tensor
            .into_core(role, &this.pre(weights, x)?, &mut *groups.tp)?;
        let y = this.core(weights, &h, context)?;
        if role == Role::Head {
            return Ok(y);
        }
        let y = self.tensor.out_of_core(&y, &mut *groups.tp)?;
        Ok(this.join(weights, x, y, context)?)
    }

    /// Number and name of the first segment whose output is not finite on a batch, run as in training.
    ///
    /// Only where the rank holds the whole model.
    ///
    /// # Errors
    /// libtorch's.
    pub fn first_bad_segment(
        &self,
        batch: &HostBatch,
        step: u64,
    ) -> Result<Option<(usize, String)>, TorchError> {
        let _guard = tch::no_grad_guard();
        let batch = self.load(batch, Some(step))?;
        let context = Context {
            dropout: batch.mask_keys.as_ref(),
            positions: Positions::all(batch.inputs.size()[1]),
        };
        let mut x = batch.inputs.shallow_clone();
        for (number, segment) in self.segments.iter().enumerate() {
            let is_finite = match self.roles[number] {
                Role::Head => self.has_finite_logits(number, &x, &context)?,
                _ => {
                    x = segment.forward(self.store.weights(number), &x, &context)?;
                    nn::is_finite(&x)?
                }
            };
            if !is_finite {
                return Ok(Some((number, segment.name().to_owned())));
            }
        }
        Ok(None)
    }

    /// Whether tensor-parallel ranks share what lies between cores along the sequence.
    pub fn shares_sequence(&self) -> bool {
        self.tensor.sequence_parallel
    }

    /// Positions that a window of `n` tokens is padded to, so that ranks can share it.
    pub fn padded(&self, n: usize) -> usize {
        match self.tensor.sequence_parallel {
            true => n.next_multiple_of(self.store.layout().shard().of),
            false => n,
        }
    }

    /// Logits `[n, vocab]` in fp32 from every rank's part of the vocabulary.
    ///
    /// # Errors
    /// A failed collective.
    pub fn whole_vocabulary(
        &self,
        own: &Tensor,
        tp: &mut dyn Communicator,
    ) -> Result<Tensor, EngineError> {
        let own = own.f_to_kind(Kind::Float)?;
        let (n, rows) = (own.size()[0], own.size()[1]);
        let vocab_size = self.model.vocab_size() as i64;
        if tp.world() == 1 {
            return Ok(own.f_narrow(1, 0, vocab_size)?);
        }
        let options = (Kind::Float, own.device());
        let parts = Tensor::f_empty([tp.world() as i64, n, rows], options)?;
        parts.f_select(0, tp.rank() as i64)?.f_copy_(&own)?;
        tp.all_gather(&parts)?;
        let all = parts.f_transpose(0, 1)?.f_reshape([n, -1])?;
        Ok(all.f_narrow(1, 0, vocab_size)?)
    }

    /// Whether the rank holds the whole model, every weight of it whole.
    pub fn is_whole(&self) -> bool {
        self.segments.len() == self.model.segments().len()
            && self.store.layout().shard().of == 1
            && self.store.compute().is_some()
    }

    /// Makes a run's weights whole, and starts to gather those of the next.
    fn take_run(
        &mut self,
        segments: Range<usize>,
        next: Option<Range<usize>>,
        crew: &mut Crew<'_>,
    ) -> Result<(), EngineError> {
        crew.strategy
            .acquire(&mut self.store, segments, &mut *crew.groups.dp)?;
        if let Some(next) = next {
            crew.strategy
                .prefetch(&mut self.store, next, &mut *crew.groups.dp)?;
        }
        crew.clock.mark(Phase::Comm)?;
        Ok(())
    }

    /// A piece's input; tokens have no gradient.
    fn leaf(&self, x: &Tensor, segment: usize) -> Result<Tensor, TorchError> {
        let leaf = x.f_detach()?;
        match self.roles[segment] {
            Role::Embedding => Ok(leaf),
            _ => Ok(leaf.f_set_requires_grad(true)?),
        }
    }

    fn positions(&self, time: i64, tp: &dyn Communicator) -> Positions {
        self.tensor.positions(time, tp.rank(), tp.world())
    }

    fn context<'a>(&self, tape: &'a Tape, tp: &dyn Communicator) -> Context<'a> {
        Context {
            dropout: tape.batch.mask_keys.as_ref(),
            positions: self.positions(tape.batch.inputs.size()[1], tp),
        }
    }

    /// What a span gives; of one that ends in the head what goes into the head's core.
    fn run_span(
        &self,
        segments: Range<usize>,
        input: &Tensor,
        context: &Context<'_>,
    ) -> Result<Tensor, TorchError> {
        let mut x = input.shallow_clone();
        for number in segments {
            let (segment, weights) = (&self.segments[number], self.store.weights(number));
            x = match self.roles[number] {
                Role::Head => segment.pre(weights, &x)?,
                _ => segment.forward(weights, &x, context)?,
            };
        }
        Ok(x)
    }

    fn forward_span(
        &mut self,
        segments: Range<usize>,
        input: Tensor,
        recompute: bool,
        tape: &Tape,
        context: &Context<'_>,
        crew: &mut Crew<'_>,
    ) -> Result<(Tensor, Pass), EngineError> {
        let guard = recompute.then(tch::no_grad_guard);
        let output = self.run_span(segments.clone(), &input, context)?;
        drop(guard);
        let last = segments.end - 1;
        let (result, head_grad) = match self.roles[last] {
            Role::Head => {
                let (loss, grad) = self.loss_and_grad(last, &output, tape, crew)?;
                (loss, Some(grad))
            }
            _ => (output.f_detach()?, None),
        };
        let pass = SpanPass {
            segments,
            input,
            output: (!recompute).then_some(output),
            head_grad,
        };
        Ok((result, Pass::Span(pass)))
    }

    fn backward_span(
        &mut self,
        pass: SpanPass,
        grad: Option<Tensor>,
        context: &Context<'_>,
    ) -> Result<Option<Tensor>, EngineError> {
        let SpanPass {
            segments,
            input,
            output,
            head_grad,
        } = pass;
        let output = match output {
            Some(output) => output,
            None => self.run_span(segments.clone(), &input, context)?,
        };
        let grad = grad.or(head_grad);
        let grad = grad.ok_or_else(|| TorchError::new("a backward pass without a gradient"))?;
        let wants_input = self.roles[segments.start] != Role::Embedding;
        let inputs: &[&Tensor] = if wants_input { &[&input] } else { &[] };
        Ok(self.pull(segments, &output, &grad, inputs)?.pop().flatten())
    }

    /// One vector-Jacobian product: the parameters' gradients go to the store, the inputs' are returned.
    pub(super) fn pull(
        &mut self,
        segments: Range<usize>,
        output: &Tensor,
        grad: &Tensor,
        inputs: &[&Tensor],
    ) -> Result<Vec<Option<Tensor>>, TorchError> {
        let (entries, mut all) = self.store.leaves_of(segments);
        all.extend_from_slice(inputs);
        let mut grads = vjp(&[output], &[grad], &all)?;
        let of_inputs = grads.split_off(entries.len());
        for (entry, grad) in entries.into_iter().zip(&grads) {
            if let Some(grad) = grad {
                self.store.take_grad(entry, grad)?;
            }
        }
        Ok(of_inputs)
    }
}

/// The cuts that a split asks for.
pub fn cuts(split: &plan::Split, strategy: &dyn Strategy, bucket_bytes: Option<u64>) -> Cuts {
    Cuts {
        around_cores: split.mesh.tp > 1,
        recompute: split.recompute,
        bucket_bytes: bucket_bytes.filter(|_| strategy.reduces_by_bucket()),
        by_segment: strategy.goes_by_segment(),
    }
}
