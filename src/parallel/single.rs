//! One replica: nothing happens between segments.

use std::ops::Range;

use super::Strategy;
use crate::{
    dist::{CommError, Communicator},
    nn::{FlatRange, ParamStore},
};

/// No other rank trains the same parameters.
pub struct Single;

impl Strategy for Single {
    fn grads_ready(
        &mut self,
        store: &mut ParamStore,
        segments: Range<usize>,
        is_last: bool,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        if is_last {
            store.zero_unfilled(segments)?;
        }
        Ok(())
    }

    fn before_update(
        &mut self,
        _: &mut ParamStore,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        Ok(())
    }

    fn after_update(
        &mut self,
        store: &ParamStore,
        part: &FlatRange,
        _: &mut dyn Communicator,
    ) -> Result<(), CommError> {
        Ok(store.publish(part)?)
    }
}
