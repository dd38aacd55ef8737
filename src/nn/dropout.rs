//! Dropout masks from counters: a function of (seed, place, step, sample, element).
//!
//! The mask of an element is the same on every device and under every split, and a rank draws only what it computes with.
//!
//! On a GPU there is no kernel of ours yet, so that the hash is a chain of about a dozen operators on 8-byte integers,
//! about 170 bytes of traffic per element. It runs over [`CHUNK`] elements at a time, so nearly all of that stays in the
//! GPU's cache: memory itself sees the mask being written, in the type it is used in. No step of it asks the host.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::{
    base::random::{self, INCREMENT, MULTIPLIERS, SHIFTS},
    torch::{NumberOps, TorchError, raw},
};

/// Elements that are hashed at a time on a GPU: 32 MiB of integers, which the second-level caches of most cards hold.
const CHUNK: i64 = 1 << 21;
/// The sign of an 8-byte integer.
const SIGN: i64 = i64::MIN;

/// The places of a model where something is dropped, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskPlaces(Vec<String>);

impl MaskPlaces {
    /// Places of these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A micro-batch's keys, from which its masks are drawn: one for each place and sample.
#[derive(Debug)]
pub struct MaskKeys {
    places: Arc<MaskPlaces>,
    n_samples: usize,
    /// `[places, samples]`.
    host: Vec<u64>,
    /// The same as int64 on a GPU, if masks are drawn there.
    device: Option<Tensor>,
}

/// The part of each sample's elements that a rank draws, itself a shape: `shape`'s elements from number `first` on.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub first: i64,
    pub shape: &'a [i64],
}

impl Part<'_> {
    fn len(&self) -> i64 {
        self.shape.iter().product()
    }
}

impl MaskKeys {
    /// The keys of a step's samples, given by their global indices.
    pub fn new(places: &Arc<MaskPlaces>, seed: u64, step: u64, samples: &[u64]) -> Self {
        let of_place = |name: &String| {
            let place = random::name_part(name);
            let key = move |&sample| random::key(seed, &[place, step, sample]);
            samples.iter().map(key)
        };
        Self {
            host: places.0.iter().flat_map(of_place).collect(),
            places: Arc::clone(places),
            n_samples: samples.len(),
            device: None,
        }
    }

    /// The keys one after the other, as a device's integers.
    pub fn as_integers(&self) -> impl Iterator<Item = i64> {
        self.host.iter().map(|key| key.cast_signed())
    }

    /// The same keys, for masks on the device of `copy`, which is flat.
    pub fn with_copy(self, copy: Tensor) -> Self {
        Self {
            device: Some(copy),
            ..self
        }
    }

    /// A mask of 0 and 1 / (1 - p) in type `kind`, `[samples, part...]`, at one of the places.
    ///
    /// # Errors
    /// No such place, or no room on the device.
    pub fn draw(
        &self,
        place: &str,
        part: Part<'_>,
        p: f64,
        kind: Kind,
    ) -> Result<Tensor, TorchError> {
        let number = self.places.0.iter().position(|name| name == place);
        let number =
            number.ok_or_else(|| TorchError::new(&format!("nothing is dropped at {place}")))?;
        let (first, n) = (number * self.n_samples, self.n_samples);
        let mask = match &self.device {
            None => on_host(&self.host[first..first + n], part, p, kind)?,
            Some(keys) => on_device(&keys.f_narrow(0, first as i64, n as i64)?, part, p, kind)?,
        };
        let mut shape = vec![n as i64];
        shape.extend_from_slice(part.shape);
        Ok(mask.f_view(shape.as_slice())?)
    }
}

/// Random bits below this keep the element: the 32 high bits of the hash are compared.
fn threshold(p: f64) -> u64 {
    ((1.0 - p) * (1u64 << 32) as f64) as u64
}

/// What a kept element is multiplied by, rounded to fp32 whatever the mask's type.
fn scale(p: f64) -> f32 {
    (1.0 / (1.0 - p)) as f32
}

fn on_host(keys: &[u64], part: Part<'_>, p: f64, kind: Kind) -> Result<Tensor, TorchError> {
    let mut mask = Tensor::f_empty([keys.len() as i64, part.len()], (kind, Device::Cpu))?;
    let kept = scale(p);
    match kind {
        Kind::BFloat16 => fill(&mut mask, keys, part, p, half::bf16::from_f32(kept))?,
        Kind::Double => fill(&mut mask, keys, part, p, f64::from(kept))?,
        _ => fill(&mut mask, keys, part, p, kept)?,
    }
    Ok(mask)
}

