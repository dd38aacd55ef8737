//! The conventions U01 to U50 of the screens' design, each with the test that holds it, or why none does yet.

use std::{fs, path::Path};

use libtest_mimic::{Failed, Trial};

use super::support::check;

/// How far a convention is held.
enum Held {
    /// A trial of this program, by name.
    Suite(&'static str),
    /// A unit test below `src`, by the function's name.
    Unit(&'static str),
    /// A lint that `Cargo.toml` denies, and that nothing in `src` allows.
    Lint(&'static str),
    /// In part: a trial or a unit test, and what it leaves out.
    Partly(&'static str, &'static str),
    /// Not by a test: what is missing.
    NotYet(&'static str),
}
use Held::{Lint, NotYet, Partly, Suite, Unit};

const CONVENTIONS: [(&str, Held); 50] = [
    ("U01", Suite("terminal::a_run_outlives_its_ui")),
    ("U02", Suite("terminal::signals_restore_the_terminal")),
    ("U03", Suite("terminal::a_panic_restores_the_terminal")),
    (
        "U04",
        Unit("every_screen_survives_every_size_in_every_state"),
    ),
    ("U05", Suite("terminal::a_size_of_zero_draws_nothing")),
    ("U06", Suite("terminal::a_suspended_ui_comes_back_whole")),
    ("U07", Lint("unwrap_used")),
    ("U08", Unit("no_lower_case_key_changes_a_running_run")),
    ("U09", Unit("escape_never_acts")),
    ("U10", Unit("a_kill_says_what_is_lost_and_wants_the_name")),
    (
        "U11",
        Suite("terminal::the_first_ctrl_c_is_answered_at_once"),
    ),
    ("U12", Unit("gpus_without_peer_access_are_noted")),
    (
        "U13",
        Partly(
            "survival::twenty_kills_leave_every_loss_as_it_was",
            "the kills strike when they strike, not always inside a save; resume::damage_is_found_and_the_one_before_is_used plants the torn files",
        ),
    ),
    (
        "U14",
        Partly(
            "resume::the_same_split_goes_on_bit_for_bit",
            "on CPU; on a GPU only make gpu-check compares",
        ),
    ),
    ("U15", NotYet("needs a GPU")),
    ("U16", Unit("help_lists_exactly_the_keys_of_its_screen")),
    ("U17", Unit("every_action_is_in_the_palette")),
    (
        "U18",
        Unit("every_act_names_the_command_that_does_the_same"),
    ),
    ("U19", Unit("arrows_and_letters_move_alike_in_every_list")),
    ("U20", Unit("the_footer_fits_and_puts_the_useful_first")),
    (
        "U21",
        Suite("terminal::a_key_map_at_fault_is_told_at_the_start"),
    ),
    (
        "U22",
        Unit("only_the_sixteen_colours_and_neither_black_nor_white_by_name"),
    ),
    ("U23", Unit("every_screen_at_three_sizes_in_three_looks")),
    ("U24", Suite("terminal::no_color_means_none")),
    ("U25", Unit("auto_trusts_only_the_terminals_own_word")),
    (
        "U26",
        Partly(
            "glyphs_are_of_one_column_and_in_every_font",
            "frames, bars, arrows and ten signs are of ambiguous width; --glyphs ascii has none",
        ),
    ),
    ("U27", Unit("every_screen_at_three_sizes_in_three_looks")),
    (
        "U28",
        Partly(
            "numbers_keep_their_columns_while_a_run_plays",
            "Live's own numbers; those of the device panel and of lists are only padded in part",
        ),
    ),
    ("U29", NotYet("by review of the pictures only")),
    ("U30", Suite("terminal::a_watched_run_costs_little")),
    ("U31", Suite("terminal::an_idle_ui_sends_nothing")),
    ("U32", Suite("terminal::a_watched_run_costs_little")),
    ("U33", NotYet("needs a GPU")),
    ("U34", Suite("terminal::keys_answer_while_the_driver_hangs")),
    ("U35", Suite("terminal::the_first_frame_comes_at_once")),
    (
        "U36",
        Suite("terminal::without_a_terminal_there_is_plain_help"),
    ),
    ("U37", Suite("cli::plain_output_is_lines_without_escapes")),
    ("U38", Suite("cli::runs_and_status_answer_in_json")),
    ("U39", Suite("tidy::no_command_prompts")),
    ("U40", Suite("terminal::nothing_is_asked_of_the_terminal")),
    ("U41", Suite("terminal::nothing_is_asked_of_the_terminal")),
    ("U42", Suite("terminal::nothing_is_asked_of_the_terminal")),
    ("U43", Suite("cli::bad_configs_exit_2")),
    ("U44", Suite("cli::paths_completions_man_schema_help")),
    (
        "U45",
        Partly(
            "traced::no_command_opens_a_network_socket",
            "train, runs, status, logs, sample and doctor, on CPU",
        ),
    ),
    ("U46", Unit("any_value_may_be_missing")),
    ("U47", Suite("sensors::what_nvml_tells_is_shown")),
    ("U48", Unit("nothing_unknown_is_shown_as_zero")),
    ("U49", Unit("each_machine_says_once_what_it_suffers")),
    ("U50", Suite("traced::only_who_needs_the_driver_loads_it")),
];

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "conventions::each_has_the_test_that_holds_it",
        each_is_held,
    )]
}

fn each_is_held() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let units = texts(&root.join("src"));
    let suite = texts(&root.join("tests"));
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let trial = |name: &str| suite.contains(&format!("\"{name}\""));
    let unit = |name: &str| units.contains(&format!("fn {name}()"));
    for (index, (id, held)) in CONVENTIONS.iter().enumerate() {
        check(*id == format!("U{:02}", index + 1), *id)?;
        let is_there = match held {
            Suite(name) => trial(name),
            Unit(name) => unit(name),
            Lint(name) => {
                let is_denied = manifest.contains(&format!("{name} = \"deny\""));
                is_denied && !units.contains(&format!("clippy::{name}"))
            }
            Partly(name, lacks) => (trial(name) || unit(name)) && !lacks.is_empty(),
            NotYet(why) => !why.is_empty(),
        };
        check(is_there, format!("{id}: its test is not there"))?;
    }
    Ok(())
}

/// All Rust text below a folder, but for this list.
fn texts(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return texts(&path);
            }
            let is_list = path.ends_with("conventions.rs");
            let is_rust = !is_list && path.extension().is_some_and(|end| end == "rs");
            let text = is_rust.then(|| fs::read_to_string(&path));
            text.and_then(Result::ok).unwrap_or_default()
        })
        .collect()
}
