//! Floating-point fields that keep NaN and infinity apart in JSON.
//!
//! JSON has no such numbers and `serde_json` writes `null` for each. Fields marked
//! `#[serde(with = "nonfinite")]` are written as the strings "NaN", "inf" and "-inf" instead.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Writes a number, or the name of a value that JSON cannot hold.
///
/// # Errors
/// Whatever the serializer says.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        value.serialize(serializer)
    } else {
        value.to_string().serialize(serializer)
    }
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// A string that names no number.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Name(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Number(value) => Ok(value),
        Written::Name(name) => name.parse().map_err(D::Error::custom),
    }
}
