//! The shim's C interface. `shim.cpp` says what each function does.

use std::ffi::{CStr, c_char, c_int, c_void};

use torch_sys::C_tensor;

use super::TorchError;

unsafe extern "C" {
    fn capstan_last_error() -> *const c_char;
    pub(super) fn capstan_vjp(
        outputs: *const *mut C_tensor,
        n_outputs: usize,
        grad_outputs: *const *mut C_tensor,
        inputs: *const *mut C_tensor,
        n_inputs: usize,
        results: *mut *mut C_tensor,
    ) -> c_int;
    pub(super) fn capstan_fused_adamw(
        n: usize,
        params: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        exp_avgs: *const *mut C_tensor,
        exp_avg_sqs: *const *mut C_tensor,
        step: *mut C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        grad_scale: *mut C_tensor,
        found_inf: *mut C_tensor,
    ) -> c_int;
    pub(super) fn capstan_enter_rank_thread(n_threads: c_int, actual: *mut c_int) -> c_int;
    pub(super) fn capstan_count_cpu_memory() -> c_int;
    pub(super) fn capstan_open_account() -> *mut c_void;
    pub(super) fn capstan_read_account(account: *const c_void, live: *mut i64, peak: *mut i64);
    pub(super) fn capstan_point_storage(tensor: *mut C_tensor, data: *mut c_void) -> c_int;
    pub(super) fn capstan_set_deterministic(on: c_int) -> c_int;
    pub(super) fn capstan_allow_tf32(on: c_int) -> c_int;
    pub(super) fn capstan_choose_attention(cudnn: c_int, fused: c_int) -> c_int;
    pub(super) fn capstan_knows_cuda(yes: *mut c_int) -> c_int;
    pub(super) fn capstan_set_device(device: c_int) -> c_int;
    pub(super) fn capstan_synchronize(device: c_int) -> c_int;
    pub(super) fn capstan_memory_stats(
        device: c_int,
        allocated: *mut i64,
        reserved: *mut i64,
        peak_allocated: *mut i64,
    ) -> c_int;
    pub(super) fn capstan_memory_refusals(device: c_int, refusals: *mut i64) -> c_int;
    pub(super) fn capstan_stream_from_pool(device: c_int, id: *mut i64) -> c_int;
    pub(super) fn capstan_stream_make_current(device: c_int, id: i64) -> c_int;
    pub(super) fn capstan_stream_handle(device: c_int, id: i64, handle: *mut *mut c_void) -> c_int;
    pub(super) fn capstan_stream_current(device: c_int, id: *mut i64) -> c_int;
    pub(super) fn capstan_pinned(n: i64, kind: c_int, result: *mut *mut C_tensor) -> c_int;
    pub(super) fn capstan_start_copy(to: *mut C_tensor, from: *mut C_tensor) -> c_int;
    pub(super) fn capstan_event_new(timing: c_int, event: *mut *mut c_void) -> c_int;
    pub(super) fn capstan_event_free(event: *mut c_void);
    pub(super) fn capstan_event_record(event: *mut c_void, device: c_int, stream: i64) -> c_int;
    pub(super) fn capstan_event_block(event: *mut c_void, device: c_int, stream: i64) -> c_int;
    pub(super) fn capstan_event_synchronize(event: *mut c_void) -> c_int;
    pub(super) fn capstan_event_elapsed(
        from: *mut c_void,
        to: *mut c_void,
        milliseconds: *mut f64,
    ) -> c_int;
}

/// Turns a shim's return value into a result.
///
/// # Errors
/// The exception's message, where the shim caught one.
pub fn check(code: c_int) -> Result<(), TorchError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the shim returns a NUL-terminated string that lives until this thread's next failing call.
    let message = unsafe { CStr::from_ptr(capstan_last_error()) };
    Err(TorchError::new(&message.to_string_lossy()))
}
