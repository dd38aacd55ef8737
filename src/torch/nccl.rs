//! NCCL through cudarc's raw layer. The library is opened at run time.

use std::{
    ffi::{c_char, c_void},
    ptr,
};

use cudarc::nccl::{result, sys};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{TorchError, peers::Reduction, stream::Stream};

/// Opens NCCL, or says why not: cudarc panics at its first call where it finds nothing.
///
/// # Errors
/// No `libnccl.so` on the loader's path.
pub fn probe() -> Result<String, TorchError> {
    // SAFETY: opens and closes the library; NCCL's initialisers have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(TorchError::new("libnccl.so is not on the loader's path"));
    }
    let version = result::get_nccl_version().map_err(|error| failed("version", &error))?;
    Ok(format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    ))
}

/// What all ranks need to find each other; made by one, handed to all.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "Vec<c_char>", try_from = "Vec<c_char>")]
pub struct UniqueId(sys::ncclUniqueId);

impl From<UniqueId> for Vec<c_char> {
    fn from(id: UniqueId) -> Self {
        id.0.internal.to_vec()
    }
}

impl TryFrom<Vec<c_char>> for UniqueId {
    type Error = &'static str;

    fn try_from(bytes: Vec<c_char>) -> Result<Self, Self::Error> {
        let internal = bytes.try_into().map_err(|_| "an NCCL id of another size")?;
        Ok(Self(sys::ncclUniqueId { internal }))
    }
}

impl UniqueId {
    /// Makes the id of a new communicator.
    ///
    /// # Errors
    /// NCCL can't open its bootstrap socket.
    pub fn new() -> Result<Self, TorchError> {
        result::get_uniqueid()
            .map(Self)
            .map_err(|error| failed("ncclGetUniqueId", &error))
    }
}

/// One rank's handle. It stays on the thread that made it, and lives as long as the process: destroying it waits for
/// the other ranks, which a rank that failed must not do.
pub struct Handle {
    comm: sys::ncclComm_t,
    stream: Stream,
    stream_handle: *mut c_void,
}

impl Handle {
    /// Joins the communicator; blocks until all ranks have.
    ///
    /// The current device must be this rank's. All later calls launch on `stream`.
    ///
    /// # Errors
    /// NCCL's own, such as two ranks on one GPU.
    pub fn join(
        id: UniqueId,
        rank: usize,
        world: usize,
        stream: Stream,
    ) -> Result<Self, TorchError> {
        let mut comm = ptr::null_mut();
        // SAFETY: `comm` outlives the call.
        unsafe { result::comm_init_rank(&raw mut comm, world as i32, id.0, rank as i32) }
            .map_err(|error| failed("ncclCommInitRank", &error))?;
        Ok(Self {
            comm,
            stream,
            stream_handle: stream.handle()?,
        })
    }

    /// Destroys the communicator; every rank does, when nothing is under way on it.
    pub fn destroy(self) {
        // SAFETY: made by `join`, destroyed once, on the thread that made it.
        let _ = unsafe { result::comm_destroy(self.comm) };
    }

