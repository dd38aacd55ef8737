//! Runs in this process: the engine on rank threads, without supervisor or files of a run.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::channel,
};

use capstan::{
    checkpoint::{self, Loaded},
    config::{self, Assignment, RunConfig},
    data,
    engine::{self, Ending, Finish, Injection, Job},
    event::{Control, Event, RankStep},
    hw::Machine,
    plan::{self, DataSummary, RunPlan},
    weights::Source,
};

/// A small GPT on a text of uneven length, so that the last window of an epoch is partial.
const CONFIG: &str = r#"{
  "name": "tiny",
  "model": { "gpt": { "n_layer": 2, "n_head": 2, "d_model": 32, "seq_len": 16 } },
  "data": { "text": { "path": "text.txt", "tokenizer": "char" } },
  "batch": { "global": 8 },
  "stop": { "steps": 6 },
  "optimizer": { "adamw": { "lr": 1e-3, "betas": [0.9, 0.99] } },
  "precision": "fp64",
  "parallel": { "dp": 1 },
  "devices": ["cpu", "cpu", "cpu", "cpu"],
  "threads_per_rank": 1,
  "eval": { "every": 1000, "batches": 2 },
  "checkpoint": { "every": 1000 },
  "restart": { "hang_after_s": 30 }
}"#;

/// A folder with a text and a cache, for any number of runs.
pub struct Bench {
    pub folder: tempfile::TempDir,
}

/// What a run said.
pub struct Told {
    pub events: Vec<Event>,
    pub ending: Ending,
}

/// Hears events as they happen.
pub type OnEvent = Box<dyn FnMut(&Event)>;

/// What a run is given besides its config.
#[derive(Default)]
pub struct Setting<'a> {
    pub checkpoints: Option<PathBuf>,
    pub resume: Option<Loaded>,
    pub inject: Option<&'a str>,
    /// Orders that are there before the first step.
    pub controls: Vec<Control>,
    pub bucket_bytes: Option<u64>,
    /// Hears every event as it happens.
    pub on_event: Option<OnEvent>,
}

impl Bench {
    /// A text of 2 003 characters over 27 letters.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text: String = (0..2_003u32)
            .map(|i| char::from_u32(97 + (i * i / 7 + i) % 26).unwrap_or(' '))
            .collect();
        std::fs::write(folder.path().join("text.txt"), text).expect("written");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self, changes: &[&str]) -> RunConfig {
        self.config_of(None, changes)
    }

    fn config_of(&self, layout: Option<&str>, changes: &[&str]) -> RunConfig {
        let layout = layout.map(|text| config::layout_from_text(text).expect("well-formed"));
        let changes: Vec<_> = changes
            .iter()
            .map(|text| Assignment::parse(text).expect("well-formed"))
            .collect();
        config::load_text(CONFIG, "tiny", self.folder.path(), &changes, layout)
            .expect("a good config")
            .config
    }

    pub fn plan(&self, config: &RunConfig) -> (RunPlan, data::Prepared) {
        let data = data::prepare(&config.data, &self.path("cache"), &|_| ()).expect("good data");
        let machine = Machine {
            cores: 2,
            memory_bytes: 1 << 34,
            shm_bytes: None,
            gpus: Vec::new(),
            left_out: Vec::new(),
            links: Vec::new(),
            no_gpus_because: None,
        };
        let plan = plan::resolve(config, &machine, &DataSummary::from(&data)).expect("a plan");
        (plan, data)
    }

    /// Trains with `changes` to the config.
    pub fn run(&self, changes: &[&str], setting: Setting<'_>) -> Told {
        self.train(self.config(changes), setting)
    }

    /// Trains under a layout as the command line has it.
    pub fn run_layout(&self, layout: &str, changes: &[&str], setting: Setting<'_>) -> Told {
        self.train(self.config_of(Some(layout), changes), setting)
    }

    /// The plan of a layout.
    pub fn plan_layout(&self, layout: &str, changes: &[&str]) -> RunPlan {
        self.plan(&self.config_of(Some(layout), changes)).0
    }

    fn train(&self, config: RunConfig, setting: Setting<'_>) -> Told {
        let (mut plan, data) = self.plan(&config);
        plan.bucket_bytes = setting.bucket_bytes;
        let inject = setting
            .inject
            .map(|text| text.parse::<Injection>().expect("well-formed"));
        let (orders, controls) = channel();
        for control in setting.controls {
            orders.send(control).expect("heard");
        }
        if let Some(folder) = &setting.checkpoints {
            std::fs::create_dir_all(folder).expect("created");
        }
        let pretrained = config.init.as_ref().map(|init| {
            let opened = Source::open(&init.pretrained).and_then(|source| source.fit(&plan.model));
            opened.expect("weights that fit")
        });
        let job = Job {
            config,
            plan,
            data,
            resume: setting.resume,
            pretrained,
            checkpoints: setting.checkpoints,
            inject,
            hub: None,
        };
        let mut events = Vec::new();
        let mut on_event = setting.on_event;
        let mut hear = |event: Event| {
            if let Some(on_event) = &mut on_event {
                on_event(&event);
            }
            events.push(event);
        };
        let ending = engine::run(job, &controls, &mut hear).expect("started");
        Told { events, ending }
    }

    /// Trains and returns the losses, step by step.
    pub fn losses(&self, changes: &[&str]) -> Vec<f64> {
        self.run(changes, Setting::default()).losses()
    }

    /// The newest checkpoint below a folder.
    pub fn newest(&self, folder: &Path) -> Loaded {
        checkpoint::newest_valid(folder)
            .expect("readable")
            .loaded
            .expect("a checkpoint")
    }
}

impl Told {
    pub fn losses(&self) -> Vec<f64> {
        assert!(
            matches!(self.ending, Ending::Finished(_)),
            "{:?}",
            self.ending
        );
        self.steps(|loss, _| loss)
    }

    pub fn grad_norms(&self) -> Vec<f64> {
        self.steps(|_, norm| norm)
    }

    pub fn final_eval(&self) -> f64 {
        let eval = self.events.iter().find_map(|event| match event {
            Event::Eval {
                loss,
                is_final: true,
                ..
            } => Some(*loss),
            _ => None,
        });
        eval.expect("a final evaluation")
    }

    /// The text that the run ended with.
    pub fn sample(&self) -> String {
        let text = self.events.iter().find_map(|event| match event {
            Event::Sample { text, .. } => Some(text.clone()),
            _ => None,
        });
        text.expect("a sample")
    }

    /// Each step's parts by rank, and its time.
    pub fn parts(&self) -> Vec<(Vec<RankStep>, f64)> {
        let parts = self.events.iter().filter_map(|event| match event {
            Event::Step {
                ranks, step_time_s, ..
            } => Some((ranks.clone(), *step_time_s)),
            _ => None,
        });
        parts.collect()
    }

    pub fn finish(&self) -> &Finish {
        match &self.ending {
            Ending::Finished(finish) => finish,
            other => panic!("{other:?}"),
        }
    }

    fn steps(&self, pick: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let steps = self.events.iter().filter_map(|event| match event {
            Event::Step {
                loss, grad_norm, ..
            } => Some(pick(*loss, *grad_norm)),
            _ => None,
        });
        steps.collect()
    }
}

/// The largest relative difference.
pub fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs() / b.abs())
        .fold(0.0, f64::max)
}
