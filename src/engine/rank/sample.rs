//! Text from the weights of the moment.

use tch::{Device, Tensor};

use super::Rank;
use crate::{
    config::SampleConfig,
    engine::{EngineError, generate},
    event::{Event, NO_SAMPLE},
    torch::TorchError,
};

impl Rank {
    /// How an ordered sample is made.
    pub(super) fn sample_settings(&self) -> SampleConfig {
        self.job.config.sample.clone().unwrap_or_default()
    }

    /// Samples; a prompt that the tokenizer can't use is no reason to end the run.
    pub(super) fn sample_or_say_why(&mut self, config: &SampleConfig) -> Result<(), EngineError> {
        match self.sample(config) {
            Err(EngineError::Data(error)) => {
                let text = format!("{NO_SAMPLE}{error}");
                self.emit_from_first(Event::Warning { text, rank: None });
                Ok(())
            }
            sampled => sampled,
        }
    }

    /// All ranks of the first replica compute, all learn each token.
    fn sample(&mut self, config: &SampleConfig) -> Result<(), EngineError> {
        let Some(tokenizer) = self.job.data.tokenizer.as_ref() else {
            return Ok(());
        };
        let prompt = tokenizer.encode(&config.prompt)?;
        let (seq_len, vocab_size) = (self.job.plan.model.seq_len(), self.job.data.vocab_size);
        let (at, lane) = (self.seat.at(&self.job.plan), self.seat.lane);
        let (passes, seat) = (&mut self.passes, &self.seat);
        let (mut done, mut tell) = (0, seat.teller("sampling"));
        seat.progress.enter("sampling");
        let ids = generate(
            &prompt,
            seq_len,
            vocab_size,
            config,
            |context| {
                let draws = (at.replica, at.shard, lane) == (0, 0, 0);
                if (at.replica, lane) != (0, 0) && !passes.strategy.gathers_weights() {
                    return Ok(None);
                }
                let logits = passes.logits(context, Some(1))?.filter(|_| draws);
                let to_host = |logits: Tensor| {
                    let read = || logits.f_to_device(Device::Cpu);
                    seat.progress.waiting_for_device(read)
                };
                Ok(logits.map(to_host).transpose()?)
            },
            |own| {
                let all = seat.tokens.exchange(own)?;
                let drawn = all.iter().flatten().next().copied();
                done += 1;
                tell(done, config.tokens as u64);
                Ok(drawn.ok_or_else(|| TorchError::new("no rank drew a token"))?)
            },
        )?;
        let text = tokenizer.decode(&ids);
        self.emit_from_first(Event::Sample {
            step: self.step,
            prompt: config.prompt.clone(),
            text,
        });
        Ok(())
    }
}
