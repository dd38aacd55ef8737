//! The devices of a run, as a user names them: the word "auto", or a list.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

/// The devices of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum DevicesConfig {
    /// The NVIDIA GPUs, else CPU ranks.
    #[default]
    #[schemars(with = "AutoWord")]
    Auto,
    /// One entry a rank: "cpu" or a GPU's index. A GPU may be named twice.
    List(Vec<DeviceConfig>),
}

/// One rank's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum DeviceConfig {
    Gpu(usize),
    Cpu(CpuWord),
}

/// The word "cpu".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpuWord {
    Cpu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum AutoWord {
    Auto,
}

impl Serialize for DevicesConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => AutoWord::Auto.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl Serialize for DeviceConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Gpu(index) => index.serialize(serializer),
            Self::Cpu(word) => word.serialize(serializer),
        }
    }
}

// By hand: an untagged choice that serde derives knows neither the line nor what would have been right.
impl<'de> Deserialize<'de> for DevicesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DevicesVisitor)
    }
}

impl<'de> Deserialize<'de> for DeviceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DeviceVisitor)
    }
}

struct DevicesVisitor;

impl<'de> Visitor<'de> for DevicesVisitor {
    type Value = DevicesConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a list such as [\"cpu\", \"cpu\"] or [0, 1]")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
        if word == "auto" {
            Ok(DevicesConfig::Auto)
        } else {
            Err(E::invalid_value(de::Unexpected::Str(word), &self))
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut devices = Vec::new();
        while let Some(device) = list.next_element()? {
            devices.push(device);
        }
        Ok(DevicesConfig::List(devices))
    }
}

struct DeviceVisitor;

impl Visitor<'_> for DeviceVisitor {
    type Value = DeviceConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"cpu\" or a GPU's index")
    }

    fn visit_u64<E: de::Error>(self, index: u64) -> Result<Self::Value, E> {
        let unexpected = E::invalid_value(de::Unexpected::Unsigned(index), &self);
        usize::try_from(index)
            .map(DeviceConfig::Gpu)
            .map_err(|_| unexpected)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
        if word == "cpu" {
            Ok(DeviceConfig::Cpu(CpuWord::Cpu))
        } else {
            Err(E::invalid_value(de::Unexpected::Str(word), &self))
        }
    }
}
