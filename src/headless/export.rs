//! `export`: a run's weights as a folder for other programs.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::json;

use super::{
    cli::{ExportArgs, ViewArgs},
    find::find,
    follow::ViewKind,
    outcome::{USAGE, refusal},
    prepare::Meter,
    text::{say, say_json},
};
use crate::{
    base::units,
    config::RunConfig,
    data::{self, TokenizerJson},
    launch::{RunFolder, dirs},
    weights::{self, ExportError, Exported, Loaded},
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
    let tokenizer = match tokenizer(&folder, &loaded) {
        Ok(tokenizer) => Some(tokenizer),
        Err(reason) => {
            notes.push(format!("no tokenizer is written: {reason}"));
            None
        }
    };
    let view = ViewKind::choose(ViewArgs {
        plain: false,
        json: args.json,
    });
    let meter = Meter::new(view, "export");
    let exported = weights::export(&loaded, tokenizer.as_ref(), &target, &|progress| {
        meter.show(progress)
    });
    meter.finish();
    let exported = exported.map_err(in_words)?;
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

/// The run's tokenizer, or why there is none.
fn tokenizer(folder: &RunFolder, loaded: &Loaded) -> anyhow::Result<TokenizerJson> {
    let path = folder.config();
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let config: RunConfig =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
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
