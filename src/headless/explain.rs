//! `schema` and `config`: what a config may say, and what one says.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{
    cli::ConfigArgs,
    text::{say, say_exactly, say_json, table},
};
use crate::config::{self, Loaded, Origin};

/// `capstan schema`.
pub fn schema() -> anyhow::Result<u8> {
    io::stdout()
        .lock()
        .write_all(config::json_schema().as_bytes())?;
    Ok(0)
}

/// `capstan config`.
pub fn config(args: &ConfigArgs) -> anyhow::Result<u8> {
    let loaded = config::load_file(&args.config, &args.changes.set, args.changes.layout)?;
    if args.json {
        say_json(json!({ "config": loaded.config, "origins": loaded.origins }))?;
    } else if args.explain {
        for line in explained(&loaded)? {
            say(&line)?;
        }
    } else {
        say_exactly(&serde_json::to_string_pretty(&loaded.config)?)?;
    }
    Ok(0)
}

fn explained(loaded: &Loaded) -> anyhow::Result<Vec<String>> {
    let config = serde_json::to_value(&loaded.config)?;
    let rows: Vec<Vec<String>> = loaded
        .origins
        .iter()
        .map(|(path, &origin)| {
            vec![
                path.clone(),
                at(&config, path).to_string(),
                word(origin).to_owned(),
            ]
        })
        .collect();
    Ok(table(&["KEY", "VALUE", "FROM"], &rows))
}

fn at<'a>(config: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(config, |value, key| &value[key])
}

const fn word(origin: Origin) -> &'static str {
    match origin {
        Origin::Default => "default",
        Origin::File => "file",
        Origin::CommandLine => "command line",
    }
}
