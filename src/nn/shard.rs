//! Between whole parameters and the parts that tensor-parallel ranks hold; between whole flat buffers
//! and the shards of data-parallel ranks.

use tch::Tensor;

use super::Layout;
use crate::{
    arch::{ParamSpec, Shard, Sharding},
    torch::TorchError,
};

/// This rank's part of a whole parameter; padding is zero.
///
/// # Errors
/// A tensor of another shape than `spec` states.
pub fn cut(whole: &Tensor, spec: &ParamSpec, shard: Shard) -> Result<Tensor, TorchError> {
    if shard.is_as_stored(spec) {
        return Ok(whole.shallow_clone());
    }
    let own = Tensor::f_zeros(shard.shape(spec), (whole.kind(), whole.device()))?;
    for (mut part, of_whole) in pairs(&own, whole, spec, shard)? {
        part.f_copy_(&of_whole)?;
    }
    Ok(own)
}

/// Writes this rank's part into the whole parameter; padding is left out.
///
/// # Errors
/// As [`cut`].
pub fn paste(
    part: &Tensor,
    whole: &Tensor,
    spec: &ParamSpec,
    shard: Shard,
) -> Result<(), TorchError> {
    if shard.is_as_stored(spec) {
        return Ok(whole.shallow_clone().f_copy_(part)?);
    }
    for (of_part, mut of_whole) in pairs(part, whole, spec, shard)? {
        of_whole.f_copy_(&of_part)?;
    }
    Ok(())
}

/// The same memory as what a rank holds whole, less its padding.
///
/// # Errors
/// A tensor of another shape than this rank holds.
pub fn without_padding(part: &Tensor, spec: &ParamSpec) -> Result<Tensor, TorchError> {
    match spec.sharding {
        Sharding::Vocab => Ok(part.f_narrow(0, 0, spec.shape[0])?),
        Sharding::Replicated | Sharding::Split { .. } => Ok(part.shallow_clone()),
    }
}

/// The whole buffer of a layout from the shards of all data-parallel ranks.
///
/// # Errors
/// Shards of another layout.
pub fn join_shards(layout: &Layout, shards: &[&Tensor]) -> Result<Tensor, TorchError> {
    let options = (shards[0].kind(), shards[0].device());
    let whole = Tensor::f_empty([layout.len()], options)?;
    for group in 0..layout.groups.len() {
        for (index, shard) in shards.iter().enumerate() {
            let part = layout.part_of(group, index);
            let len = part.end - part.start;
            let values = shard.f_narrow(0, layout.part_offset(group), len)?;
            whole.f_narrow(0, part.start, len)?.f_copy_(&values)?;
        }
    }
    Ok(whole)
}

/// Views of the same elements in the part and in the whole.
fn pairs(
    part: &Tensor,
    whole: &Tensor,
    spec: &ParamSpec,
    shard: Shard,
) -> Result<Vec<(Tensor, Tensor)>, TorchError> {
    let index = shard.index as i64;
    match spec.sharding {
        Sharding::Replicated => Ok(vec![(part.shallow_clone(), whole.shallow_clone())]),
        Sharding::Split { dim, blocks } => {
            let along = dim as i64;
            let block = whole.size()[dim] / blocks;
            let len = block / shard.of as i64;
            (0..blocks)
                .map(|number| {
                    let of_part = part.f_narrow(along, number * len, len)?;
                    let start = number * block + index * len;
                    Ok((of_part, whole.f_narrow(along, start, len)?))
                })
                .collect()
        }
        Sharding::Vocab => {
            let (vocab_size, rows) = (whole.size()[0], part.size()[0]);
            let first = (index * rows).min(vocab_size);
            let len = rows.min(vocab_size - first);
            Ok(vec![(
                part.f_narrow(0, 0, len)?,
                whole.f_narrow(0, first, len)?,
            )])
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::arch::Init;

    #[test]
    fn parts_make_up_the_whole() {
        let cases: [(&[usize], Sharding); 5] = [
            (&[3, 12], Sharding::Split { dim: 1, blocks: 3 }),
            (&[12], Sharding::Split { dim: 0, blocks: 3 }),
            (&[8, 3], Sharding::Split { dim: 0, blocks: 1 }),
            (&[65, 3], Sharding::Vocab),
            (&[5, 3], Sharding::Replicated),
        ];
        for (shape, sharding) in cases {
            let spec = ParamSpec::new("p", shape, Init::Zeros).sharded(sharding);
            let whole = Tensor::arange(spec.numel() as i64, (Kind::Float, Device::Cpu))
                .view(spec.shape.as_slice());
            let rebuilt = whole.full_like(-1);
            for index in 0..2 {
                let shard = Shard { index, of: 2 };
                let part = cut(&whole, &spec, shard).expect("cut");
                assert_eq!(part.size(), shard.shape(&spec));
                paste(&part, &rebuilt, &spec, shard).expect("pasted");
            }
            assert!(rebuilt == whole, "{sharding:?}");
        }
    }

    #[test]
    fn a_padded_vocabulary_that_is_not_cut_is_whole() {
        let spec = ParamSpec::new("p", &[1_030, 2], Init::Zeros).sharded(Sharding::Vocab);
        let whole = Tensor::arange(2_060, (Kind::Float, Device::Cpu)).view([1_030, 2]) + 1.0;
        let part = cut(&whole, &spec, Shard::WHOLE).expect("cut");
        assert_eq!(part.size(), [1_088, 2]);
        assert!(part.sum(Kind::Float) == whole.sum(Kind::Float));
        let rebuilt = whole.full_like(-1);
        paste(&part, &rebuilt, &spec, Shard::WHOLE).expect("pasted");
        assert!(rebuilt == whole);
        assert!(without_padding(&part, &spec).expect("narrowed") == whole);
    }

    #[test]
    fn fused_blocks_are_cut_one_by_one() {
        let spec =
            ParamSpec::new("qkv", &[6], Init::Zeros).sharded(Sharding::Split { dim: 0, blocks: 3 });
        let whole = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let part = cut(&whole, &spec, Shard { index: 1, of: 2 }).expect("cut");
        assert!(part == Tensor::from_slice(&[1.0f32, 3.0, 5.0]));
    }
}
