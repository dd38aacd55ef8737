//! One vector-Jacobian product.

use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{TorchError, shim};

/// Gradients of `outputs · grad_outputs` with respect to `inputs`; consumes the graph.
///
/// The result has an entry for each input, `None` where no path leads to it. A `grad_outputs` entry
/// must have its output's shape. Returned tensors may alias each other and `grad_outputs`: copy
/// before changing one in place.
///
/// # Errors
/// Whatever libtorch throws, such as a graph that was consumed or a saved tensor that was modified.
pub fn vjp(
    outputs: &[&Tensor],
    grad_outputs: &[&Tensor],
    inputs: &[&Tensor],
) -> Result<Vec<Option<Tensor>>, TorchError> {
    debug_assert_eq!(outputs.len(), grad_outputs.len());
    let (outputs, grad_outputs, inputs) =
        (pointers(outputs), pointers(grad_outputs), pointers(inputs));
    let mut results = vec![ptr::null_mut(); inputs.len()];
    // SAFETY: all pointers come from live tensors and the arrays have the stated lengths.
    shim::check(unsafe {
        shim::capstan_vjp(
            outputs.as_ptr(),
            outputs.len(),
            grad_outputs.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            results.as_mut_ptr(),
        )
    })?;
    // SAFETY: each non-null result is a new tensor that nobody else owns.
    Ok(results
        .into_iter()
        .map(|result| (!result.is_null()).then(|| unsafe { Tensor::from_ptr(result) }))
        .collect())
}

/// The raw pointers of `tensors`, which must outlive their use.
pub(super) fn pointers(tensors: &[&Tensor]) -> Vec<*mut C_tensor> {
    tensors
        .iter()
        .map(|tensor| tensor.as_ptr().cast_mut())
        .collect()
}
