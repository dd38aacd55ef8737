//! Tensors in the safetensors format.

use safetensors::{Dtype, tensor::TensorView};
use tch::{Kind, Tensor};

use crate::weights;

/// The header of a file that holds `tensors` one after the other.
pub fn header(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    let entry = |(name, tensor): &'_ (String, Tensor)| {
        Ok(weights::Entry {
            name: name.clone(),
            dtype: dtype(tensor.kind())?.to_owned(),
            shape: tensor.size(),
            n_bytes: tensor.numel() * tensor.kind().elt_size_in_bytes(),
        })
    };
    let entries = tensors.iter().map(entry);
    Ok(weights::header(
        &entries.collect::<Result<Vec<_>, String>>()?,
        &[],
    ))
}

/// A stored tensor in its own type.
pub fn to_tensor(stored: &TensorView<'_>) -> Result<Tensor, String> {
    let kind = match stored.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => {
            return Err(format!(
                "its type is {other:?}, expected a floating-point one"
            ));
        }
    };
    let shape: Vec<i64> = stored.shape().iter().map(|&size| size as i64).collect();
    Tensor::f_from_data_size(stored.data(), &shape, kind).map_err(|error| error.to_string())
}

/// Whether all elements are finite numbers; the bytes are a tensor's of this kind.
pub fn all_finite(bytes: &[u8], kind: Kind) -> bool {
    // A number is finite unless all exponent bits are set.
    match kind {
        Kind::Double => finite::<8>(bytes, |word| {
            u64::from_le_bytes(word) & (0x7FF << 52) != 0x7FF << 52
        }),
        _ => finite::<4>(bytes, |word| {
            u32::from_le_bytes(word) & (0xFF << 23) != 0xFF << 23
        }),
    }
}

fn finite<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> bool {
    bytes.as_chunks::<N>().0.iter().all(|&word| is_finite(word))
}

fn dtype(kind: Kind) -> Result<&'static str, String> {
    match kind {
        Kind::Float => Ok("F32"),
        Kind::Double => Ok("F64"),
        other => Err(format!("a checkpoint can't hold {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_are_seen_in_both_types() {
        let bytes = |values: &[f32]| {
            values
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<_>>()
        };
        assert!(all_finite(
            &bytes(&[0.0, -1.5, f32::MAX, f32::MIN_POSITIVE]),
            Kind::Float
        ));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!all_finite(&bytes(&[1.0, bad]), Kind::Float));
            assert!(!all_finite(&f64::from(bad).to_le_bytes(), Kind::Double));
        }
    }

    #[test]
    fn the_reference_reader_reads_our_header() {
        let tensors = vec![
            ("a".to_owned(), Tensor::from_slice(&[1.0f32, 2.0])),
            ("b".to_owned(), Tensor::from_slice(&[3.0f64])),
        ];
        let mut file = header(&tensors).expect("known types");
        file.extend([1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()));
        file.extend(3.0f64.to_le_bytes());
        let read = safetensors::SafeTensors::deserialize(&file).expect("well-formed");
        let b = to_tensor(&read.tensor("b").expect("there")).expect("readable");
        assert_eq!(b.double_value(&[0]), 3.0);
    }
}
