//! Tensor parallelism (Shoeybi et al., 2019): each rank computes its share of every core, and the ranks'
//! partial sums are added between segments. With sequence parallelism (Korthikanti et al., 2022) what
//! lies between the cores is shared too, along the sequence.
//!
//! Two operators, each the transpose of the other: into a core, and out of it.

use tch::Tensor;

use crate::{
    arch::Role,
    dist::{CommError, Communicator, Reduction},
    models::Positions,
    torch::TorchError,
};

/// How tensor-parallel ranks meet around cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorAxis {
    pub sequence_parallel: bool,
}

impl TensorAxis {
    /// The positions of a window of `of` that a rank holds between cores.
    pub fn positions(self, of: i64, rank: usize, world: usize) -> Positions {
        if !self.sequence_parallel {
            return Positions::all(of);
        }
        let len = of / world as i64;
        Positions {
            first: rank as i64 * len,
            len,
            of,
        }
    }

    /// What a core computes with, from what the rank holds; tokens are everybody's.
    ///
    /// # Errors
    /// A failed collective.
    pub fn into_core(
        self,
        role: Role,
        x: &Tensor,
        tp: &mut dyn Communicator,
    ) -> Result<Tensor, CommError> {
        match self.sequence_parallel && role != Role::Embedding {
            true => gather(x, tp),
            false => Ok(x.f_detach().map_err(TorchError::from)?),
        }
    }

    /// The gradient of what the rank holds, from that of what its core computed with.
    ///
    /// # Errors
    /// A failed collective.
    pub fn into_core_backward(
        self,
        grad: &Tensor,
        tp: &mut dyn Communicator,
    ) -> Result<Tensor, CommError> {
        match self.sequence_parallel {
            true => scatter_sum(grad, tp),
            false => sum(grad, tp),
        }
    }

    /// What the rank holds of the sum of all cores' outputs.
    ///
    /// # Errors
    /// A failed collective.
    pub fn out_of_core(self, y: &Tensor, tp: &mut dyn Communicator) -> Result<Tensor, CommError> {
        match self.sequence_parallel {
            true => scatter_sum(y, tp),
            false => sum(y, tp),
        }
    }

    /// The gradient of this rank's core's output.
    ///
    /// # Errors
    /// A failed collective.
    pub fn out_of_core_backward(
        self,
        grad: &Tensor,
        tp: &mut dyn Communicator,
    ) -> Result<Tensor, CommError> {
        match self.sequence_parallel {
            true => gather(grad, tp),
            false => Ok(grad.shallow_clone()),
        }
    }
}

/// The sum over ranks, out of place.
fn sum(x: &Tensor, tp: &mut dyn Communicator) -> Result<Tensor, CommError> {
    let total = copy(x)?;
    tp.all_reduce(&total, Reduction::Sum)?;
    Ok(total)
}

/// `[b, t / n, ...]` of each rank to `[b, t, ...]`.
fn gather(x: &Tensor, tp: &mut dyn Communicator) -> Result<Tensor, CommError> {
    let size = x.size();
    let world = tp.world() as i64;
    let mut buffer_size = vec![world];
    buffer_size.extend_from_slice(&size);
    let buffer = Tensor::f_empty(buffer_size.as_slice(), (x.kind(), x.device()));
    let buffer = buffer.map_err(TorchError::from)?;
    let own = buffer.f_select(0, tp.rank() as i64);
    own.and_then(|mut own| own.f_copy_(&x.detach()))
        .map_err(TorchError::from)?;
    tp.all_gather(&buffer)?;
    let mut whole_size = size;
    whole_size[1] *= world;
    let whole = buffer
        .f_transpose(0, 1)
        .and_then(|parts| parts.f_reshape(whole_size.as_slice()));
    Ok(whole.map_err(TorchError::from)?)
}

/// The sum over ranks of `[b, t, ...]`, of which each keeps its `[b, t / n, ...]`.
fn scatter_sum(x: &Tensor, tp: &mut dyn Communicator) -> Result<Tensor, CommError> {
    let world = tp.world() as i64;
    let mut parts_size = x.size();
    parts_size[1] /= world;
    parts_size.insert(1, world);
    let parts = x
        .f_detach()
        .and_then(|x| x.f_reshape(parts_size.as_slice()))
        .and_then(|x| x.f_transpose(0, 1));
    let parts = copy(&parts.map_err(TorchError::from)?)?;
    tp.reduce_scatter(&parts)?;
    copy(
        &parts
            .f_select(0, tp.rank() as i64)
            .map_err(TorchError::from)?,
    )
}

/// A contiguous copy that nobody else holds.
fn copy(x: &Tensor) -> Result<Tensor, CommError> {
    let _guard = tch::no_grad_guard();
    let copied = Tensor::f_empty(x.size(), (x.kind(), x.device()));
    let mut copied = copied.map_err(TorchError::from)?;
    copied.f_copy_(&x.detach()).map_err(TorchError::from)?;
    Ok(copied)
}
