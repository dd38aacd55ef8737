//! What a program asks the loader for, read from its dynamic section (64-bit ELF, little-endian).

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RUNPATH: u64 = 29;

/// The names in `NEEDED`; absent where this is no such program.
pub fn needed(program: &[u8]) -> Option<Vec<String>> {
    strings(program, DT_NEEDED)
}

/// The folders in `RUNPATH`, where libraries are looked for; absent where this is no such program.
pub fn library_folders(program: &[u8]) -> Option<Vec<String>> {
    let lists = strings(program, DT_RUNPATH)?;
    let folders = lists.iter().flat_map(|list| list.split(':'));
    Some(folders.map(str::to_owned).collect())
}

/// The strings of all entries with this tag.
fn strings(program: &[u8], wanted: u64) -> Option<Vec<String>> {
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let segments = segments(program)?;
    let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
    let table = program.get(dynamic.offset..dynamic.offset.checked_add(dynamic.size)?)?;
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(16)
        .filter_map(|entry| Some((number(entry, 0, 8)?, number(entry, 8, 8)?)))
        .collect();
    let table = entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
    let table = segments.iter().find_map(|segment| segment.place(table))?;
    let found = entries.iter().filter(|(tag, _)| *tag == wanted);
    found
        .map(|&(_, at)| {
            let text = program.get(table + usize::try_from(at).ok()?..)?;
            let end = text.iter().position(|byte| *byte == 0)?;
            String::from_utf8(text[..end].to_vec()).ok()
        })
        .collect()
}

struct Segment {
    kind: u64,
    offset: usize,
    address: u64,
    size: usize,
}

impl Segment {
    /// Where in the file an address lies that this segment is loaded to.
    fn place(&self, address: u64) -> Option<usize> {
        let within = usize::try_from(address.checked_sub(self.address)?).ok()?;
        (self.kind == PT_LOAD && within < self.size).then_some(self.offset + within)
    }
}

fn segments(program: &[u8]) -> Option<Vec<Segment>> {
    let table = usize::try_from(number(program, 32, 8)?).ok()?;
    let size = usize::try_from(number(program, 54, 2)?).ok()?;
    let count = usize::try_from(number(program, 56, 2)?).ok()?;
    let headers = program.get(table..table.checked_add(size * count)?)?;
    let segment = |header: &[u8]| {
        Some(Segment {
            kind: number(header, 0, 4)?,
            offset: usize::try_from(number(header, 8, 8)?).ok()?,
            address: number(header, 16, 8)?,
            size: usize::try_from(number(header, 32, 8)?).ok()?,
        })
    };
    headers.chunks_exact(size.max(1)).map(segment).collect()
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?.iter().rev();
    Some(bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
