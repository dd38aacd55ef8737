//! Faults of GPUs whose way out the supervisor knows: what is not finite, and a lack of memory.

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    sensors::{with_cards, with_fakes},
    support::{Said, Workplace, check, wait, with_stand_in},
};

const FLAG: &str = "--without-cudnn-attention";
const LEARNING_RATE: &str = "a smaller learning rate";

pub fn trials() -> Vec<Trial> {
    vec![
        with_fakes(
            "remedies::a_nan_on_hopper_goes_on_without_cudnns_attention",
            nan_on_hopper,
        ),
        with_fakes(
            "remedies::a_second_nan_blames_the_learning_rate",
            second_nan,
        ),
        with_fakes(
            "remedies::a_resumed_run_stays_without_cudnns_attention",
            resumed,
        ),
        with_fakes(
            "remedies::attention_is_blamed_only_where_it_ran",
            blamed_where_it_ran,
        ),
        with_fakes(
            "remedies::a_lack_of_memory_before_the_first_step_is_final",
            no_memory_at_first,
        ),
        with_stand_in(
            "remedies::a_lack_of_memory_later_is_tried_again",
            no_memory_later,
        ),
        with_fakes("remedies::nccl_is_told_of_cards_and_stages", nccl_is_told),
        Trial::test(
            "remedies::attention_is_computed_as_the_config_says",
            attention,
        ),
    ]
}

/// One rank on the first of two cards, which computes in bf16.
fn on_a_card(behaviour: &str, kind: &str) -> Result<(Workplace, TempDir), Failed> {
    let (place, library) = with_cards(Workplace::new(behaviour)?, kind)?;
    place.write_config(json!({ "devices": [0], "precision": "bf16" }))?;
    Ok((place, library))
}

/// Which lives were told to leave cuDNN's attention out.
fn without(place: &Workplace) -> Vec<bool> {
    let lives = place.lives("tiny");
    let is_told = |life: &Value| life.get(FLAG).is_some();
    lives.iter().map(is_told).collect()
}

fn restarts(place: &Workplace) -> Vec<(Value, Value)> {
    let events = place.events_named("tiny", "restart").into_iter();
    events
        .map(|event| {
            (
                event["from_step"].clone(),
                event["without_cudnn_attention"].clone(),
            )
        })
        .collect()
}

fn nan_on_hopper() -> Result<(), Failed> {
    let (place, _library) = on_a_card("not-finite,well", "hopper")?;
    let said = place.train(&["--plain"])?.ended_with(0)?;
    let said = said.says(&[
        "the loss is no finite number",
        "the run goes on without it, from the checkpoint at step 2",
        "going on from step 2, without cuDNN's attention",
    ])?;
    check(!said.err.contains(LEARNING_RATE), said.err.as_str())?;
    check(
        without(&place) == [false, true],
        format!("{:?}", without(&place)),
    )?;
    let restarts = restarts(&place);
    check(
        restarts == [(json!(2), json!(true))],
        format!("{restarts:?}"),
    )
}

fn failed(place: &Workplace) -> Result<(Said, String), Failed> {
    let said = place.train(&["--plain"])?.ended_with(1)?;
    let (outcome, reason) = place.wait_for_end("tiny")?;
    check(outcome == "failed", outcome)?;
    Ok((said, reason))
}

fn second_nan() -> Result<(), Failed> {
    let (place, _library) = on_a_card("not-finite", "hopper")?;
    let (_, reason) = failed(&place)?;
    check(reason.contains(LEARNING_RATE), reason)?;
    check(
        without(&place) == [false, true],
        format!("{:?}", without(&place)),
    )
}

fn resumed() -> Result<(), Failed> {
    let (place, _library) = on_a_card("not-finite,signal-9,well", "hopper")?;
    place
        .train(&["--plain", "--set", "restart.max=1"])?
        .ended_with(0)?;
    // A later death of another kind changes nothing.
    check(
        without(&place) == [false, true, true],
        format!("{:?}", without(&place)),
    )?;
    let more = ["resume", "tiny", "--set", "stop.steps=8", "--plain"];
    let place = place.with("STAND_IN_STEPS", "8");
    place.capstan(&more)?.ended_with(0)?;
    check(
        without(&place)[3..] == [true],
        format!("{:?}", without(&place)),
    )
}

