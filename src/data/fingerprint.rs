//! A name for a token stream that changes whenever the stream does.

use rayon::prelude::*;

/// Raised when the same input would give other tokens.
pub(super) const FORMAT_VERSION: u32 = 1;
const CHUNK_BYTES: usize = 1 << 22;

/// The fingerprint of contents, in their order, treated as `recipe` says; 64 hexadecimal digits.
pub(super) fn of_contents<'a>(
    recipe: &str,
    contents: impl IntoIterator<Item = &'a [u8]>,
    done: &(dyn Fn(usize) + Sync),
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&FORMAT_VERSION.to_le_bytes());
    add(&mut hasher, recipe.as_bytes());
    for content in contents {
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(content_hash(content, done).as_bytes());
    }
    hasher.finalize().to_string()
}

/// The hash of short parts, each kept apart from the next.
pub(super) fn of_parts(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        add(&mut hasher, part);
    }
    hasher.finalize().to_string()
}

/// The hash of the hashes of fixed-size chunks, which all cores make together.
fn content_hash(content: &[u8], done: &(dyn Fn(usize) + Sync)) -> blake3::Hash {
    let chunks: Vec<blake3::Hash> = content
        .par_chunks(CHUNK_BYTES)
        .map(|chunk| {
            let hash = blake3::hash(chunk);
            done(chunk.len());
            hash
        })
        .collect();
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        hasher.update(chunk.as_bytes());
    }
    hasher.finalize()
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
            of_contents(recipe, contents.iter().copied(), &|_| {})
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
    fn a_change_in_any_chunk_counts() {
        let mut content = vec![7u8; 2 * CHUNK_BYTES + 5];
        let of = |content: &[u8]| of_contents("", [content], &|_| {});
        let base = of(&content);
        for place in [0, CHUNK_BYTES, 2 * CHUNK_BYTES + 4] {
            content[place] = 8;
            assert_ne!(base, of(&content));
            content[place] = 7;
        }
    }
}
