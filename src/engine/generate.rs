//! Text from a model.

use tch::{Kind, Tensor};

use super::EngineError;
use crate::{base::random, config::SampleConfig, data::DataError};

/// Continues `prompt` (at least one token) by `config.tokens` tokens; returns the new ones.
///
/// The context is the last `seq_len` tokens. The draw of token i depends on (seed, i) and the logits alone.
/// `next_logits` gives the logits behind a context on the rank that draws; `share` gives what it drew to all.
///
/// # Errors
/// A prompt without a token, or what `next_logits` or `share` say.
pub fn generate(
    prompt: &[u32],
    seq_len: usize,
    vocab_size: usize,
    config: &SampleConfig,
    mut next_logits: impl FnMut(&[i64]) -> Result<Option<Tensor>, EngineError>,
    mut share: impl FnMut(Option<u32>) -> Result<u32, EngineError>,
) -> Result<Vec<u32>, EngineError> {
    if prompt.is_empty() {
        return Err(DataError::EmptyPrompt.into());
    }
    let key = random::key(config.seed, &[random::name_part("sample")]);
    let mut tokens: Vec<i64> = prompt.iter().map(|&id| i64::from(id)).collect();
    for index in 0..config.tokens {
        let context = &tokens[tokens.len().saturating_sub(seq_len)..];
        let own = match next_logits(context)? {
            None => None,
            Some(logits) => {
                // Rows of the embedding beyond the tokenizer's vocabulary are no tokens.
                let last = logits.f_view([-1])?.f_narrow(0, 0, vocab_size as i64)?;
                let last = last
                    .f_to_device(tch::Device::Cpu)?
                    .f_to_kind(Kind::Double)?;
                let weights: Vec<f64> = Vec::try_from(last)?;
                let next = pick(&weights, config, random::unit_at(key, index as u64));
                Some(next as u32)
            }
        };
        tokens.push(i64::from(share(own)?));
    }
    Ok(tokens[prompt.len()..].iter().map(|&id| id as u32).collect())
}

/// The token at quantile `unit` of the tempered distribution over the `top_k` likeliest.
fn pick(logits: &[f64], config: &SampleConfig, unit: f64) -> usize {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    if config.temperature <= 0.0 {
        return order.first().copied().unwrap_or(0);
    }
    order.truncate(config.top_k.unwrap_or(usize::MAX).max(1));
    let highest = order.first().map_or(0.0, |&id| logits[id]);
    let weight = |id: usize| ((logits[id] - highest) / config.temperature).exp();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut left = unit * total;
    for &id in &order {
        left -= weight(id);
        if left < 0.0 {
            return id;
        }
    }
    order.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 3] = [0.0, 2.0, 1.0];

    fn config(temperature: f64, top_k: Option<usize>) -> SampleConfig {
        SampleConfig {
            temperature,
            top_k,
            ..SampleConfig::default()
        }
    }

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        assert_eq!(pick(&LOGITS, &config(0.0, None), 0.99), 1);
    }

    #[test]
    fn quantiles_follow_the_distribution() {
        let n = 10_000;
        let mut counts = [0; 3];
        for i in 0..n {
            counts[pick(
                &LOGITS,
                &config(1.0, None),
                (f64::from(i) + 0.5) / f64::from(n),
            )] += 1;
        }
        let total: f64 = LOGITS.iter().map(|x| x.exp()).sum();
        for (count, logit) in counts.into_iter().zip(LOGITS) {
            assert!(
                (f64::from(count) / f64::from(n) - logit.exp() / total).abs() < 1e-3,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn top_k_leaves_only_the_likeliest() {
        assert!((0..100).all(|i| pick(&LOGITS, &config(1.0, Some(2)), f64::from(i) / 100.0) != 0));
    }
}