fn blamed_where_it_ran() -> Result<(), Failed> {
    for (kind, change) in [
        ("geforce", json!({})),
        ("hopper", json!({ "precision": "fp32" })),
        ("hopper", json!({ "attention": "flash" })),
        ("hopper", json!({ "restart": { "max": 0 } })),
    ] {
        let (place, _library) = on_a_card("not-finite,well", kind)?;
        let mut config = json!({ "devices": [0], "precision": "bf16" });
        if let (Some(config), Value::Object(change)) = (config.as_object_mut(), change) {
            config.extend(change);
        }
        place.write_config(config.clone())?;
        let (_, reason) = failed(&place)?;
        check(reason.contains(LEARNING_RATE), reason)?;
        check(without(&place) == [false], format!("{kind} {config}"))?;
    }
    Ok(())
}

fn no_memory_at_first() -> Result<(), Failed> {
    let (place, _library) = with_cards(Workplace::new("out-of-memory-at-once")?, "hopper")?;
    let batch = json!({ "global": 4, "micro": 2 });
    place.write_config(json!({ "devices": [0], "batch": batch }))?;
    place.train(&["--plain"])?.ended_with(3)?.says(&[
        "CUDA out of memory",
        "a smaller batch.micro, parallel.recompute=selective or full takes less",
    ])?;
    check(place.lives("tiny").len() == 1, "one life")?;

    // Ways that are taken already are not named.
    let parallel = json!({ "dp": 2, "recompute": "full" });
    place.write_config(
        json!({ "devices": [0, 1], "parallel": parallel, "batch": { "global": 4, "micro": 1 } }),
    )?;
    let said = place
        .train(&["--plain", "--name", "other"])?
        .ended_with(3)?;
    let said = said.says(&["; a higher parallel.zero takes less"])?;
    check(!said.err.contains("batch.micro"), said.err)
}

fn no_memory_later() -> Result<(), Failed> {
    let place = Workplace::new("out-of-memory,well")?;
    place
        .train(&["--plain"])?
        .ended_with(0)?
        .says(&["CUDA out of memory", "takes less; restart 1 of 3"])?;
    check(place.lives("tiny").len() == 2, "two lives")
}

/// On CPU ranks the fused kernel is what `auto` takes too; written out, sums have another order.
fn attention() -> Result<(), Failed> {
    let numbers = |attention: &str| -> Result<Vec<f64>, Failed> {
        let place = Workplace::real()?;
        place.write_config(json!({ "devices": ["cpu"], "attention": attention }))?;
        place.train(&["--plain"])?.ended_with(0)?;
        let steps = place.events_named("tiny", "step");
        let numbers = steps
            .iter()
            .flat_map(|step| [&step["loss"], &step["grad_norm"]]);
        Ok(numbers.filter_map(Value::as_f64).collect())
    };
    let (auto, flash, math) = (numbers("auto")?, numbers("flash")?, numbers("math")?);
    let told = format!("{auto:?} {flash:?} {math:?}");
    check(
        [&auto, &flash, &math].map(Vec::len) == [8; 3],
        told.as_str(),
    )?;
    check(auto == flash && auto != math, told.as_str())?;
    let mut apart = auto.iter().zip(&math).map(|(a, b)| (a - b).abs());
    check(apart.all(|apart| apart < 1e-4), told)
}

/// What a run's workers have in their environment for NCCL.
fn nccl_is_told() -> Result<(), Failed> {
    let told = |kind: &str, parallel: Value, own: Option<&str>| -> Result<[Value; 2], Failed> {
        let (mut place, _library) = with_cards(Workplace::new("well")?, kind)?;
        if let Some(own) = own {
            place = place.with("NCCL_CUMEM_HOST_ENABLE", own);
        }
        place.write_config(json!({ "devices": [0, 1], "parallel": parallel }))?;
        place.train(&["--detach"])?.ended_with(0)?;
        wait("a life", || !place.lives("tiny").is_empty())?;
        let life = place.lives("tiny").pop().unwrap_or_default();
        Ok([
            life["NCCL_CUMEM_HOST_ENABLE"].clone(),
            life["NCCL_MAX_P2P_NCHANNELS"].clone(),
        ])
    };
    let (dp, pp) = (json!({ "dp": 2 }), json!({ "pp": 2 }));
    for (kind, parallel, own, expected) in [
        ("geforce", &dp, None, [json!("0"), json!(null)]),
        ("geforce", &pp, None, [json!("0"), json!("4")]),
        ("geforce", &dp, Some("1"), [json!("1"), json!(null)]),
        ("hopper", &dp, None, [json!(null), json!(null)]),
        ("hopper", &pp, None, [json!(null), json!("4")]),
    ] {
        let found = told(kind, parallel.clone(), own)?;
        check(found == expected, format!("{kind} {parallel}: {found:?}"))?;
    }
    Ok(())
}
