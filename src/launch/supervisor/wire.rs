//! Lines from a byte stream, bounded.

/// Cuts a stream into lines; a line over the limit is given as its beginning, and the rest dropped.
pub struct LineCutter {
    limit: usize,
    line: Vec<u8>,
    dropping: bool,
}

/// One line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Whole(Vec<u8>),
    /// The beginning of a line that was too long.
    Oversize(Vec<u8>),
}

impl LineCutter {
    /// Cuts lines of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            dropping: false,
        }
    }

    /// Takes in bytes and gives out the lines that they complete.
    pub fn cut(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            lines.extend(self.keep(&bytes[..end]));
            lines.extend(self.finish());
            bytes = &bytes[end + 1..];
        }
        lines.extend(self.keep(bytes));
        lines
    }

    /// What came after the last line's end.
    pub fn finish(&mut self) -> Option<Line> {
        let line = std::mem::take(&mut self.line);
        let dropped = std::mem::take(&mut self.dropping);
        (!dropped && !line.is_empty()).then_some(Line::Whole(line))
    }

    fn keep(&mut self, bytes: &[u8]) -> Option<Line> {
        if self.dropping {
            return None;
        }
        let room = self.limit - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() <= room {
            return None;
        }
        self.dropping = true;
        Some(Line::Oversize(std::mem::take(&mut self.line)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let mut cutter = LineCutter::new(8);
        assert_eq!(cutter.cut(b"on"), []);
        assert_eq!(cutter.cut(b"e\ntwo\n\nth"), [whole("one"), whole("two")]);
        assert_eq!(cutter.finish(), Some(whole("th")));
        assert_eq!(cutter.finish(), None);
    }

    #[test]
    fn an_oversize_line_is_given_once_and_the_next_is_whole() {
        let mut cutter = LineCutter::new(4);
        let lines = cutter.cut(b"123456789\nok\n");
        assert_eq!(lines, [Line::Oversize(b"1234".to_vec()), whole("ok")]);
        assert_eq!(cutter.cut(b"1234\n"), [whole("1234")]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(text in "[ab\n]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
            let bytes = text.as_bytes();
            let mut at_once = LineCutter::new(5);
            let mut expected = at_once.cut(bytes);
            expected.extend(at_once.finish());

            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut in_parts = LineCutter::new(5);
            let mut lines: Vec<Line> = cuts.windows(2).flat_map(|part| in_parts.cut(&bytes[part[0]..part[1]])).collect();
            lines.extend(in_parts.finish());
            prop_assert_eq!(lines, expected);
        }
    }
}
