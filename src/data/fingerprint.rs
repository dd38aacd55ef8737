//! A name for a token stream that changes whenever the stream does.

use rayon::prelude::*;

/// Raised when the same text would give other tokens.
pub(super) const TEXT_VERSION: u32 = 1;
/// Raised when the same token files would give other tokens.
pub(super) const TOKENS_VERSION: u32 = 1;
/// Bytes of content that are hashed together.
pub(super) const CHUNK_BYTES: usize = 1 << 22;

/// The fingerprint of contents by their lengths and hashes, in their order, treated as `recipe` says; 64 hexadecimal
/// digits.
pub(super) fn of_contents<'a>(
    version: u32,
    recipe: &str,
    contents: impl IntoIterator<Item = (u64, &'a str)>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&version.to_le_bytes());
    add(&mut hasher, recipe.as_bytes());
    for (bytes, hash) in contents {
        hasher.update(&bytes.to_le_bytes());
        match blake3::Hash::from_hex(hash) {
            Ok(hash) => hasher.update(hash.as_bytes()),
            Err(_) => hasher.update(hash.as_bytes()),
        };
    }
    hasher.finalize().to_string()
}

/// The hash of a content, as 64 hexadecimal digits; `done` hears of the bytes of each chunk, from several threads.
pub(super) fn of_content(content: &[u8], done: &(dyn Fn(usize) + Sync)) -> String {
    let mut hash = ContentHash::default();
    hash.add(content, done);
    hash.finish()
}

/// The hash of the hashes of fixed-size chunks, which all cores make together.
#[derive(Default)]
pub(super) struct ContentHash(blake3::Hasher);

impl ContentHash {
    /// Goes on with `content`, a whole number of chunks but for the last call.
    pub fn add(&mut self, content: &[u8], done: &(dyn Fn(usize) + Sync)) {
        let chunks = content.par_chunks(CHUNK_BYTES).map(|chunk| {
            let hash = blake3::hash(chunk);
            done(chunk.len());
            hash
        });
        for hash in chunks.collect::<Vec<_>>() {
            self.0.update(hash.as_bytes());
        }
    }

    /// The hash, as 64 hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().to_string()
    }
}

/// The hash of short parts, each kept apart from the next.
pub(super) fn of_parts(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        add(&mut hasher, part);
    }
    hasher.finalize().to_string()
}

fn add(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipe_content_and_boundaries_count() {
        let of = |recipe, contents: &[&'static [u8]]| {
            let hashes: Vec<String> = contents.iter().map(|c| of_content(c, &|_| {})).collect();
            let lengths = contents.iter().map(|content| content.len() as u64);
            of_contents(1, recipe, lengths.zip(hashes.iter().map(String::as_str)))
        };
        let base = of("char", &[b"ab", b"c"]);
        assert_eq!(base, of("char", &[b"ab", b"c"]));
        assert_eq!(base.len(), 64);
        for other in [
            of("bytes", &[b"ab", b"c"]),
            of("char", &[b"a", b"bc"]),
            of("char", &[b"c", b"ab"]),
            of("char", &[b"abc"]),
            of("char", &[b"ab", b"d"]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_change_in_any_chunk_counts_and_pieces_do_not() {
        let mut content = vec![7u8; 2 * CHUNK_BYTES + 5];
        let of = |content: &[u8]| of_content(content, &|_| {});
        let base = of(&content);
        let mut in_pieces = ContentHash::default();
        in_pieces.add(&content[..CHUNK_BYTES], &|_| {});
        in_pieces.add(&content[CHUNK_BYTES..], &|_| {});
        assert_eq!(base, in_pieces.finish());
        for place in [0, CHUNK_BYTES, 2 * CHUNK_BYTES + 4] {
            content[place] = 8;
            assert_ne!(base, of(&content));
            content[place] = 7;
        }
    }
}
