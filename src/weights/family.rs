//! What Hugging Face's files say of a model family beyond capstan's own names and shapes.

use serde_json::{Map, Value};

use super::{gpt::Gpt, llama::Llama, source::CONFIG_PATH};
use crate::{
    arch::{ModelShape, ParamSpec},
    plan::{Refusal, RefusalKind},
};

/// A model in the words of `transformers`. One file a family.
pub(super) trait Family {
    /// Where the config states the family's sizes.
    fn key(&self) -> &'static str;

    /// `model_type` in `config.json`.
    fn model_type(&self) -> &'static str;

    /// Layers of the model.
    fn n_layer(&self) -> usize;

    /// capstan's name for a tensor of a file, where it may have one; the caller looks whether the model does.
    fn candidates(&self, name: &str) -> Vec<String>;

    /// What to try where the files' head is not the embedding's table, as the model's is.
    fn untied(&self) -> String;

    /// What to try where the files have biases and the model has none.
    fn biased(&self) -> String;

    /// What to try where a parameter is missing.
    fn absent(&self, name: &str) -> String;

    /// Settings of `config.json` under which the same tensors mean another function.
    fn differences(&self, sizes: &Sizes<'_>) -> Vec<Refusal>;

    /// `config.json` but for tokens and number formats.
    fn sizes(&self) -> Map<String, Value>;

    /// The tensors that `transformers` expects, in order; what the model lacks of them is zero.
    fn exported(&self) -> Vec<ParamSpec>;

    /// Whether a tensor that the model lacks is written as zeros.
    fn may_be_zero(&self, name: &str) -> bool;

    /// The name in an exported file.
    fn exported_name(&self, name: &str) -> String;
}

/// The family of a model.
pub(super) fn of(model: &ModelShape) -> Box<dyn Family + '_> {
    match model {
        ModelShape::Gpt(shape) => Box::new(Gpt(shape)),
        ModelShape::Llama(shape) => Box::new(Llama(shape)),
    }
}

/// The number of the layer that a tensor belongs to.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let name = ["transformer.", "model."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let rest = name
        .strip_prefix("h.")
        .or_else(|| name.strip_prefix("layers."))?;
    rest.split('.').next()?.parse().ok()
}

/// A `config.json` compared with the model.
pub(super) struct Sizes<'a>(pub &'a Value);

impl Sizes<'_> {
    /// A setting, or `transformers`' default where the file leaves it out or says null.
    pub fn get(&self, key: &str, default: impl Into<Value>) -> Value {
        match self.0.get(key) {
            None | Some(Value::Null) => default.into(),
            Some(value) => value.clone(),
        }
    }

    /// A refusal where a setting of the model's, which the user can change, is another one.
    pub fn settable(&self, field: &str, theirs: &Value, ours: Value) -> Option<Refusal> {
        (!is_same(theirs, &ours)).then(|| Refusal {
            path: field.to_owned(),
            problem: format!("is {ours}, the weights' config.json has {theirs}"),
            remedy: format!("set it to {theirs}"),
            kind: RefusalKind::Config,
        })
    }

    /// A refusal where the weights are for a function that capstan does not compute.
    pub fn fixed(&self, key: &str, default: impl Into<Value>, known: &[Value]) -> Option<Refusal> {
        let theirs = self.get(key, default);
        (!known.iter().any(|known| is_same(known, &theirs))).then(|| {
            let known = known.first().unwrap_or(&Value::Null);
            misfit(
                format!("the weights' config.json has {key} {theirs}, capstan computes {known}"),
                "these weights can't be used",
            )
        })
    }
}

/// A refusal of weights that are sound and belong to another model.
pub(super) fn misfit(problem: String, remedy: impl Into<String>) -> Refusal {
    Refusal {
        path: CONFIG_PATH.to_owned(),
        problem,
        remedy: remedy.into(),
        kind: RefusalKind::Config,
    }
}

/// Numbers may differ by what the way through another program's text costs.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        _ => a == b,
    }
}
