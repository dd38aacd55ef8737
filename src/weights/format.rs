//! The safetensors format: eight bytes of header length, a JSON header, the data.

use std::{
    borrow::Borrow,
    path::{Path, PathBuf},
};

use safetensors::{
    SafeTensorError, SafeTensors,
    tensor::{Metadata, TensorInfo, TensorView},
};
use serde_json::{Map, Value, json};

use crate::base::{mmap::ReadOnlyMap, read, units};

/// Bytes of the number that says how long the header is.
const LENGTH_BYTES: usize = 8;
/// How a Git LFS pointer starts, which stands where the file was not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// The longest header that is read: more than 200 000 names, ten times those of the largest models' files.
const MOST_HEADER_BYTES: u64 = 16 << 20;
const METADATA: &str = "__metadata__";

/// A mapped safetensors file, its header checked against its length.
pub struct TensorFile {
    path: PathBuf,
    map: ReadOnlyMap,
    data_start: usize,
    header: Metadata,
}

impl TensorFile {
    /// Maps a file and reads its header; the data is not touched.
    ///
    /// # Errors
    /// What is wrong, as the rest of a sentence about the file.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = read::open(path).and_then(|file| file.metadata());
        let file = file.map_err(|error| words(&error))?;
        // An empty file can't be mapped everywhere.
        if file.len() < LENGTH_BYTES as u64 {
            let is = n_bytes(file.len() as usize);
            return Err(format!("is cut short in its header: it has {is}"));
        }
        let map = ReadOnlyMap::open(path).map_err(|error| words(&error))?;
        if let Some(length) = stated_length(&map)
            && length > MOST_HEADER_BYTES
            && length <= map.len() as u64
        {
            return Err(format!(
                "has a header of {}, more than the {} that are read",
                units::bytes(length),
                units::bytes(MOST_HEADER_BYTES)
            ));
        }
        let (header_bytes, header) =
            SafeTensors::read_metadata(&map).map_err(|error| problem(&map, &error))?;
        Ok(Self {
            path: path.to_owned(),
            map,
            data_start: LENGTH_BYTES + header_bytes,
            header,
        })
    }

    /// The file's name without its folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Names of the tensors in the order in which their data lies.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Type, shape and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// A tensor with its data.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.info(name)?;
        let (start, end) = info.data_offsets;
        let data = self
            .map
            .get(self.data_start + start..self.data_start + end)?;
        TensorView::new(info.dtype, info.shape.clone(), data).ok()
    }
}

/// A tensor of a file to be, as its header states it.
pub struct Entry {
    pub name: String,
    /// The format's own word, such as `F32`.
    pub dtype: String,
    pub shape: Vec<i64>,
    pub n_bytes: usize,
}

/// The header of a file that holds `entries` one after the other.
pub fn header<E: Borrow<Entry>>(entries: &[E], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = Map::new();
    if !metadata.is_empty() {
        let notes = metadata
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.into()));
        fields.insert(METADATA.to_owned(), Value::Object(notes.collect()));
    }
    let mut offset = 0;
    for entry in entries.iter().map(Borrow::borrow) {
        let end = offset + entry.n_bytes;
        let field =
            json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [offset, end] });
        fields.insert(entry.name.clone(), field);
        offset = end;
    }
    let mut text = Value::Object(fields).to_string().into_bytes();
    // The data starts on eight bytes, as the format's own writers have it.
    text.resize(text.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}

/// The library's errors in words about the file.
fn problem(bytes: &[u8], error: &SafeTensorError) -> String {
    if bytes.starts_with(LFS_POINTER) {
        return "is a Git LFS pointer, not the weights themselves (git lfs pull fetches them)"
            .to_owned();
    }
    let is = bytes.len();
    match error {
        SafeTensorError::HeaderTooLarge => {
            "is no safetensors file: it does not start with a header's length".to_owned()
        }
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooSmall => {
            format!("is cut short in its header: it has {}", n_bytes(is))
        }
        SafeTensorError::MetadataIncompleteBuffer => match stated_bytes(bytes) {
            Some(stated) if stated > is => format!(
                "is cut short: it has {}, its header states {stated}",
                n_bytes(is)
            ),
            Some(stated) => format!(
                "is too long: it has {}, its header states {stated}",
                n_bytes(is)
            ),
            None => "holds less or more than its header states".to_owned(),
        },
        other => format!("has a damaged header: {other}"),
    }
}

/// Length of the whole file as its header has it.
fn stated_bytes(bytes: &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let header_bytes = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let fields: Map<String, Value> = serde_json::from_slice(rest.get(..header_bytes)?).ok()?;
    let ends = fields
        .values()
        .filter_map(|field| field["data_offsets"][1].as_u64());
    let data_bytes = usize::try_from(ends.max()?).ok()?;
    data_bytes.checked_add(LENGTH_BYTES + header_bytes)
}

fn stated_length(bytes: &[u8]) -> Option<u64> {
    let (length, _) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    Some(u64::from_le_bytes(*length))
}

fn n_bytes(n: usize) -> String {
    format!("{n} byte{}", if n == 1 { "" } else { "s" })
}

fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_owned(),
        _ => format!("can't be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two floats under `a`.
    fn good() -> Vec<u8> {
        let entry = Entry {
            name: "a".to_owned(),
            dtype: "F32".to_owned(),
            shape: vec![2],
            n_bytes: 8,
        };
        let mut file = header(&[entry], &[("format", "pt")]);
        file.extend([1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()));
        file
    }

    fn open(bytes: &[u8]) -> Result<TensorFile, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).expect("written");
        TensorFile::open(&path)
    }

    #[test]
    fn what_was_written_is_read() {
        let file = open(&good()).expect("a good file");
        assert_eq!(
            (file.name(), file.names()),
            ("model.safetensors".to_owned(), vec!["a".to_owned()])
        );
        let a = file.tensor("a").expect("there");
        assert_eq!(
            (a.shape(), a.data()),
            (&[2][..], [1.0f32, 2.0].map(f32::to_le_bytes).as_flattened())
        );
        assert!(file.tensor("b").is_none());
    }

    #[test]
    fn every_length_but_the_right_one_is_refused() {
        let good = good();
        for length in 0..good.len() {
            let refused = open(&good[..length]).err().expect("refused");
            assert!(refused.starts_with("is cut short"), "{length}: {refused}");
        }
        let refused = |bytes: &[u8]| open(bytes).err().expect("refused");
        let total = good.len();
        assert_eq!(
            refused(&good[..total - 3]),
            format!(
                "is cut short: it has {} bytes, its header states {total}",
                total - 3
            )
        );
        let longer = [&good[..], b"x"].concat();
        assert_eq!(
            refused(&longer),
            format!(
                "is too long: it has {} bytes, its header states {total}",
                total + 1
            )
        );
    }

    /// Whatever one byte of the header becomes, what is read is the tensor or nothing.
    #[test]
    fn a_changed_header_harms_nothing() {
        let good = good();
        for at in 0..good.len() - 8 {
            for change in [0x01, 0x10, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= change;
                let Ok(file) = open(&bytes) else { continue };
                for name in file.names() {
                    assert!(
                        file.tensor(&name)
                            .is_none_or(|tensor| tensor.data().len() <= 8)
                    );
                }
            }
        }
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let refused = |bytes: &[u8]| open(bytes).err().expect("refused");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
        assert!(refused(pointer).starts_with("is a Git LFS pointer"));
        let pickle = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M";
        assert!(refused(pickle).starts_with("is no safetensors file"));
        let mut damaged = good();
        damaged[8] = b'?';
        assert!(refused(&damaged).starts_with("has a damaged header: "));
    }
}