/// The rank's own thread draws: a second pool of threads would slow libtorch's.
fn fill<T: raw::Element + Default>(
    mask: &mut Tensor,
    keys: &[u64],
    part: Part<'_>,
    p: f64,
    kept: T,
) -> Result<(), TorchError> {
    let (threshold, dropped) = (threshold(p), T::default());
    let rows = raw::slice_mut::<T>(mask)?.chunks_mut(part.len().max(1) as usize);
    for (&key, row) in keys.iter().zip(rows) {
        for (index, value) in (part.first as u64..).zip(row) {
            let is_kept = random::bits_at(key, index) >> 32 < threshold;
            *value = if is_kept { kept } else { dropped };
        }
    }
    Ok(())
}

/// The same bits from tensor operations.
fn on_device(keys: &Tensor, part: Part<'_>, p: f64, kind: Kind) -> Result<Tensor, TorchError> {
    let options = (kind, keys.device());
    let (n_rows, len) = (keys.size()[0], part.len());
    let kept = Tensor::try_full(&[], f64::from(scale(p)), options)?;
    let dropped = Tensor::f_zeros([], options)?;
    let mask = Tensor::f_empty([n_rows, len], options)?;
    let step = (CHUNK / n_rows.max(1)).max(1);
    let mut done = 0;
    while done < len {
        let n = step.min(len - done);
        let words = words_before_last_mix(keys, part.first + done, n)?;
        let is_kept = is_below(words, threshold(p))?;
        let _ = kept.f_where_self_out(&mask.f_narrow(1, done, n)?, &is_kept, &dropped)?;
        done += n;
    }
    Ok(mask)
}

/// [`random::bits_at`] without the last mixing, `[keys, n]` from counter `first` on; int64's products wrap as u64's do.
fn words_before_last_mix(keys: &Tensor, first: i64, n: i64) -> Result<Tensor, TorchError> {
    let mut counters = Tensor::try_arange(first, first + n, (Kind::Int64, keys.device()))?;
    counters.try_mul_(INCREMENT.cast_signed())?;
    let mut words = keys.f_unsqueeze(1)?.f_add(&counters)?;
    let mut mixed = words.f_empty_like()?;
    for (shift, multiplier) in SHIFTS.into_iter().zip(MULTIPLIERS) {
        words.try_shift_right_out(i64::from(shift), &mut mixed)?;
        // int64 shifts arithmetically: the sign's copies are masked away.
        mixed.try_bitwise_and_((1 << (64 - shift)) - 1)?;
        let _ = mixed.f_bitwise_xor_tensor_(&words)?;
        mixed.try_mul_(multiplier.cast_signed())?;
        std::mem::swap(&mut words, &mut mixed);
    }
    Ok(words)
}

