//! One training on simulated cards or on CPU ranks, what came of it, and how far two of them are apart.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock},
};

use libtest_mimic::Failed;
use serde_json::Value;

use super::{
    libraries,
    splits::{Bound, Split, merged},
};
use crate::support::{Said, Workplace, check};

/// The name of every run here.
pub const RUN: &str = "run";

/// Variables of the environment, by name.
pub type Variables<'a> = &'a [(&'static str, &'a str)];

/// Returns a workplace whose machine has this many simulated cards, with the real programs.
///
/// # Errors
/// The stand-ins do not compile.
pub fn with_cards(n_cards: usize) -> Result<Workplace, Failed> {
    let folder = libraries::folder()?;
    let visible: Vec<String> = (0..n_cards).map(|index| index.to_string()).collect();
    Ok(Workplace::real()?
        .with("CAPSTAN_CUDA", &folder.to_string_lossy())
        .with(
            "CAPSTAN_NVML",
            &folder.join("libnvidia-ml.so").to_string_lossy(),
        )
        .with("FAKE_NVML", "hopper")
        .with("FAKE_NVML_CARDS", &n_cards.to_string())
        .with("CUDA_VISIBLE_DEVICES", &visible.join(",")))
}

/// What a run's events and its last checkpoint say of its training.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Losses and gradient norms by step, evaluations, the sample; a title each.
    pub numbers: BTreeMap<String, Value>,
    /// The files of the last checkpoint, as their hashes.
    pub checkpoint: Vec<String>,
}

impl Training {
    /// Reads a run that is complete.
    ///
    /// # Errors
    /// It left no checkpoint.
    pub fn of(place: &Workplace, name: &str) -> Result<Self, Failed> {
        let files = place.checkpoint(name, place.step(name))?;
        let hash = |file: &Vec<u8>| blake3::hash(file).to_hex().to_string();
        Ok(Self {
            numbers: place.training(name),
            checkpoint: files.iter().map(hash).collect(),
        })
    }

    /// Fails unless this training is as near to the other as the bound asks.
    ///
    /// # Errors
    /// The first number that is too far off, with both values.
    pub fn is_like(&self, other: &Self, bound: Bound) -> Result<(), Failed> {
        let titles = |training: &Self| training.numbers.keys().cloned().collect::<Vec<_>>();
        check(
            titles(self) == titles(other) && self.numbers.len() >= 3,
            format!("{:?} and {:?}", titles(self), titles(other)),
        )?;
        for (title, values) in &self.numbers {
            let others = &other.numbers[title];
            let is_near = match bound {
                Bound::Exact => values == others,
                Bound::Within(limit) => apart(values, others) <= limit,
            };
            check(
                is_near,
                format!("{title}: {values} on cards, {others} on CPU ranks"),
            )?;
        }
        let is_same = bound != Bound::Exact || self.checkpoint == other.checkpoint;
        check(is_same, "another checkpoint than on CPU ranks")
    }
}

/// The largest difference of two lists of numbers, as a share; a number that is none is infinitely far.
fn apart(these: &Value, those: &Value) -> f64 {
    let numbers = |list: &Value| -> Vec<f64> {
        let items = list.as_array().into_iter().flatten();
        items.filter_map(Value::as_f64).collect()
    };
    let (these, those) = (numbers(these), numbers(those));
    if these.len() != those.len() {
        return f64::INFINITY;
    }
    let shares = these
        .iter()
        .zip(&those)
        .map(|(a, b)| (a - b).abs() / b.abs());
    shares.fold(0.0, |most, share| match share.is_nan() {
        true => f64::INFINITY,
        false => most.max(share),
    })
}

/// Returns the training of the split's CPU ranks, which is made once for all trials that ask.
///
/// # Errors
/// It fails.
pub fn on_cpu(split: &Split) -> Result<Arc<Training>, Failed> {
    type Made = Arc<OnceLock<Result<Arc<Training>, String>>>;
    static MADE: Mutex<Option<HashMap<String, Made>>> = Mutex::new(None);
    let config = split.on_cpu();
    let made = {
        let mut all = MADE.lock().map_err(|_| "a trial died")?;
        let all = all.get_or_insert_default();
        Arc::clone(all.entry(config.to_string()).or_default())
    };
    let trained = made.get_or_init(|| {
        let train = || -> Result<Training, Failed> {
            let place = Workplace::real()?;
            place.write_config(config)?;
            place.train(&["--name", RUN])?.ended_with(0)?;
            Training::of(&place, RUN)
        };
        train()
            .map(Arc::new)
            .map_err(|failed| failed.message().unwrap_or("it failed").to_owned())
    });
    Ok(trained.clone()?)
}

/// Trains a split on as many simulated cards as it needs, in the given environment, whatever comes of it.
///
/// # Errors
/// It can't be started.
pub fn on_gpus(
    split: &Split,
    changes: Value,
    variables: Variables,
) -> Result<(Workplace, Said), Failed> {
    let n_cards = split.ranks.max(4);
    let mut place = with_cards(n_cards)?;
    for (name, value) in variables {
        place = place.with(name, value);
    }
    place.write_config(merged(&[split.on_gpus(), changes]))?;
    let said = place.train(&["--name", RUN, "--plain"])?;
    Ok((place, said))
}
