//! What a text that is no UTF-8 may be written in: a guess, for the command that converts it.

/// Bytes that are looked at.
const LOOKED_AT: usize = 64 << 10;

/// The name that `iconv` has for the likely encoding of `bytes`.
pub(super) fn guess(bytes: &[u8]) -> &'static str {
    let bytes = &bytes[..bytes.len().min(LOOKED_AT)];
    let zeros = |odd: usize| {
        let places = bytes.iter().enumerate();
        places
            .filter(|(at, byte)| at % 2 == odd && **byte == 0)
            .count()
    };
    if zeros(1) * 4 > bytes.len() {
        return "UTF-16LE";
    }
    if zeros(0) * 4 > bytes.len() {
        return "UTF-16BE";
    }
    let japanese = Pairs::of(
        bytes,
        |lead| matches!(lead, 0x81..=0x9F | 0xE0..=0xFC),
        |trail| matches!(trail, 0x40..=0x7E | 0x80..=0xFC),
    );
    let chinese = Pairs::of(
        bytes,
        |lead| matches!(lead, 0x81..=0xFE),
        |trail| matches!(trail, 0x40..=0x7E | 0x80..=0xFE),
    );
    // Kana have these two first bytes in Shift JIS.
    if japanese.is_whole() && japanese.share(|lead, _| matches!(lead, 0x82 | 0x83)) > 0.2 {
        return "SHIFT_JIS";
    }
    if chinese.is_whole() {
        let is_hangul = |lead, trail| matches!(lead, 0xB0..=0xC8) && trail >= 0xA1;
        let is_sign = |lead, _| lead < 0xB0;
        return match chinese.share(is_hangul) + chinese.share(is_sign) > 0.99 {
            true => "EUC-KR",
            false => "GBK",
        };
    }
    "WINDOWS-1252"
}

/// The two-byte characters of a text, if it were written in such.
struct Pairs {
    pairs: Vec<(u8, u8)>,
    n_broken: usize,
}

impl Pairs {
    fn of(bytes: &[u8], is_lead: fn(u8) -> bool, is_trail: fn(u8) -> bool) -> Self {
        let (mut pairs, mut n_broken, mut at) = (Vec::new(), 0, 0);
        while at < bytes.len() {
            let byte = bytes[at];
            at += 1;
            if byte < 0x80 {
                continue;
            }
            match bytes.get(at) {
                Some(&trail) if is_lead(byte) && is_trail(trail) => {
                    pairs.push((byte, trail));
                    at += 1;
                }
                Some(_) => n_broken += 1,
                None => {}
            }
        }
        Self { pairs, n_broken }
    }

    /// All but a few characters fit: the rest may be damage.
    fn is_whole(&self) -> bool {
        !self.pairs.is_empty() && self.n_broken * 50 <= self.pairs.len()
    }

    fn share(&self, is_one: impl Fn(u8, u8) -> bool) -> f64 {
        let n = self
            .pairs
            .iter()
            .filter(|(lead, trail)| is_one(*lead, *trail))
            .count();
        n as f64 / self.pairs.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_encodings_are_told_apart() {
        for (bytes, expected) in [
            // "the weather is good today" in Chinese, Japanese and Korean.
            (
                &b"\xBD\xF1\xCC\xEC\xCC\xEC\xC6\xF8\xBA\xDC\xBA\xC3\xA1\xA3"[..],
                "GBK",
            ),
            (
                b"\x8D\xA1\x93\xFA\x82\xCD\x82\xA2\x82\xA2\x93\x56\x8B\x43\x82\xC5\x82\xB7",
                "SHIFT_JIS",
            ),
            (
                b"\xBF\xC0\xB4\xC3 \xB3\xAF\xBE\xBE\xB0\xA1 \xC1\xC1\xB4\xD9",
                "EUC-KR",
            ),
            (b"na\xEFve caf\xE9 ", "WINDOWS-1252"),
            (b"a\0b\0c\0d\0", "UTF-16LE"),
            (b"\0a\0b\0c\0d", "UTF-16BE"),
        ] {
            assert_eq!(guess(bytes), expected);
        }
    }
}