/// Whether the high half of each word is below `threshold` once the last mixing, `w ^ w >> 31`, is done.
///
/// Of the high half that flips only the lowest bit, and only where the highest is set: two neighbours change places.
/// They do so across the threshold only where it is odd and the two lie in the upper half.
fn is_below(mut words: Tensor, threshold: u64) -> Result<Tensor, TorchError> {
    const LOWEST: i64 = 1 << 32;
    if threshold % 2 == 1 && threshold > 1 << 31 {
        let mut flips = words.f_empty_like()?;
        words.try_shift_right_out(63, &mut flips)?;
        flips.try_bitwise_and_(LOWEST)?;
        let _ = words.f_bitwise_xor_tensor_(&flips)?;
    }
    // With the signs flipped, int64 compares as u64 does.
    words.try_bitwise_xor_(SIGN)?;
    words.try_lt((threshold << 32).cast_signed() ^ SIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [u64; 2] = [3, 77];
    const WHOLE: Part<'static> = Part {
        first: 0,
        shape: &[5, 64],
    };

    fn places() -> Arc<MaskPlaces> {
        Arc::new(MaskPlaces::new(["embedding", "h.0.attn"].map(String::from)))
    }

    fn keys(step: u64, samples: &[u64]) -> MaskKeys {
        MaskKeys::new(&places(), 9, step, samples)
    }

    /// As on a GPU, by tensor operations.
    fn device_keys(step: u64, samples: &[u64]) -> MaskKeys {
        let keys = keys(step, samples);
        let copy: Vec<i64> = keys.as_integers().collect();
        keys.with_copy(Tensor::from_slice(&copy))
    }

    fn draw(keys: &MaskKeys, part: Part<'_>, p: f64, kind: Kind) -> Tensor {
        keys.draw("h.0.attn", part, p, kind).expect("room")
    }

    #[test]
    fn both_ways_give_the_bits_of_the_definition_in_every_type() {
        // Their thresholds are even and odd, in the lower and the upper half.
        for p in [0.1, 0.3, 0.05, 0.5, 0.7, 0.9, 0.75, 1.0 / 3.0] {
            let values: Vec<f32> = SAMPLES
                .iter()
                .flat_map(|&sample| {
                    let key = random::key(9, &[random::name_part("h.0.attn"), 4, sample]);
                    (0..320).map(move |index| {
                        let bits = random::bits_at(key, index) >> 32;
                        let is_kept = bits < ((1.0 - p) * 4_294_967_296.0) as u64;
                        if is_kept {
                            (1.0 / (1.0 - p)) as f32
                        } else {
                            0.0
                        }
                    })
                })
                .collect();
            let expected = Tensor::from_slice(&values).view([2, 5, 64]);
            for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
                for keys in [keys(4, &SAMPLES), device_keys(4, &SAMPLES)] {
                    let mask = draw(&keys, WHOLE, p, kind);
                    assert!(mask.equal(&expected.to_kind(kind)), "{p} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_mixing_may_be_left_out_beside_every_threshold() {
        let highs = [
            0u64,
            1,
            2,
            0x7FFF_FFFE,
            0x7FFF_FFFF,
            0x8000_0000,
            0x8000_0001,
        ];
        let highs = highs
            .into_iter()
            .chain([0xB333_3332, 0xB333_3333, 0xFFFF_FFFE, 0xFFFF_FFFF]);
        let words: Vec<u64> = highs
            .flat_map(|high| {
                [
                    high << 32,
                    high << 32 | 0x8000_0000,
                    high << 32 | 0xFFFF_FFFF,
                ]
            })
            .collect();
        let thresholds = words.iter().flat_map(|word| [word >> 32, (word >> 32) + 1]);
        for threshold in thresholds.filter(|&threshold| threshold < 1 << 32) {
            let expected = words
                .iter()
                .map(|word| (word ^ word >> 31) >> 32 < threshold);
            let expected: Vec<bool> = expected.collect();
            let signed: Vec<i64> = words.iter().map(|word| word.cast_signed()).collect();
            let found = is_below(Tensor::from_slice(&signed), threshold).expect("compared");
            assert_eq!(
                Vec::<bool>::try_from(found).expect("readable"),
                expected,
                "{threshold:x}"
            );
        }
    }

    #[test]
    fn chunks_make_up_the_whole() {
        let samples: Vec<u64> = (0..64).collect();
        let long = Part {
            first: 7,
            // Two chunks and a rest.
            shape: &[CHUNK / 64 * 2 + 5],
        };
        let keys = [keys(4, &samples), device_keys(4, &samples)];
        let [host, device] = keys.map(|keys| draw(&keys, long, 0.1, Kind::Float));
        assert!(host.equal(&device));
    }

    #[test]
    fn masks_keep_their_share_and_scale_it() {
        let large = Part {
            first: 0,
            shape: &[64, 128],
        };
        let mask = draw(&keys(4, &[1, 2, 3, 4]), large, 0.1, Kind::Float);
        let mean = mask.mean(Kind::Double).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_mask_depends_on_step_place_and_sample_and_not_on_the_batch_or_the_part() {
        for keys_of in [keys, device_keys] {
            let of = |step, samples: &[u64]| draw(&keys_of(step, samples), WHOLE, 0.5, Kind::Float);
            let together = of(4, &[5, 6]);
            let alone = of(4, &[6]);
            assert!(together.narrow(0, 1, 1).equal(&alone));
            let two_rows = Part {
                first: 2 * 64,
                shape: &[2, 64],
            };
            let part = draw(&keys_of(4, &[6]), two_rows, 0.5, Kind::Float);
            assert!(part.equal(&alone.narrow(1, 2, 2)));
            let elsewhere = keys_of(4, &[6]).draw("embedding", WHOLE, 0.5, Kind::Float);
            let others = [of(5, &[6]), of(4, &[5]), elsewhere.expect("room")];
            assert!(others.iter().all(|other| !other.equal(&alone)));
            assert!(
                keys_of(4, &[6])
                    .draw("h.1.attn", WHOLE, 0.5, Kind::Float)
                    .is_err()
            );
        }
    }
}
