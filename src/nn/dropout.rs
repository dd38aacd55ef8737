//! Dropout masks from counters: a function of (seed, purpose, step, sample, position, channel).
//!
//! The mask of an element is the same on every device and under every split.

use tch::{Device, Kind, Tensor};

use crate::{
    base::random::{self, INCREMENT, MULTIPLIERS, SHIFTS},
    torch::{TorchError, raw},
};

/// What a mask depends on besides the element.
#[derive(Clone, Copy, Debug)]
pub struct MaskKey<'a> {
    pub seed: u64,
    pub step: u64,
    /// Where in the model.
    pub place: &'a str,
}

impl MaskKey<'_> {
    fn of_row(&self, sample: u64) -> u64 {
        random::key(
            self.seed,
            &[random::name_part(self.place), self.step, sample],
        )
    }
}

/// A mask of 0 and 1 / (1 - p), `[samples, row...]`; row r is drawn for `samples[r]`.
///
/// # Errors
/// No room on the device.
pub fn mask(
    key: MaskKey<'_>,
    samples: &[u64],
    row_shape: &[i64],
    p: f64,
    device: Device,
) -> Result<Tensor, TorchError> {
    let mut shape = vec![samples.len() as i64];
    shape.extend_from_slice(row_shape);
    let keys: Vec<u64> = samples.iter().map(|&sample| key.of_row(sample)).collect();
    match device {
        Device::Cpu => on_host(&keys, &shape, p),
        device => by_tensor_operations(&keys, &shape, p, device),
    }
}

/// Random bits below this keep the element: the 32 high bits of the hash are compared.
fn threshold(p: f64) -> u64 {
    ((1.0 - p) * (1u64 << 32) as f64) as u64
}

fn scale(p: f64) -> f64 {
    1.0 / (1.0 - p)
}

fn on_host(keys: &[u64], shape: &[i64], p: f64) -> Result<Tensor, TorchError> {
    let mut mask = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    let row_len: i64 = shape[1..].iter().product();
    let (threshold, kept) = (threshold(p), scale(p) as f32);
    let values = raw::slice_mut::<f32>(&mut mask)?;
    // The rank's own thread draws: a second pool of threads would slow libtorch's.
    for (&key, row) in keys.iter().zip(values.chunks_mut(row_len.max(1) as usize)) {
        for (index, value) in (0u64..).zip(row) {
            *value = if random::bits_at(key, index) >> 32 < threshold {
                kept
            } else {
                0.0
            };
        }
    }
    Ok(mask)
}

/// The same bits from int64 tensor operations, for devices without a kernel of ours.
fn by_tensor_operations(
    keys: &[u64],
    shape: &[i64],
    p: f64,
    device: Device,
) -> Result<Tensor, TorchError> {
    let row_len: i64 = shape[1..].iter().product();
    let signed: Vec<i64> = keys.iter().map(|&key| key.cast_signed()).collect();
    let keys = Tensor::from_slice(&signed)
        .f_to_device(device)?
        .f_view([-1, 1])?;
    let counters =
        Tensor::f_arange(row_len, (Kind::Int64, device))?.f_mul_scalar(INCREMENT.cast_signed())?;
    let bits = mix(&keys.f_add(&counters)?)?;
    let high = logical_shift_right(&bits, 32)?;
    let kept = high
        .f_lt(threshold(p).cast_signed())?
        .f_to_kind(Kind::Float)?;
    Ok(kept.f_mul_scalar(scale(p))?.f_view(shape)?)
}

/// [`random::mix`] on int64 tensors, whose products wrap as u64 does.
fn mix(x: &Tensor) -> Result<Tensor, TorchError> {
    let mut x = x.shallow_clone();
    for (shift, multiplier) in SHIFTS.into_iter().zip(MULTIPLIERS) {
        x = x
            .f_bitwise_xor_tensor(&logical_shift_right(&x, shift)?)?
            .f_mul_scalar(multiplier.cast_signed())?;
    }
    Ok(x.f_bitwise_xor_tensor(&logical_shift_right(&x, SHIFTS[2])?)?)
}

/// int64 tensors shift arithmetically: the sign's copies are masked away.
fn logical_shift_right(x: &Tensor, n: u32) -> Result<Tensor, TorchError> {
    let low_bits = (1i64 << (64 - n)) - 1;
    Ok(x.f_bitwise_right_shift_tensor_scalar(i64::from(n))?
        .f_bitwise_and(low_bits)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: MaskKey<'static> = MaskKey {
        seed: 9,
        step: 4,
        place: "h.0.attn",
    };

    #[test]
    fn both_ways_give_the_same_bits() {
        let keys: Vec<u64> = [3, 77].iter().map(|&sample| KEY.of_row(sample)).collect();
        let shape = [2, 5, 64];
        let host = on_host(&keys, &shape, 0.3).expect("room");
        let tensor = by_tensor_operations(&keys, &shape, 0.3, Device::Cpu).expect("room");
        assert!(host == tensor);
    }

    #[test]
    fn masks_keep_their_share_and_scale_it() {
        let mask = mask(KEY, &[1, 2, 3, 4], &[64, 128], 0.1, Device::Cpu).expect("room");
        let mean = mask.mean(Kind::Double).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_sample_s_mask_does_not_depend_on_its_batch() {
        let together = mask(KEY, &[5, 6], &[8, 8], 0.5, Device::Cpu).expect("room");
        let alone = mask(KEY, &[6], &[8, 8], 0.5, Device::Cpu).expect("room");
        assert!(together.narrow(0, 1, 1) == alone);
        let other_step =
            mask(MaskKey { step: 5, ..KEY }, &[6], &[8, 8], 0.5, Device::Cpu).expect("room");
        assert!(other_step != alone);
    }
}
