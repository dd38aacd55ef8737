//! How many rows of scores exist at a time.

use tch::Device;

/// Bytes of a chunk's scores in the type that the loss computes in.
///
/// Each chunk adds a product of the matrix's size to its gradient, so that a chunk of c rows does c / 4 operations for each
/// byte that it moves (fp32). A processor is kept busy by 128 rows; a card of 300 operations a byte needs a thousand.
const MOST_BYTES_CPU: i64 = 32 << 20;
const MOST_BYTES_GPU: i64 = 256 << 20;
/// Fewer rows than this are not worth the memory that they save.
const LEAST_ROWS: i64 = 128;
/// All chunks but the last are a multiple of this.
const MULTIPLE: i64 = 32;

/// Rows in chunks of one size, but for the last: an iterator over (first row, rows).
#[derive(Clone, Debug)]
pub struct Chunks {
    first: i64,
    n_rows: i64,
    /// Rows of each.
    pub rows: i64,
}

impl Chunks {
    /// Chunks of `rows` rows.
    pub fn of(n_rows: i64, rows: i64) -> Self {
        Self {
            first: 0,
            n_rows,
            rows: rows.clamp(1, n_rows.max(1)),
        }
    }

    /// Chunks of `n_rows` rows of `width` scores of `element` bytes, as large as the device should have them and of about
    /// equal size.
    pub fn fitting(n_rows: i64, width: i64, element: i64, device: Device) -> Self {
        let most_bytes = match device {
            Device::Cpu => MOST_BYTES_CPU,
            _ => MOST_BYTES_GPU,
        };
        let most_rows = most_bytes / (width * element).max(1) / MULTIPLE * MULTIPLE;
        let n_chunks = div_ceil(n_rows, most_rows.max(LEAST_ROWS)).max(1);
        let rows = div_ceil(n_rows, n_chunks);
        Self::of(n_rows, div_ceil(rows, MULTIPLE) * MULTIPLE)
    }
}

impl Iterator for Chunks {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.first;
        let rows = self.rows.min(self.n_rows - first);
        self.first += rows;
        (rows > 0).then_some((first, rows))
    }
}

fn div_ceil(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_are_all_rows_in_order(n_rows in 0..5_000i64, rows in 0..6_000i64) {
            let mut end = 0;
            for (first, rows) in Chunks::of(n_rows, rows) {
                prop_assert_eq!(first, end);
                prop_assert!(rows > 0);
                end += rows;
            }
            prop_assert_eq!(end, n_rows);
        }

        #[test]
        fn chunks_fit(n_rows in 1..20_000i64, width in 1..200_000i64, is_gpu: bool) {
            let (device, most) = match is_gpu {
                true => (Device::Cuda(0), MOST_BYTES_GPU),
                false => (Device::Cpu, MOST_BYTES_CPU),
            };
            let rows = Chunks::fitting(n_rows, width, 4, device).rows;
            prop_assert!(4 * width * rows <= most || rows <= LEAST_ROWS, "{rows} rows");
        }
    }

    #[test]
    fn a_small_vocabulary_is_one_chunk() {
        assert_eq!(Chunks::fitting(768, 65, 4, Device::Cpu).count(), 1);
    }

    #[test]
    fn chunks_are_about_equal() {
        let chunks: Vec<_> = Chunks::fitting(8 * 1024, 50_304, 4, Device::Cpu).collect();
        assert_eq!((chunks.len(), chunks[0].1), (52, 160));
        let rows = Chunks::fitting(8 * 1024, 50_304, 4, Device::Cuda(0)).rows;
        assert_eq!(rows, 1_184);
    }
}
