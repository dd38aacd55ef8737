//! A model's sizes, from what the user wrote and its preset.

use super::resolve::Resolver;
use crate::{
    arch::{ModelShape, gpt::GptShape},
    config::{GptConfig, ModelConfig},
};

impl Resolver<'_> {
    pub(super) fn model(&mut self) -> ModelShape {
        let ModelConfig::Gpt(gpt) = &self.config.model;
        ModelShape::Gpt(self.gpt(gpt))
    }

    fn gpt(&mut self, gpt: &GptConfig) -> GptShape {
        let preset = gpt.preset.map(|preset| preset.sizes());
        let mut size = |name: &str, own: Option<usize>, preset: Option<usize>| match own.or(preset)
        {
            Some(0) => {
                self.refuse(&format!("model.gpt.{name}"), "is 0", "give at least 1");
                1
            }
            Some(size) if size > largest(name) => {
                let remedy = format!("give at most {}", largest(name));
                self.refuse(&format!("model.gpt.{name}"), format!("is {size}"), remedy);
                1
            }
            Some(size) => size,
            None => {
                self.refuse(
                    &format!("model.gpt.{name}"),
                    "is missing",
                    "give it, or a preset such as \"gpt-micro\"",
                );
                1
            }
        };
        let mut shape = GptShape {
            n_layer: size("n_layer", gpt.n_layer, preset.map(|p| p.n_layer)),
            n_head: size("n_head", gpt.n_head, preset.map(|p| p.n_head)),
            d_model: size("d_model", gpt.d_model, preset.map(|p| p.d_model)),
            seq_len: size("seq_len", gpt.seq_len, preset.map(|p| p.seq_len)),
            vocab_size: gpt.vocab_size.unwrap_or(self.data.vocab_size),
            bias: gpt.bias.unwrap_or(true),
            dropout: gpt.dropout.unwrap_or(0.0),
        };
        if !shape.d_model.is_multiple_of(shape.n_head) {
            let nearest = nearest_divisor(shape.d_model, shape.n_head);
            let problem = format!(
                "{} heads do not divide a width of {}",
                shape.n_head, shape.d_model
            );
            self.refuse("model.gpt.n_head", problem, format!("try {nearest}"));
            shape.n_head = 1;
        }
        if !(0.0..1.0).contains(&shape.dropout) {
            self.refuse(
                "model.gpt.dropout",
                format!("is {}", shape.dropout),
                "give a number in [0, 1)",
            );
        }
        if shape.vocab_size < self.data.vocab_size {
            let problem = format!(
                "{} rows for a vocabulary of {}",
                shape.vocab_size, self.data.vocab_size
            );
            self.refuse(
                "model.gpt.vocab_size",
                problem,
                format!("give at least {}, or leave it out", self.data.vocab_size),
            );
        }
        shape
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
