//! `data`: a look at data, or its tokens made beforehand.

use std::path::{Path, PathBuf};

use super::{
    cli::{DataCommand, SourceArgs, ViewArgs},
    follow::ViewKind,
    prepare,
    text::{facts, say, say_json},
};
use crate::{
    base::{fs::absolute, text::printable, units},
    config::{self, DataConfig, JsonlConfig, TextConfig, TokenizerConfig, WindowsConfig},
    data::Inspection,
};

const VAL_FRACTION: f64 = 0.1;

/// `capstan data`.
pub fn data(command: &DataCommand) -> anyhow::Result<u8> {
    let (DataCommand::Inspect(args) | DataCommand::Tokenize(args)) = command;
    let view = ViewKind::choose(ViewArgs {
        plain: false,
        json: args.json,
    });
    let inspection = prepare::inspect(&source(args)?, view)?;
    if args.json {
        say_json(serde_json::to_value(&inspection)?)?;
        return Ok(0);
    }
    let shown = match command {
        DataCommand::Inspect(_) => inspected(&inspection),
        DataCommand::Tokenize(_) => tokenized(&inspection),
    };
    for line in shown {
        say(&line)?;
    }
    Ok(0)
}

fn source(args: &SourceArgs) -> anyhow::Result<DataConfig> {
    let extension = args
        .source
        .extension()
        .and_then(|extension| extension.to_str());
    let path = absolute(&std::env::current_dir()?, &args.source);
    Ok(match extension {
        Some("json") => {
            config::load_file(&args.source, &args.set, None)?
                .config
                .data
        }
        Some("jsonl") => DataConfig::Jsonl(JsonlConfig {
            path,
            field: args.field.clone(),
            tokenizer: tokenizer(&args.tokenizer)?,
            val_fraction: VAL_FRACTION,
            windows: WindowsConfig::default(),
        }),
        _ => DataConfig::Text(TextConfig {
            path,
            tokenizer: tokenizer(&args.tokenizer)?,
            val_fraction: VAL_FRACTION,
            windows: WindowsConfig::default(),
        }),
    })
}

fn tokenizer(word: &str) -> anyhow::Result<TokenizerConfig> {
    Ok(match word {
        "bytes" => TokenizerConfig::Bytes,
        "char" => TokenizerConfig::Char,
        file => TokenizerConfig::File(absolute(&std::env::current_dir()?, Path::new(file))),
    })
}

fn inspected(data: &Inspection) -> Vec<String> {
    let mut rows = vec![
        (
            "files",
            format!("{} ({})", data.n_files, units::bytes(data.bytes)),
        ),
        ("training", format!("{} tokens", data.train_tokens)),
        ("held out", format!("{} tokens", data.val_tokens)),
        (
            "vocabulary",
            format!("{}, of which {} occur", data.vocab_size, data.distinct_ids),
        ),
    ];
    if let Some(documents) = data.n_documents {
        rows.push(("documents", documents.to_string()));
    }
    if let Some(ratio) = data.tokens_per_character {
        rows.push(("tokens/char", format!("{ratio:.3}")));
    }
    rows.push(("fingerprint", data.fingerprint.clone()));
    rows.push(("tokens", place(data.cache.as_ref())));
    let mut lines = facts(&rows);
    if !data.head.is_empty() {
        lines.push("begins".to_owned());
        lines.extend(
            printable(&data.head)
                .lines()
                .map(|line| format!("  {line}")),
        );
    }
    lines
}

fn tokenized(data: &Inspection) -> Vec<String> {
    let how = if data.reused {
        "tokenized before".to_owned()
    } else {
        format!("tokenized in {}", units::seconds(data.seconds))
    };
    let n_tokens = data.train_tokens + data.val_tokens;
    vec![format!(
        "{n_tokens} tokens, {how}: {}",
        place(data.cache.as_ref())
    )]
}

fn place(cache: Option<&PathBuf>) -> String {
    cache.map_or_else(
        || "read in place".to_owned(),
        |folder| folder.display().to_string(),
    )
}
