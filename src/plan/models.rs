//! A model's sizes, from what the user wrote and its preset.

use super::resolve::Resolver;
use crate::{
    arch::{ModelShape, gpt::GptShape, llama::LlamaShape},
    config::{GptConfig, LlamaConfig, ModelConfig, RopeScaling},
};

/// The base of rotary wavelengths where neither config nor preset gives one (Su et al., 2021).
const ROPE_THETA: f64 = 1e4;
/// Of all published sizes of Llama 3.
const NORM_EPS: f64 = 1e-5;

impl Resolver<'_> {
    pub(super) fn model(&mut self) -> ModelShape {
        match &self.config.model {
            ModelConfig::Gpt(gpt) => ModelShape::Gpt(self.gpt(gpt)),
            ModelConfig::Llama(llama) => ModelShape::Llama(self.llama(llama)),
        }
    }

    fn gpt(&mut self, gpt: &GptConfig) -> GptShape {
        let preset = gpt.preset.map(|preset| preset.sizes());
        let mut size = |name: &str, own: Option<usize>, preset: Option<usize>| {
            self.size("gpt", name, own.or(preset))
        };
        let mut shape = GptShape {
            n_layer: size("n_layer", gpt.n_layer, preset.map(|p| p.n_layer)),
            n_head: size("n_head", gpt.n_head, preset.map(|p| p.n_head)),
            d_model: size("d_model", gpt.d_model, preset.map(|p| p.d_model)),
            seq_len: size("seq_len", gpt.seq_len, preset.map(|p| p.seq_len)),
            vocab_size: self.vocab_size("gpt", gpt.vocab_size),
            bias: gpt.bias.unwrap_or(true),
            dropout: gpt.dropout.unwrap_or(0.0),
        };
        if !shape.d_model.is_multiple_of(shape.n_head) {
            self.refuse_heads("gpt", shape.n_head, shape.d_model);
            shape.n_head = 1;
        }
        if !(0.0..1.0).contains(&shape.dropout) {
            self.refuse(
                "model.gpt.dropout",
                format!("is {}", shape.dropout),
                "give a number in [0, 1)",
            );
        }
        shape
    }

    fn llama(&mut self, llama: &LlamaConfig) -> LlamaShape {
        let preset = llama.preset.map(|preset| preset.sizes());
        let n_refused = self.refusals.len();
        let mut size = |name: &str, own: Option<usize>, preset: Option<usize>| {
            self.size("llama", name, own.or(preset))
        };
        let n_head = size("n_head", llama.n_head, preset.map(|p| p.n_head));
        let n_kv_head = preset.map_or(n_head, |p| p.n_kv_head);
        let mut shape = LlamaShape {
            n_layer: size("n_layer", llama.n_layer, preset.map(|p| p.n_layer)),
            n_head,
            n_kv_head: size("n_kv_head", llama.n_kv_head, Some(n_kv_head)),
            d_model: size("d_model", llama.d_model, preset.map(|p| p.d_model)),
            d_ff: size("d_ff", llama.d_ff, preset.map(|p| p.d_ff)),
            seq_len: size("seq_len", llama.seq_len, preset.map(|p| p.seq_len)),
            vocab_size: self.vocab_size("llama", llama.vocab_size),
            rope_theta: llama
                .rope_theta
                .or(preset.map(|p| p.rope_theta))
                .unwrap_or(ROPE_THETA),
            rope_scaling: match llama.rope_scaling {
                Some(RopeScaling::None) => None,
                Some(RopeScaling::Llama3(scaling)) => Some(scaling),
                None => preset.and_then(|p| p.rope_scaling),
            },
            tie_embeddings: llama
                .tie_embeddings
                .unwrap_or(preset.is_some_and(|p| p.tie_embeddings)),
            norm_eps: llama.norm_eps.unwrap_or(NORM_EPS),
        };
        // A size that is not there is not compared with others.
        if self.refusals.len() == n_refused {
            self.check_llama_heads(&mut shape);
        }
        self.check_llama_numbers(&shape);
        shape
    }

    /// Heads that do not fit become one.
    fn check_llama_heads(&mut self, shape: &mut LlamaShape) {
        let (n_head, width) = (shape.n_head, shape.d_model);
        if !width.is_multiple_of(n_head) {
            self.refuse_heads("llama", n_head, width);
            (shape.n_head, shape.n_kv_head) = (1, 1);
        } else if !(width / n_head).is_multiple_of(2) {
            let problem = format!(
                "{n_head} heads of {} numbers, which rotary positions take in pairs",
                width / n_head
            );
            let (path, remedy) = match width.is_multiple_of(2) {
                true => ("n_head", nearest_divisor(width / 2, n_head)),
                false => ("d_model", (width / n_head + 1) * n_head),
            };
            self.refuse(
                &format!("model.llama.{path}"),
                problem,
                format!("try {remedy}"),
            );
        }
        if !shape.n_head.is_multiple_of(shape.n_kv_head) {
            let nearest = nearest_divisor(shape.n_head, shape.n_kv_head);
            let problem = format!("{} do not divide {n_head} heads", shape.n_kv_head);
            self.refuse("model.llama.n_kv_head", problem, format!("try {nearest}"));
            shape.n_kv_head = 1;
        }
    }

    fn check_llama_numbers(&mut self, shape: &LlamaShape) {
        let mut check = |name: &str, value: f64, ok: bool, remedy: &str| {
            if !ok || !value.is_finite() {
                self.refuse(
                    &format!("model.llama.{name}"),
                    format!("is {value}"),
                    remedy,
                );
            }
        };
        let (theta, eps) = (shape.rope_theta, shape.norm_eps);
        check(
            "rope_theta",
            theta,
            theta >= 1.0,
            "give at least 1, such as 10000",
        );
        check(
            "norm_eps",
            eps,
            eps > 0.0,
            "give a positive number, such as 1e-5",
        );
        let Some(scaling) = shape.rope_scaling else {
            return;
        };
        let name = |field: &str| format!("rope_scaling.llama3.{field}");
        let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
        check(
            &name("factor"),
            scaling.factor,
            scaling.factor >= 1.0,
            "give at least 1, such as 8",
        );
        check(
            &name("low_freq_factor"),
            low,
            low > 0.0,
            "give a positive number, such as 1",
        );
        check(
            &name("high_freq_factor"),
            high,
            high > low,
            "give more than low_freq_factor, such as 4",
        );
        check(
            &name("original_max_position"),
            scaling.original_max_position as f64,
            scaling.original_max_position > 0,
            "give at least 1, such as 8192",
        );
    }

    /// A size that must be there; 1 after a refusal.
    fn size(&mut self, family: &str, name: &str, given: Option<usize>) -> usize {
        let path = format!("model.{family}.{name}");
        match given {
            Some(0) => self.refuse(&path, "is 0", "give at least 1"),
            Some(size) if size > largest(name) => {
                let remedy = format!("give at most {}", largest(name));
                self.refuse(&path, format!("is {size}"), remedy);
            }
            Some(size) => return size,
            None => {
                let remedy = format!("give it, or a preset such as \"{family}-micro\"");
                self.refuse(&path, "is missing", remedy);
            }
        }
        1
    }

    /// Rows for all of the data's tokens; as many as there are, unless the config gives more.
    fn vocab_size(&mut self, family: &str, own: Option<usize>) -> usize {
        let needed = self.data.vocab_size;
        let rows = own.unwrap_or(needed);
        if rows < needed {
            self.refuse(
                &format!("model.{family}.vocab_size"),
                format!("{rows} rows for a vocabulary of {needed}"),
                format!("give at least {needed}, or leave it out"),
            );
        }
        rows
    }

    fn refuse_heads(&mut self, family: &str, n_head: usize, width: usize) {
        self.refuse(
            &format!("model.{family}.n_head"),
            format!("{n_head} heads do not divide a width of {width}"),
            format!("try {}", nearest_divisor(width, n_head)),
        );
    }
}

/// The divisor of `n` closest to `wanted`.
pub(super) fn nearest_divisor(n: usize, wanted: usize) -> usize {
    const FURTHEST: usize = 1 << 20;
    let wanted = wanted.clamp(1, n.max(1));
    let nearby = (0..FURTHEST).flat_map(|d| [wanted.saturating_sub(d), wanted.saturating_add(d)]);
    nearby
        .into_iter()
        .find(|&d| d > 0 && d <= n && n.is_multiple_of(d))
        .unwrap_or(1)
}

/// The largest size that a model's arithmetic is made for.
fn largest(name: &str) -> usize {
    match name {
        "n_layer" => 10_000,
        _ => 1 << 20,
    }
}
