//! The paths inside a configuration, so that they can be made absolute in one place.

use std::path::{Path, PathBuf};

use super::{DataConfig, RunConfig, TokenizerConfig};
use crate::base::fs;

impl RunConfig {
    /// Makes every path absolute, relative ones against `base`.
    pub fn resolve_paths(&mut self, base: &Path) {
        for path in self.paths_mut() {
            *path = fs::absolute(base, path);
        }
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = match &mut self.data {
            DataConfig::Builtin(_) => Vec::new(),
            DataConfig::Text(text) => with_tokenizer(&mut text.path, Some(&mut text.tokenizer)),
            DataConfig::Jsonl(jsonl) => with_tokenizer(&mut jsonl.path, Some(&mut jsonl.tokenizer)),
            DataConfig::Tokens(tokens) => {
                let mut paths = with_tokenizer(&mut tokens.train, tokens.tokenizer.as_mut());
                paths.extend(tokens.val.as_mut());
                paths
            }
        };
        paths.extend(self.init.as_mut().map(|init| &mut init.pretrained));
        paths
    }
}

fn with_tokenizer<'a>(
    path: &'a mut PathBuf,
    tokenizer: Option<&'a mut TokenizerConfig>,
) -> Vec<&'a mut PathBuf> {
    let mut paths = vec![path];
    match tokenizer {
        Some(TokenizerConfig::File(file)) => paths.push(file),
        Some(TokenizerConfig::VocabMerges { vocab, merges }) => paths.extend([vocab, merges]),
        Some(TokenizerConfig::Bytes | TokenizerConfig::Char | TokenizerConfig::Bpe { .. })
        | None => {}
    }
    paths
}
