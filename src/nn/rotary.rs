//! Rotary positions (Su et al., 2021) in Hugging Face's convention: of a head's numbers, i and i + half are a pair.

use std::{
    f64::consts::TAU,
    sync::{Mutex, PoisonError},
};

use tch::{Device, Kind, Tensor};

use crate::{
    config::Llama3Scaling,
    torch::{NumberOps, TorchError},
};

/// Turns pairs of a head's numbers by angles that grow with the position.
///
/// The tables of cosines and sines are made at the first use, in fp64, and shared by all layers.
#[derive(Debug)]
pub struct Rotary {
    /// Radians a position, by pair.
    frequencies: Vec<f64>,
    seq_len: i64,
    tables: Mutex<Option<Tables>>,
}

/// `[time, 1, head_dim]` each; the first half of the sines is negated.
#[derive(Debug)]
struct Tables {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// For heads of an even width, and windows of `seq_len` positions.
    pub fn new(
        head_dim: usize,
        seq_len: usize,
        theta: f64,
        scaling: Option<Llama3Scaling>,
    ) -> Self {
        Self {
            frequencies: frequencies(head_dim, theta, scaling),
            seq_len: seq_len as i64,
            tables: Mutex::new(None),
        }
    }

    /// `x` with every head turned: `[batch, time, heads, head_dim]`, from position 0.
    ///
    /// # Errors
    /// No room for the tables, or a longer window than there are positions.
    pub fn turn(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        let (cos, sin) = self.tables(x)?;
        let half = self.frequencies.len() as i64;
        // x cos + rotate_half(x) sin, with the minus of rotate_half in the table.
        let swapped = x.f_roll([half], [-1])?;
        Ok(x.f_mul(&cos)?.f_addcmul(&swapped, &sin)?)
    }

    /// The first rows, as many as `x` has positions.
    fn tables(&self, x: &Tensor) -> Result<(Tensor, Tensor), TorchError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |made: &Tables| (made.cos.kind(), made.cos.device()) == (x.kind(), x.device());
        let tables = match tables.take().filter(fits) {
            Some(made) => tables.insert(made),
            None => tables.insert(self.make(x.kind(), x.device())?),
        };
        let rows = |table: &Tensor| table.f_narrow(0, 0, x.size()[1]);
        Ok((rows(&tables.cos)?, rows(&tables.sin)?))
    }

    fn make(&self, kind: Kind, device: Device) -> Result<Tables, TorchError> {
        let positions = Tensor::try_arange(0, self.seq_len, (Kind::Double, Device::Cpu))?;
        let angles = positions.f_outer(&Tensor::f_from_slice(&self.frequencies)?)?;
        let table = |halves: [Tensor; 2]| -> Result<Tensor, TorchError> {
            let whole = Tensor::f_cat(&halves, 1)?.f_unsqueeze(1)?;
            Ok(whole.f_to_device(device)?.f_to_kind(kind)?)
        };
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
        Ok(Tables {
            cos: table([cos.shallow_clone(), cos])?,
            sin: table([sin.f_neg()?, sin])?,
        })
    }
}

/// Radians a position of each pair.
fn frequencies(head_dim: usize, theta: f64, scaling: Option<Llama3Scaling>) -> Vec<f64> {
    let half = head_dim / 2;
    let plain = (0..half).map(|pair| theta.powf(-(pair as f64) / half as f64));
    match scaling {
        Some(scaling) => plain.map(|plain| stretched(plain, scaling)).collect(),
        None => plain.collect(),
    }
}

/// Llama 3.1's rule, as `transformers` has it (`_compute_llama3_parameters`).
fn stretched(frequency: f64, scaling: Llama3Scaling) -> f64 {
    let Llama3Scaling {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position,
    } = scaling;
    // How often the wavelength fits into the original context.
    let turns = original_max_position as f64 * frequency / TAU;
    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
    (1.0 - kept) * frequency / factor + kept * frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_3_1: Llama3Scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };

    #[test]
    fn long_wavelengths_are_stretched_and_short_ones_stay() {
        let (plain, changed) = [None, Some(LLAMA_3_1)]
            .map(|scaling| frequencies(128, 5e5, scaling))
            .into();
        let ratios: Vec<f64> = plain.iter().zip(&changed).map(|(a, b)| a / b).collect();
        assert_eq!((ratios[0], ratios[28]), (1.0, 1.0));
        assert!((1.01..7.99).contains(&ratios[32]), "{}", ratios[32]);
        assert!((ratios[63] - 8.0).abs() < 1e-12);
        assert!(ratios.is_sorted());
    }

    #[test]
    fn turning_keeps_lengths_and_depends_on_distances_alone() {
        let rotary = Rotary::new(8, 16, 1e4, None);
        let options = (Kind::Double, Device::Cpu);
        let ramp = Tensor::arange(8, options).view([1, 1, 1, 8]);
        let same = ramp.expand([1, 16, 1, 8], false).contiguous();
        let turned = rotary.turn(&same).expect("turned").view([16, 8]);
        let products = turned.matmul(&turned.tr());
        let product = |a, b| products.double_value(&[a, b]);
        assert!(turned.get(0).allclose(&ramp.view([8]), 0.0, 0.0, false));
        assert!((product(5, 5) - 140.0).abs() < 1e-10);
        assert!((product(2, 5) - product(9, 12)).abs() < 1e-10);
        assert!((product(2, 5) - product(2, 6)).abs() > 1e-3);
    }

    #[test]
    fn tables_follow_the_type_of_what_is_turned() {
        let rotary = Rotary::new(4, 8, 1e4, None);
        for (kind, time) in [(Kind::Float, 8), (Kind::BFloat16, 3), (Kind::Double, 8)] {
            let x = Tensor::ones([2, time, 3, 4], (kind, Device::Cpu));
            let turned = rotary.turn(&x).expect("turned");
            assert_eq!((turned.kind(), turned.size()), (kind, x.size()));
        }
        let long = Tensor::ones([1, 9, 1, 4], (Kind::Float, Device::Cpu));
        assert!(rotary.turn(&long).is_err(), "more positions than there are");
    }
}
