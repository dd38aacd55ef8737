//! NVRTC, CUDA's compiler at run time. cuDNN, whose attention libtorch prefers on data-centre cards since Hopper,
//! compiles its kernels with it.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::PathBuf,
    ptr,
};

use libloading::os::unix::Library;

use super::{
    TorchError,
    libraries::{self, Places, Visibility},
};

/// Its name for the CUDA of the pinned libtorch.
const NAME: &str = "libnvrtc.so.13";
/// Its name for that of another build of libtorch.
const NAME_OF_CUDA_12: &str = "libnvrtc.so.12";
const SOURCE: &CStr = c"extern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }";
/// Part of the compiled kernel.
const ENTRY: &str = ".entry twice";
/// An architecture that every NVRTC of the pinned libtorch's knows; no card is needed to compile for it.
const ARCHITECTURE: &CStr = c"--gpu-architecture=compute_80";

/// Opens NVRTC and its library of builtins where pip laid them. NVRTC asks for its builtins by a bare name, which the
/// loader looks for on its own path only; what is open already it finds by that name.
pub(super) fn preload(places: &Places) {
    for file in places.nvrtc() {
        // Who needs one that can't be opened says so; a run without cuDNN's attention goes without.
        if let Ok(library) = libraries::open(&[file], Visibility::Own) {
            std::mem::forget(library);
        }
    }
}

/// Compiles a trivial kernel, and says with which version; to be called after CUDA is loaded.
///
/// # Errors
/// The loader knows no NVRTC, or it does not compile: it says why.
pub fn check() -> Result<String, TorchError> {
    let open = |name: &str| libraries::open(&[PathBuf::from(name)], Visibility::Own);
    let library = open(NAME).or_else(|error| open(NAME_OF_CUDA_12).map_err(|_| error))?;
    let nvrtc = Nvrtc::of(&library).map_err(|error| TorchError::new(&error.to_string()))?;
    let ptx = nvrtc.compile()?;
    if !ptx.contains(ENTRY) {
        return Err(TorchError::new("NVRTC compiled a kernel to something else"));
    }
    let version = nvrtc.version();
    // Others in this process may use it by now.
    std::mem::forget(library);
    version
}

/// An NVRTC program.
type Program = *mut c_void;
/// What a call returns: 0 for success.
type Code = c_int;

struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code,
    error_text: unsafe extern "C" fn(Code) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log: Text,
    ptx: Text,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
}

/// A text of a program: its size with the NUL at its end, then itself.
struct Text {
    size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    get: unsafe extern "C" fn(Program, *mut c_char) -> Code,
}

impl Nvrtc {
    fn of(library: &Library) -> Result<Self, libloading::Error> {
        // SAFETY: the types are those of NVRTC's header.
        unsafe {
            Ok(Self {
                version: *library.get("nvrtcVersion")?,
                error_text: *library.get("nvrtcGetErrorString")?,
                create: *library.get("nvrtcCreateProgram")?,
                compile: *library.get("nvrtcCompileProgram")?,
                log: Text {
                    size: *library.get("nvrtcGetProgramLogSize")?,
                    get: *library.get("nvrtcGetProgramLog")?,
                },
                ptx: Text {
                    size: *library.get("nvrtcGetPTXSize")?,
                    get: *library.get("nvrtcGetPTX")?,
                },
                destroy: *library.get("nvrtcDestroyProgram")?,
            })
        }
    }

    fn version(&self) -> Result<String, TorchError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both numbers outlive the call.
        self.check(unsafe { (self.version)(&raw mut major, &raw mut minor) })?;
        Ok(format!("{major}.{minor}"))
    }

    /// The compiled kernel's text, or what the compiler complains about.
    fn compile(&self) -> Result<String, TorchError> {
        let mut program = ptr::null_mut();
        let (source, name) = (SOURCE.as_ptr(), c"check.cu".as_ptr());
        // SAFETY: both texts end with NUL and outlive the program; there are no headers.
        let created =
            unsafe { (self.create)(&raw mut program, source, name, 0, ptr::null(), ptr::null()) };
        self.check(created)?;
        let options = [ARCHITECTURE.as_ptr()];
        // SAFETY: the program was made above; one option, which ends with NUL.
        let compiled = self.check(unsafe { (self.compile)(program, 1, options.as_ptr()) });
        let result = match compiled {
            Ok(()) => self.text(&self.ptx, program),
            Err(error) => {
                let log = self.text(&self.log, program).unwrap_or_default();
                let first = log.lines().map(str::trim).find(|line| !line.is_empty());
                Err(first.map_or(error, TorchError::new))
            }
        };
        // SAFETY: made above, destroyed once.
        let _ = unsafe { (self.destroy)(&raw mut program) };
        result
    }

    fn text(&self, text: &Text, program: Program) -> Result<String, TorchError> {
        let mut size = 0;
        // SAFETY: the program is alive; `size` outlives the call.
        self.check(unsafe { (text.size)(program, &raw mut size) })?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: the buffer has the size that was asked for.
        self.check(unsafe { (text.get)(program, bytes.as_mut_ptr().cast()) })?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(size);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn check(&self, code: Code) -> Result<(), TorchError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the text of a code, known or not, lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.error_text)(code)) };
        Err(TorchError::new(&format!(
            "NVRTC: {}",
            text.to_string_lossy()
        )))
    }
}
