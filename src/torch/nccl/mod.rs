//! NCCL through its C interface.

mod library;

use std::{
    ffi::{c_char, c_int, c_void},
    ptr,
};

use cudarc::nccl::sys;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use self::library::Library;
use super::{TorchError, libraries::Places, peers::Reduction, stream::Stream};

/// Opens NCCL, and says which version it is; to be called once a process, after libtorch's CUDA half is loaded.
///
/// # Errors
/// There is no NCCL where libtorch's lies, nor on the loader's path; or it can't be opened.
pub fn load() -> Result<String, TorchError> {
    library::open(&Places::find())?.version()
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
        let nccl = library::opened()?;
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        // SAFETY: `id` outlives the call.
        nccl.check("ncclGetUniqueId", unsafe { (nccl.unique_id)(&raw mut id) })?;
        Ok(Self(id))
    }
}

/// One rank's handle. It stays on the thread that made it, and lives as long as the process: destroying it waits for
/// the other ranks, which a rank that failed must not do.
pub struct Handle {
    nccl: &'static Library,
    comm: sys::ncclComm_t,
    stream: Stream,
    stream_handle: *mut c_void,
}

/// What is launched on a buffer, in place.
#[derive(Clone, Copy, Debug)]
enum Launch {
    AllReduce(Reduction),
    Reduce { root: usize },
    Broadcast { root: usize },
    ReduceScatter(Part),
    AllGather(Part),
    Send { peer: usize },
    Recv { peer: usize },
}

/// The part of a buffer, of `of` equal ones, that is a rank's.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: usize,
    of: usize,
}

impl Launch {
    const fn call(self) -> &'static str {
        match self {
            Self::AllReduce(_) => "ncclAllReduce",
            Self::Reduce { .. } => "ncclReduce",
            Self::Broadcast { .. } => "ncclBroadcast",
            Self::ReduceScatter(_) => "ncclReduceScatter",
            Self::AllGather(_) => "ncclAllGather",
            Self::Send { .. } => "ncclSend",
            Self::Recv { .. } => "ncclRecv",
        }
    }
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
        let nccl = library::opened()?;
        let mut comm = ptr::null_mut();
        // SAFETY: `comm` outlives the call.
        let joined = unsafe { (nccl.join)(&raw mut comm, world as c_int, id.0, rank as c_int) };
        nccl.check("ncclCommInitRank", joined)?;
        Ok(Self {
            nccl,
            comm,
            stream,
            stream_handle: stream.handle()?,
        })
    }

    /// Destroys the communicator; every rank does, when nothing is under way on it.
    pub fn destroy(self) {
        // SAFETY: made by `join`, destroyed once, on the thread that made it.
        let _ = unsafe { (self.nccl.destroy)(self.comm) };
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
        self.launch(Launch::AllReduce(reduction), tensor)
    }

    /// Launches a sum over ranks that only `root` keeps, in place.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn reduce(&self, tensor: &Tensor, root: usize) -> Result<(), TorchError> {
        self.launch(Launch::Reduce { root }, tensor)
    }

    /// Launches a copy of `root`'s buffer to all ranks.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), TorchError> {
        self.launch(Launch::Broadcast { root }, tensor)
    }

    /// Launches a sum over ranks of which part `rank` of `world` equal ones is kept in place.
    ///
    /// # Errors
    /// As [`Self::all_reduce`], or a buffer that can't be cut into as many parts.
    pub fn reduce_scatter(
        &self,
        tensor: &Tensor,
        rank: usize,
        world: usize,
    ) -> Result<(), TorchError> {
        let part = Part {
            index: rank,
            of: world,
        };
        self.launch(Launch::ReduceScatter(part), tensor)
    }

    /// Launches a gathering of everybody's part, in place.
    ///
    /// # Errors
    /// As [`Self::reduce_scatter`].
    pub fn all_gather(&self, tensor: &Tensor, rank: usize, world: usize) -> Result<(), TorchError> {
        let part = Part {
            index: rank,
            of: world,
        };
        self.launch(Launch::AllGather(part), tensor)
    }

    /// Launches a send to `peer`. The tensor must outlive the operation on the stream.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn send(&self, tensor: &Tensor, peer: usize) -> Result<(), TorchError> {
        self.launch(Launch::Send { peer }, tensor)
    }

    /// Launches a receive from `peer`. The tensor must outlive the operation on the stream.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn recv(&self, tensor: &Tensor, peer: usize) -> Result<(), TorchError> {
        self.launch(Launch::Recv { peer }, tensor)
    }

    fn launch(&self, launch: Launch, tensor: &Tensor) -> Result<(), TorchError> {
        let buffer = Buffer::of(tensor)?;
        let Buffer { data, len, kind } = buffer;
        let (part, part_len) = match launch {
            Launch::ReduceScatter(part) | Launch::AllGather(part) => buffer.part(part, tensor)?,
            _ => (data, len),
        };
        let (nccl, comm, stream) = (self.nccl, self.comm, self.stream_handle.cast());
        let sum = sys::ncclRedOp_t::ncclSum;
        // SAFETY: `data` is a live contiguous CUDA buffer of `len` elements and `part` one of its equal parts; NCCL
        // allows all of these in place, where the part is the rank's own. The communicator is this thread's.
        let launched = unsafe {
            match launch {
                Launch::AllReduce(reduction) => {
                    (nccl.all_reduce)(data, data, len, kind, operator(reduction), comm, stream)
                }
                Launch::Reduce { root } => {
                    (nccl.reduce)(data, data, len, kind, sum, root as c_int, comm, stream)
                }
                Launch::Broadcast { root } => {
                    (nccl.broadcast)(data, data, len, kind, root as c_int, comm, stream)
                }
                Launch::ReduceScatter(_) => {
                    (nccl.reduce_scatter)(data, part, part_len, kind, sum, comm, stream)
                }
                Launch::AllGather(_) => (nccl.all_gather)(part, data, part_len, kind, comm, stream),
                Launch::Send { peer } => (nccl.send)(data, len, kind, peer as c_int, comm, stream),
                Launch::Recv { peer } => (nccl.recv)(data, len, kind, peer as c_int, comm, stream),
            }
        };
        nccl.check(launch.call(), launched)
    }
}

const fn operator(reduction: Reduction) -> sys::ncclRedOp_t {
    match reduction {
        Reduction::Sum => sys::ncclRedOp_t::ncclSum,
        Reduction::Max => sys::ncclRedOp_t::ncclMax,
    }
}

/// A tensor as NCCL sees it.
#[derive(Clone, Copy)]
struct Buffer {
    data: *mut c_void,
    len: usize,
    kind: sys::ncclDataType_t,
}

impl Buffer {
    fn of(tensor: &Tensor) -> Result<Self, TorchError> {
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
        Ok(Self {
            data: tensor.data_ptr(),
            len: tensor.numel(),
            kind,
        })
    }

    /// Where a part begins, and its elements.
    fn part(self, part: Part, tensor: &Tensor) -> Result<(*mut c_void, usize), TorchError> {
        let Part { index, of } = part;
        if !self.len.is_multiple_of(of) {
            let text = format!("{} elements can't be cut into {of} parts", self.len);
            return Err(TorchError::new(&text));
        }
        let len = self.len / of;
        let offset = index * len * tensor.kind().elt_size_in_bytes();
        Ok((self.data.cast::<u8>().wrapping_add(offset).cast(), len))
    }
}
