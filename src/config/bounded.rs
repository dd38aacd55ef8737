//! Bounds of a configuration's counts, held where they are read: no loop over a count begins before it is known to be one
//! that a machine could mean.
//!
//! The bounds lie far above what anybody trains, and far below what would keep a planner busy or overflow a product.
//! A seed is no count.

use std::fmt::Display;

use serde::{Deserialize, Deserializer, de::Error};

/// Ranks along an axis, chunks, threads, restarts.
pub const RANKS: u64 = 65_536;
/// Layers of a model, and heads of a layer.
pub const LAYERS: u64 = 10_000;
/// Elements of a width.
pub const WIDTH: u64 = 1 << 22;
/// Tokens of a context, and tokens to generate.
pub const CONTEXT: u64 = 1 << 26;
/// Distinct tokens.
pub const TOKENS: u64 = 1 << 24;
/// Sequences of a step.
pub const BATCH: u64 = 1 << 26;
/// Steps, seconds, training tokens, checkpoints: what is counted while a run goes on.
pub const EVER: u64 = 1 << 52;

/// A count of at most `MAX`.
///
/// # Errors
/// No count, or one beyond the bound.
pub fn at_most<'de, D, T, const MAX: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Copy + Display + TryInto<u64>,
{
    within::<_, _, MAX>(T::deserialize(deserializer)?)
}

/// As [`at_most`], or null.
///
/// # Errors
/// As [`at_most`].
pub fn if_given<'de, D, T, const MAX: u64>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Copy + Display + TryInto<u64>,
{
    let given = Option::<T>::deserialize(deserializer)?;
    given.map(within::<_, _, MAX>).transpose()
}

fn within<T, E, const MAX: u64>(count: T) -> Result<T, E>
where
    T: Copy + Display + TryInto<u64>,
    E: Error,
{
    match count.try_into() {
        Ok(small) if small <= MAX => Ok(count),
        _ => Err(E::custom(format!(
            "is {count}, more than {MAX}; give a smaller number"
        ))),
    }
}