    /// The communication stream.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Launches a sum (or maximum) over ranks, in place. The tensor must outlive the operation on the stream.
    ///
    /// # Errors
    /// A type that NCCL can't sum, or NCCL's own.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        let op = match reduction {
            Reduction::Sum => sys::ncclRedOp_t::ncclSum,
            Reduction::Max => sys::ncclRedOp_t::ncclMax,
        };
        // SAFETY: a live contiguous CUDA buffer of `len` elements; in place is allowed.
        let launched = unsafe {
            result::all_reduce(
                data,
                data,
                len,
                kind,
                op,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclAllReduce", launched)
    }

    /// Launches a sum over ranks that only `root` keeps, in place.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn reduce(&self, tensor: &Tensor, root: usize) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        let op = sys::ncclRedOp_t::ncclSum;
        // SAFETY: a live contiguous CUDA buffer of `len` elements; in place is allowed.
        let launched = unsafe {
            result::reduce(
                data,
                data,
                len,
                kind,
                op,
                root as i32,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclReduce", launched)
    }

    /// Launches a copy of `root`'s buffer to all ranks.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        // SAFETY: a live contiguous CUDA buffer of `len` elements; in place is allowed.
        let launched = unsafe {
            result::broadcast(
                data,
                data,
                len,
                kind,
                root as i32,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclBroadcast", launched)
    }

    /// Launches a sum over ranks of which part `rank` of `world` equal ones is kept in place.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn reduce_scatter(
        &self,
        tensor: &Tensor,
        rank: usize,
        world: usize,
    ) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        let (part, part_len) = part_of(tensor, data, len, rank, world)?;
        // SAFETY: a live contiguous CUDA buffer of `len` elements, of which `part` is a part; NCCL allows
        // the result to be the rank's own part of the input.
        let launched = unsafe {
            result::reduce_scatter(
                data,
                part,
                part_len,
                kind,
                sys::ncclRedOp_t::ncclSum,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclReduceScatter", launched)
    }

    /// Launches a gathering of everybody's part, in place.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn all_gather(&self, tensor: &Tensor, rank: usize, world: usize) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        let (part, part_len) = part_of(tensor, data, len, rank, world)?;
        // SAFETY: as for `reduce_scatter`, the other way round.
        let launched = unsafe {
            result::all_gather(
                part,
                data,
                part_len,
                kind,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclAllGather", launched)
    }

    /// Launches a send to `peer`. The tensor must outlive the operation on the stream.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn send(&self, tensor: &Tensor, peer: usize) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        // SAFETY: a live contiguous CUDA buffer of `len` elements.
        let launched = unsafe {
            result::send(
                data,
                len,
                kind,
                peer as i32,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclSend", launched)
    }

    /// Launches a receive from `peer`. The tensor must outlive the operation on the stream.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn recv(&self, tensor: &Tensor, peer: usize) -> Result<(), TorchError> {
        let (data, len, kind) = buffer(tensor)?;
        // SAFETY: a live contiguous CUDA buffer of `len` elements.
        let launched = unsafe {
            result::recv(
                data,
                len,
                kind,
                peer as i32,
                self.comm,
                self.stream_handle.cast(),
            )
        };
        checked("ncclRecv", launched)
    }
}

/// Where part `rank` of `world` equal ones of a buffer begins, and its elements.
fn part_of(
    tensor: &Tensor,
    data: *mut c_void,
    len: usize,
    rank: usize,
    world: usize,
) -> Result<(*mut c_void, usize), TorchError> {
    if !len.is_multiple_of(world) {
        return Err(TorchError::new(&format!(
            "{len} elements can't be cut into {world} parts"
        )));
    }
    let part_len = len / world;
    let offset = rank * part_len * tensor.kind().elt_size_in_bytes();
    Ok((data.cast::<u8>().wrapping_add(offset).cast(), part_len))
}

fn buffer(tensor: &Tensor) -> Result<(*mut c_void, usize, sys::ncclDataType_t), TorchError> {
    let kind = match tensor.kind() {
        Kind::Float => sys::ncclDataType_t::ncclFloat32,
        Kind::Double => sys::ncclDataType_t::ncclFloat64,
        Kind::BFloat16 => sys::ncclDataType_t::ncclBfloat16,
        Kind::Int64 => sys::ncclDataType_t::ncclInt64,
        other => return Err(TorchError::new(&format!("NCCL can't sum {other:?}"))),
    };
    if !tensor.device().is_cuda() || !tensor.is_contiguous() {
        return Err(TorchError::new("NCCL needs a contiguous CUDA tensor"));
    }
    Ok((tensor.data_ptr(), tensor.numel(), kind))
}

fn checked(
    call: &str,
    launched: Result<result::NcclStatus, result::NcclError>,
) -> Result<(), TorchError> {
    match launched {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(call, &error)),
    }
}

fn failed(call: &str, error: &result::NcclError) -> TorchError {
    TorchError::new(&format!("{call}: {:?}", error.0))
}
