//! NCCL's functions, looked up in the library that is opened at run time.
//!
//! The binding's own loader asks for another file name than pip gives the library, and ends the program where it finds
//! none; of the binding only the types are used.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::OnceLock,
};

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use libloading::os::unix;

use super::super::{
    TorchError,
    libraries::{self, Places, Visibility},
};

/// What a call returns: 0 for success. Not the binding's enum, which knows the codes of one version only.
type Code = c_uint;

/// Declares a table of functions by their symbols.
macro_rules! functions {
    ($($name:ident: $symbol:literal = ($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions that capstan calls.
        pub struct Library {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Library {
            fn of(library: &unix::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of NCCL's header, whose interface is kept within a major version.
                    $($name: *unsafe { library.get($symbol) }?,)*
                })
            }
        }
    };
}

functions! {
    version: "ncclGetVersion" = (*mut c_int) -> Code;
    error_text: "ncclGetErrorString" = (Code) -> *const c_char;
    last_error: "ncclGetLastError" = (ncclComm_t) -> *const c_char;
    unique_id: "ncclGetUniqueId" = (*mut ncclUniqueId) -> Code;
    join: "ncclCommInitRank" = (*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> Code;
    destroy: "ncclCommDestroy" = (ncclComm_t) -> Code;
    all_reduce: "ncclAllReduce" =
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> Code;
    reduce: "ncclReduce" =
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, c_int, ncclComm_t, cudaStream_t) -> Code;
    broadcast: "ncclBroadcast" =
        (*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> Code;
    reduce_scatter: "ncclReduceScatter" =
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> Code;
    all_gather: "ncclAllGather" =
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> Code;
    send: "ncclSend" = (*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> Code;
    recv: "ncclRecv" = (*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> Code;
}

static OPENED: OnceLock<Library> = OnceLock::new();

/// Opens NCCL, once a process; to be called after libtorch's CUDA half is loaded, which brings its own.
///
/// # Errors
/// There is none in [`Places::nccl`], or it lacks a function.
pub fn open(places: &Places) -> Result<&'static Library, TorchError> {
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let library = libraries::open(&places.nccl(), Visibility::Own)?;
    let functions =
        Library::of(&library).map_err(|error| TorchError::new(&format!("NCCL: {error}")))?;
    // Its functions are called as long as the process lives.
    std::mem::forget(library);
    Ok(OPENED.get_or_init(|| functions))
}

/// NCCL, where it has been opened.
///
/// # Errors
/// [`open`] was not called before.
pub fn opened() -> Result<&'static Library, TorchError> {
    let opened = OPENED.get();
    opened.ok_or_else(|| TorchError::new("NCCL is used before it was opened"))
}

impl Library {
    /// The version, such as `2.28.9`.
    ///
    /// # Errors
    /// NCCL's own.
    pub fn version(&self) -> Result<String, TorchError> {
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        self.check("ncclGetVersion", unsafe {
            (self.version)(&raw mut version)
        })?;
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        Ok(format!("{major}.{minor}.{patch}"))
    }

    /// Turns what the call named `call` returned into a result. The text of an error ends with what NCCL remembers of
    /// the last one on this process, which names the CUDA call or the socket that failed.
    ///
    /// # Errors
    /// The call failed.
    pub fn check(&self, call: &str, code: Code) -> Result<(), TorchError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NCCL takes any code, and says nothing of a communicator that is null; both texts are its own, and
        // copied before another call.
        let (kind, last) = unsafe {
            let last = (self.last_error)(std::ptr::null_mut());
            (text((self.error_text)(code)), text(last))
        };
        let last = match last.as_str() {
            "" => String::new(),
            last => format!(": {last}"),
        };
        Err(TorchError::new(&format!("{call}: {kind}{last}")))
    }
}

/// A text of NCCL's as one line.
///
/// # Safety
/// The pointer is null, or that of a string that ends with NUL.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" / ")
}
