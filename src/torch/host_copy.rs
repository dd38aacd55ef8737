//! Copies of tensors on the host, also in memory that other processes of the same user can map.

use std::{fs::File, os::fd::AsRawFd, process};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use tch::{Device, Kind, Tensor};

use super::{SharedTensor, TorchError, staging};

/// A flat copy on the host. A shared one, serialized, is an address: who reads that maps the same memory, which lives
/// as long as anybody maps it. The writer has to keep its own until the reader has mapped it.
#[derive(Debug)]
pub struct HostCopy {
    /// Of a shared one, in the process that made it.
    file: Option<File>,
    tensor: SharedTensor,
}

/// Where another process finds the memory.
#[derive(Serialize, Deserialize)]
struct Address {
    pid: u32,
    fd: i32,
    kind: String,
    len: i64,
}

impl HostCopy {
    /// Copies a tensor from any device, for this process.
    ///
    /// # Errors
    /// No room, or a device fault.
    pub fn of(tensor: &Tensor) -> Result<Self, TorchError> {
        let options = (tensor.kind(), Device::Cpu);
        let copy = Tensor::f_empty([tensor.numel() as i64], options)?;
        staging::copy(tensor, &copy)?;
        Ok(Self {
            file: None,
            tensor: SharedTensor::of(&copy),
        })
    }

    /// Copies a tensor from any device, for other processes too.
    ///
    /// # Errors
    /// No room, or a device fault.
    pub fn shared(tensor: &Tensor) -> Result<Self, TorchError> {
        let failed = |error: std::io::Error| TorchError::new(&format!("shared memory: {error}"));
        let memory = memfd_create("capstan", MemfdFlags::CLOEXEC);
        let file = File::from(memory.map_err(|error| failed(error.into()))?);
        let n_bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        file.set_len(n_bytes as u64).map_err(failed)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mapped = map(&path, tensor.kind(), tensor.numel() as i64)?;
        staging::copy(tensor, &mapped)?;
        Ok(Self {
            file: Some(file),
            tensor: SharedTensor::of(&mapped),
        })
    }

    /// The tensor, for a look.
    pub fn tensor(&self) -> &Tensor {
        self.tensor.tensor()
    }
}

fn map(path: &str, kind: Kind, len: i64) -> Result<Tensor, TorchError> {
    let options = (kind, Device::Cpu);
    Ok(match len {
        // No memory is no map.
        0 => Tensor::f_empty([0], options)?,
        _ => Tensor::f_from_file(path, true, len, options)?,
    })
}

impl Serialize for HostCopy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(file) = &self.file else {
            return Err(serde::ser::Error::custom(
                "memory that is not shared has no address",
            ));
        };
        Address {
            pid: process::id(),
            fd: file.as_raw_fd(),
            kind: format!("{:?}", self.tensor().kind()),
            len: self.tensor().numel() as i64,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HostCopy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let address = Address::deserialize(deserializer)?;
        let kinds = [Kind::Float, Kind::Double, Kind::BFloat16];
        let named = |kind: &Kind| format!("{kind:?}") == address.kind;
        let Some(kind) = kinds.into_iter().find(named) else {
            return Err(D::Error::custom(format!("no type {}", address.kind)));
        };
        let path = format!("/proc/{}/fd/{}", address.pid, address.fd);
        let tensor = map(&path, kind, address.len).map_err(D::Error::custom)?;
        Ok(Self {
            file: None,
            tensor: SharedTensor::of(&tensor),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_memory_is_found_by_its_address_and_outlives_its_maker() {
        for original in [
            Tensor::arange(1000, (Kind::BFloat16, Device::Cpu)),
            Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]),
            Tensor::empty([0], (Kind::Double, Device::Cpu)),
        ] {
            let copy = HostCopy::shared(&original).expect("room");
            let address = rmp_serde::to_vec(&copy).expect("an address");
            let found: HostCopy = rmp_serde::from_slice(&address).expect("it is there");
            drop(copy);
            assert_eq!(found.tensor().kind(), original.kind());
            assert!(found.tensor().equal(&original.view([-1])));
            for unshared in [found, HostCopy::of(&original).expect("room")] {
                assert!(unshared.tensor().equal(&original.view([-1])));
                assert!(rmp_serde::to_vec(&unshared).is_err());
            }
        }
    }
}
