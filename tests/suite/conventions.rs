//! The conventions U01 to U50 of the screens' design, each with the test that holds it, or why none does yet.

use std::{fs, path::Path};

use capstan::headless::Cli;
use clap::Parser;
use libtest_mimic::{Failed, Trial};

use super::support::check;

/// A convention: what holds it, and what of it that leaves out.
///
/// A name with `::` is a trial of this program, one without a unit test below `src`; `lint:` comes before a lint that
/// `Cargo.toml` denies and nothing in `src` allows, `read:` before a test whose pictures are to be read.
type Convention = (&'static str, &'static [&'static str], &'static str);

const CONVENTIONS: [Convention; 50] = [
    ("U01", &["terminal::a_run_outlives_its_ui"], ""),
    ("U02", &["terminal::every_end_restores_the_terminal"], ""),
    ("U03", &["terminal::a_panic_touches_no_run"], ""),
    (
        "U04",
        &["every_screen_survives_every_size_in_every_state"],
        "",
    ),
    ("U05", &["terminal::a_size_of_zero_draws_nothing"], ""),
    (
        "U06",
        &["terminal::a_suspended_ui_comes_back_whole"],
        "the 200 ms may be 1.5 s on a machine that does other work",
    ),
    ("U07", &["lint:unwrap_used"], ""),
    (
        "U08",
        &[
            "no_lower_case_key_changes_a_running_run",
            "read_only_refuses_every_act",
        ],
        "",
    ),
    ("U09", &["escape_never_acts"], ""),
    (
        "U10",
        &[
            "a_kill_says_what_is_lost_and_wants_the_name",
            "cli::delete_wants_the_name",
        ],
        "",
    ),
    (
        "U11",
        &["terminal::the_first_ctrl_c_is_answered_at_once"],
        "the 100 ms may be 400 ms on a machine that does other work",
    ),
    (
        "U12",
        &[
            "cli::bad_configs_exit_2",
            "cli::bad_data_exits_5",
            "gpus_without_peer_access_are_noted",
        ],
        "",
    ),
    (
        "U13",
        &[
            "survival::twenty_kills_inside_saves_leave_every_loss_as_it_was",
            "resume::damage_is_found_and_the_one_before_is_used",
        ],
        "",
    ),
    (
        "U14",
        &["resume::the_same_split_goes_on_bit_for_bit"],
        "on CPU; on a GPU only make gpu-check compares",
    ),
    (
        "U15",
        &["survival::nothing_of_a_run_is_left"],
        "no process is left; that a GPU's memory is free again waits for a GPU",
    ),
    (
        "U16",
        &[
            "help_lists_exactly_the_keys_of_its_screen",
            "help_can_be_filtered",
        ],
        "",
    ),
    ("U17", &["every_action_is_in_the_palette"], ""),
    (
        "U18",
        &[
            "every_act_names_the_command_that_does_the_same",
            "conventions::every_key_names_a_command_that_there_is",
        ],
        "",
    ),
    (
        "U19",
        &[
            "arrows_and_letters_move_alike_in_every_list",
            "tab_reaches_every_panel_at_every_size",
        ],
        "",
    ),
    ("U20", &["the_footer_fits_and_puts_the_useful_first"], ""),
    (
        "U21",
        &[
            "terminal::a_key_map_at_fault_is_told_at_the_start",
            "a_key_map_of_the_users_is_obeyed_and_shown",
        ],
        "",
    ),
    (
        "U22",
        &["only_the_sixteen_colours_and_neither_black_nor_white_by_name"],
        "",
    ),
    (
        "U23",
        &["read:every_screen_at_three_sizes_in_three_looks"],
        "",
    ),
    ("U24", &["terminal::no_color_means_none"], ""),
    ("U25", &["auto_trusts_only_the_terminals_own_word"], ""),
    (
        "U26",
        &[
            "glyphs_are_of_one_column_and_in_every_font",
            "mono_has_no_colour_and_ascii_nothing_else",
            "what_may_be_drawn_two_columns_wide_is_not_drawn",
        ],
        "the design's own frames, bars and arrows are of ambiguous width: where the locale makes them wide, ASCII is drawn",
    ),
    (
        "U27",
        &["read:every_screen_at_three_sizes_in_three_looks"],
        "",
    ),
    (
        "U28",
        &[
            "numbers_keep_their_columns_while_a_run_plays",
            "numbers_keep_their_columns_on_every_machine",
        ],
        "",
    ),
    (
        "U29",
        &[
            "read:every_screen_at_three_sizes_in_three_looks",
            "every_number_has_its_unit",
        ],
        "",
    ),
    (
        "U30",
        &[
            "terminal::a_watched_run_costs_little",
            "terminal::an_idle_ui_sends_nothing",
        ],
        "",
    ),
    ("U31", &["terminal::an_idle_ui_sends_nothing"], ""),
    ("U32", &["terminal::a_watched_run_costs_little"], ""),
    (
        "U33",
        &[
            "terminal::a_stopped_viewer_holds_no_run_up",
            "terminal::a_watched_run_costs_little",
        ],
        "the throughput with and without the UI waits for a GPU",
    ),
    (
        "U34",
        &[
            "terminal::keys_answer_while_the_driver_hangs",
            "terminal::a_pipe_for_a_log_delays_no_key",
        ],
        "the 50 ms may be 200 ms on a machine that does other work",
    ),
    (
        "U35",
        &[
            "terminal::the_first_frame_comes_at_once",
            "terminal::keys_answer_while_the_driver_hangs",
        ],
        "the 100 ms may be 400 ms on a machine that does other work",
    ),
    (
        "U36",
        &[
            "terminal::without_a_terminal_there_are_plain_lines",
            "cli::plain_output_is_lines_without_escapes",
        ],
        "",
    ),
    ("U37", &["cli::plain_output_is_lines_without_escapes"], ""),
    (
        "U38",
        &[
            "cli::runs_and_status_answer_in_json",
            "answers::every_answer_in_json_has_its_schema",
        ],
        "",
    ),
    ("U39", &["tidy::no_command_prompts"], ""),
    (
        "U40",
        &[
            "terminal::nothing_is_asked_of_the_terminal",
            "terminal::every_end_restores_the_terminal",
        ],
        "",
    ),
    ("U41", &["terminal::nothing_is_asked_of_the_terminal"], ""),
    ("U42", &["terminal::nothing_is_asked_of_the_terminal"], ""),
    (
        "U43",
        &[
            "cli::bad_configs_exit_2",
            "answers::a_plan_that_does_not_fit_exits_3",
            "cli::a_missing_worker_exits_4",
            "cli::bad_data_exits_5",
            "terminal::every_end_restores_the_terminal",
            "supervisor::signals_stop_and_kill",
        ],
        "",
    ),
    ("U44", &["cli::paths_completions_man_schema_help"], ""),
    (
        "U45",
        &["traced::no_command_opens_a_network_socket"],
        "on CPU",
    ),
    (
        "U46",
        &[
            "sensors::a_call_that_fails_leaves_its_value_out",
            "any_value_may_be_missing",
        ],
        "",
    ),
    (
        "U47",
        &[
            "sensors::what_nvml_tells_is_shown",
            "supervisor::cards_are_told_by_their_uuids",
        ],
        "",
    ),
    (
        "U48",
        &[
            "nothing_unknown_is_shown_as_zero",
            "sensors::a_call_that_fails_leaves_its_value_out",
        ],
        "",
    ),
    (
        "U49",
        &[
            "sensors::what_a_card_suffers_is_one_warning_each",
            "sensors::a_lost_card_is_one_warning_of_its_rank",
            "each_machine_says_once_what_it_suffers",
        ],
        "",
    ),
    ("U50", &["traced::only_who_needs_the_driver_loads_it"], ""),
];

/// `others` are all other trials.
pub fn trials(others: &[Trial]) -> Vec<Trial> {
    let names: Vec<String> = others.iter().map(|trial| trial.name().to_owned()).collect();
    vec![
        Trial::test("conventions::each_has_the_test_that_holds_it", move || {
            each_is_held(&names)
        }),
        Trial::test(
            "conventions::every_key_names_a_command_that_there_is",
            twins_are_commands,
        ),
    ]
}

fn each_is_held(trials: &[String]) -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let units = texts(&root.join("src"));
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    // A trial that can't run here has the reason in its name.
    let is_trial = |name: &str| {
        let mut trials = trials.iter();
        trials.any(|trial| trial.split(" (").next() == Some(name))
    };
    let is_unit = |name: &str| units.contains(&format!("#[test] fn {name}()"));
    for (index, (id, tests, _)) in CONVENTIONS.iter().enumerate() {
        check(*id == format!("U{:02}", index + 1), *id)?;
        check(!tests.is_empty(), format!("{id}: nothing holds it"))?;
        for test in *tests {
            let is_there = match test.split_once(':') {
                Some(("lint", lint)) => {
                    let is_denied = manifest.contains(&format!("{lint} = \"deny\""));
                    is_denied && !units.contains(&format!("clippy::{lint}"))
                }
                Some(("read", name)) => is_unit(name),
                Some(_) => is_trial(test) || test.starts_with("conventions::"),
                None => is_unit(test),
            };
            check(is_there, format!("{id}: {test} is not there"))?;
        }
    }
    Ok(())
}

/// The commands that help shows beside keys, each parsed as it would be typed.
fn twins_are_commands() -> Result<(), Failed> {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tui/keys.rs");
    let text = fs::read_to_string(table)?;
    let twins: Vec<&str> = text
        .split('"')
        .filter(|part| part.starts_with("capstan "))
        .collect();
    check(twins.len() > 8, format!("{twins:?}"))?;
    for twin in twins {
        let words = twin.split(' ').take_while(|word| *word != ">");
        let parsed = Cli::try_parse_from(words);
        check(parsed.is_ok(), format!("{twin}: {:?}", parsed.err()))?;
    }
    Ok(())
}

/// All Rust text below a folder, its words one space apart.
fn texts(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return texts(&path);
            }
            let is_rust = path.extension().is_some_and(|end| end == "rs");
            let text = is_rust.then(|| fs::read_to_string(&path));
            let text = text.and_then(Result::ok).unwrap_or_default();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect()
}
