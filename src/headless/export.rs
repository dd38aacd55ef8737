//! `export`: a run's weights as a folder for other programs.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::{
    cli::{ExportArgs, ViewArgs},
    find::find,
    follow::ViewKind,
    outcome::{USAGE, refusal},
    prepare::Meter,
    text::{say, say_json},
};
use crate::{
    base::{
        read::{self, Bound},
        units,
    },
    config::{DataConfig, RunConfig, TokenizerConfig},
    data::{self, TokenizerJson},
    launch::{RunFolder, dirs},
    weights::{self, Companions, ExportError, Exported, Loaded, Origin},
};

/// `capstan export`.
pub fn export(runs_dir: &Path, args: &ExportArgs) -> anyhow::Result<u8> {
    let folder = find(runs_dir, Some(&args.run))?;
    let target = std::path::absolute(&args.dir).context("the folder to write to")?;
    weights::check_free(&target).map_err(in_words)?;
    let newest = weights::newest_valid(&folder.checkpoints())?;
    let Some(loaded) = newest.loaded else {
        let message = format!("{} has no checkpoint yet", folder.name());
        return Err(refusal(USAGE, message));
    };
    let passed_over = newest.rejections.iter();
    let mut notes: Vec<String> = passed_over
        .map(|rejection| format!("passed over a checkpoint: {rejection}"))
        .collect();
    let origin = origin(&folder, &loaded, &mut notes)?;
    let view = ViewKind::choose(ViewArgs {
        plain: false,
        json: args.json,
    });
    let meter = Meter::new(view, "export");
    let exported = weights::export(&loaded, &origin, &target, &|progress| meter.show(progress));
    meter.finish();
    let exported = exported.map_err(in_words)?;
    notes.extend(exported.notes.iter().cloned());
    if exported.n_zeros > 0 {
        notes.push(format!(
            "the model has no biases, {} always has them: {} are written as zeros",
            exported.class, exported.n_zeros
        ));
    }
    let step = loaded.manifest.step;
    if args.json {
        show_json(&folder, step, &target, &exported, &notes)?;
    } else {
        show(&folder, step, &target, &exported, &notes)?;
    }
    Ok(0)
}

/// A folder that is taken is a mistake of usage.
fn in_words(error: ExportError) -> anyhow::Error {
    match error {
        ExportError::Taken(_) => refusal(USAGE, error.to_string()),
        error => error.into(),
    }
}

/// Tokenizer and companions of the run; what can't be had is noted.
fn origin(folder: &RunFolder, loaded: &Loaded, notes: &mut Vec<String>) -> anyhow::Result<Origin> {
    let path = folder.config();
    let text = read::bytes(&path, Bound::TOLD).with_context(|| path.display().to_string())?;
    let config: RunConfig =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let companions = match config
        .init
        .as_ref()
        .map(|init| Companions::of(&init.pretrained))
    {
        Some(Ok(None)) => {
            notes.push("the run started from a file of weights alone: ids, context and templates are the run's".to_owned());
            None
        }
        Some(Err(reason)) => {
            notes.push(format!(
                "nothing is kept of what came with the weights that the run started from: {reason}"
            ));
            None
        }
        Some(Ok(found)) => found,
        None => None,
    };
    let tokenizer = match (tokenizer(&config, loaded), &companions) {
        (Ok(tokenizer), _) => Some(tokenizer),
        (Err(reason), None) => {
            notes.push(format!("no tokenizer is written: {reason}"));
            None
        }
        (Err(reason), Some(_)) => {
            notes.push(format!(
                "the tokenizer is that of the weights that the run started from: {reason}"
            ));
            None
        }
    };
    Ok(Origin {
        tokenizer,
        tokenizer_config: tokenizer_config(&config.data),
        companions,
    })
}

/// What lies beside the file that the tokenizer was read from.
fn tokenizer_config(data: &DataConfig) -> Option<Value> {
    let tokenizer = match data {
        DataConfig::Builtin(_) => None,
        DataConfig::Text(text) => Some(&text.tokenizer),
        DataConfig::Jsonl(jsonl) => Some(&jsonl.tokenizer),
        DataConfig::Tokens(tokens) => tokens.tokenizer.as_ref(),
    };
    let (TokenizerConfig::File(path) | TokenizerConfig::VocabMerges { vocab: path, .. }) =
        tokenizer?
    else {
        return None;
    };
    let text = read::bytes(&path.with_file_name("tokenizer_config.json"), Bound::TOLD);
    serde_json::from_slice(&text.ok()?).ok()
}

/// The run's tokenizer, or why there is none.
fn tokenizer(config: &RunConfig, loaded: &Loaded) -> anyhow::Result<TokenizerJson> {
    let fingerprint = &loaded.manifest.run.data_fingerprint;
    let tokenizer = data::tokenizer_of(&config.data, fingerprint, &dirs::cache_dir())?;
    let tokenizer =
        tokenizer.context("the run trained on token ids, and its config names no tokenizer")?;
    Ok(tokenizer.to_json()?)
}

fn show(
    folder: &RunFolder,
    step: u64,
    target: &Path,
    exported: &Exported,
    notes: &[String],
) -> anyhow::Result<()> {
    say(&format!(
        "exported {} after step {step} to {}",
        folder.name(),
        target.display()
    ))?;
    for (name, n_bytes) in &exported.files {
        let more = match name.as_str() {
            "model.safetensors" => {
                format!(", {} tensors of {}", exported.n_tensors, exported.dtype)
            }
            "config.json" => format!(", {}", exported.class),
            _ => String::new(),
        };
        say(&format!("  {name}  {}{more}", units::bytes(*n_bytes)))?;
    }
    for note in notes {
        say(&format!("note: {note}"))?;
    }
    Ok(())
}

fn show_json(
    folder: &RunFolder,
    step: u64,
    target: &Path,
    exported: &Exported,
    notes: &[String],
) -> anyhow::Result<()> {
    let files = exported.files.iter();
    let files: Vec<_> = files
        .map(|(name, bytes)| json!({ "name": name, "bytes": bytes }))
        .collect();
    say_json(json!({
        "run": folder.name(),
        "step": step,
        "folder": target,
        "class": exported.class,
        "tensors": exported.n_tensors,
        "dtype": exported.dtype,
        "files": files,
        "notes": notes,
    }))?;
    Ok(())
}
