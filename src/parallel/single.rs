//! One replica: nothing happens between segments.

use super::Strategy;

/// No other rank trains the same parameters.
pub struct Single;

impl Strategy for Single {}
