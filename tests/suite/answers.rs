//! What commands answer: JSON with its version, and exit codes that few roads lead to.

use capstan::headless::Cli;
use clap::CommandFactory;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use super::{
    sensors::{with_cards, with_fakes},
    support::{Workplace, check},
};

/// Every command that answers in JSON, and what it is asked after a run of four steps.
const QUESTIONS: [(&str, &[&str]); 18] = [
    ("runs", &[]),
    ("status", &[]),
    ("logs", &[]),
    ("sample", &["--tokens", "3"]),
    ("eval", &[]),
    ("export", &["tiny", "exported"]),
    ("data", &["inspect", "CONFIG"]),
    ("config", &["CONFIG"]),
    ("doctor", &[]),
    ("paths", &[]),
    ("top", &["--count", "1"]),
    ("checkpoint", &[]),
    ("pause", &[]),
    ("continue", &[]),
    ("stop", &[]),
    ("kill", &[]),
    ("train", &["CONFIG", "--dry-run"]),
    ("attach", &[]),
];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("answers::every_answer_in_json_has_its_schema", versioned),
        with_fakes("answers::a_plan_that_does_not_fit_exits_3", does_not_fit),
    ]
}

fn versioned() -> Result<(), Failed> {
    let place = Workplace::real()?;
    place.train(&[])?.ended_with(0)?;
    let cli = Cli::command();
    let answers = cli.get_subcommands().filter(|command| {
        let mut arguments = command.get_arguments();
        arguments.any(|argument| argument.get_id() == "json")
    });
    for command in answers {
        let name = command.get_name();
        // One shows a run as attach does, the other prints a JSON Schema with a version of its own.
        let is_known = ["resume", "schema"].contains(&name);
        let is_asked = QUESTIONS.iter().any(|(asked, _)| *asked == name) || is_known;
        check(is_asked, format!("{name} is not asked"))?;
    }
    let config = place.config.display().to_string();
    for (name, arguments) in QUESTIONS {
        let arguments = arguments.iter().map(|word| match *word {
            "CONFIG" => config.as_str(),
            word => word,
        });
        let line: Vec<&str> = [name]
            .into_iter()
            .chain(arguments)
            .chain(["--json"])
            .collect();
        let mut command = place.command(&line);
        let output = command.current_dir(place.folder()).output()?;
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        let first = out.lines().next();
        let Some(first) = first else {
            // An order to a run that has ended is refused in words.
            check(
                err.contains("tiny is not running"),
                format!("{name}: {err}"),
            )?;
            continue;
        };
        let answer: Value = serde_json::from_str(first)?;
        let version = match name {
            // The log's own records: the first has the version of all.
            "attach" => &answer["version"],
            _ => &answer["schema"],
        };
        check(version.is_u64(), format!("{name}: {first}"))?;
    }
    Ok(())
}

/// A model larger than the card.
fn does_not_fit() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("well")?, "geforce")?;
    let sizes = json!({ "n_layer": 96, "n_head": 24, "d_model": 3072, "seq_len": 64 });
    place.write_config(json!({ "devices": [0], "model": { "gpt": sizes } }))?;
    let said = place.train(&["--dry-run"])?.ended_with(3)?;
    said.says(&["GPU 0's 24.00 GiB"])?;
    place.train(&[])?.ended_with(3)?;
    check(!place.runs().exists(), "nothing is started")
}
