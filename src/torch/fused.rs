//! libtorch's fused AdamW step.

use tch::Tensor;

use super::{TorchError, autograd::pointers, shim};

/// Lists of equal length: entry i of each belongs to parameter tensor i.
pub struct AdamwTensors<'a> {
    pub params: &'a [&'a Tensor],
    pub grads: &'a [&'a Tensor],
    pub exp_avgs: &'a [&'a Tensor],
    pub exp_avg_sqs: &'a [&'a Tensor],
    /// One fp32 number: this step's number from 1.
    pub step: &'a Tensor,
    /// One number that the gradients are divided by; they are rewritten.
    pub grad_scale: &'a Tensor,
    /// One number; 1 leaves parameters and moments untouched.
    pub found_inf: &'a Tensor,
}

/// The hyperparameters of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamwScalars {
    pub lr: f64,
    pub betas: [f64; 2],
    pub weight_decay: f64,
    pub eps: f64,
}

/// Updates parameters and moments in place (`at::_fused_adamw_`, CPU and CUDA).
///
/// # Errors
/// Tensors of different devices, types or shapes.
pub fn fused_adamw(tensors: &AdamwTensors<'_>, scalars: AdamwScalars) -> Result<(), TorchError> {
    let n = tensors.params.len();
    if n == 0 {
        // The CUDA kernel looks at the first of each list.
        return Ok(());
    }
    debug_assert!(
        [
            tensors.grads.len(),
            tensors.exp_avgs.len(),
            tensors.exp_avg_sqs.len()
        ]
        .iter()
        .all(|&len| len == n)
    );
    let [params, grads] = [tensors.params, tensors.grads].map(pointers);
    let [exp_avgs, exp_avg_sqs] = [tensors.exp_avgs, tensors.exp_avg_sqs].map(pointers);
    // SAFETY: all pointers come from live tensors and the arrays hold n of them.
    shim::check(unsafe {
        shim::capstan_fused_adamw(
            n,
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            tensors.step.as_ptr().cast_mut(),
            scalars.lr,
            scalars.betas[0],
            scalars.betas[1],
            scalars.weight_decay,
            scalars.eps,
            tensors.grad_scale.as_ptr().cast_mut(),
            tensors.found_inf.as_ptr().cast_mut(),
        )
    })
}
