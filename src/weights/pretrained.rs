//! Weights of another program under the names of a model's parameters.

use std::collections::{BTreeSet, HashMap, HashSet};

use safetensors::{Dtype, tensor::TensorView};

use super::{
    family::{self, Family, Sizes, layer_of, misfit},
    format::TensorFile,
    source::{Source, capped, capped_of},
};
use crate::{
    arch::{ModelShape, ParamSpec, Sharding},
    plan::{DataSummary, InitSummary, Refusal},
};

/// Number formats that can be read; all become the run's own.
const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];
/// Ends of names of constants that older files carry along.
const BUFFERS: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
const HEAD: &str = "lm_head.weight";

/// Initial weights: for each parameter of a model a tensor of its shape.
pub struct Pretrained {
    files: Vec<TensorFile>,
    /// By the parameter's name the file and the name in it.
    places: HashMap<String, (usize, String)>,
    /// Parameters whose matrices are stored the other way round: all linears, or none.
    turned: HashSet<String>,
    summary: InitSummary,
    vocab_size: usize,
    /// What is peculiar to the files.
    notes: Vec<String>,
}

/// A parameter as a file has it.
pub struct Stored<'a> {
    pub view: TensorView<'a>,
    /// The file has rows where the parameter has columns.
    pub is_turned: bool,
}

impl Pretrained {
    /// What the weights are, for the plan.
    pub fn summary(&self) -> &InitSummary {
        &self.summary
    }

    /// What a user should know of the weights, alone and with the data, though nothing is wrong with either.
    pub fn notes(&self, data: &DataSummary) -> Vec<String> {
        let (known, made) = (self.vocab_size, data.vocab_size);
        let strangers = (known != made).then(|| {
            format!("the weights know {known} tokens, the data's tokenizer makes {made}: they should belong together")
        });
        self.notes.iter().cloned().chain(strangers).collect()
    }

    /// The whole of a parameter.
    pub fn tensor(&self, param: &str) -> Option<Stored<'_>> {
        let (file, name) = self.places.get(param)?;
        Some(Stored {
            view: self.files[*file].tensor(name)?,
            is_turned: self.turned.contains(param),
        })
    }
}

impl Source {
    /// Gives each parameter of `model` its tensor.
    ///
    /// # Errors
    /// Everything in which the weights are of another model.
    pub fn fit(self, model: &ModelShape) -> Result<Pretrained, Vec<Refusal>> {
        let specs: Vec<ParamSpec> = model
            .segments()
            .into_iter()
            .flat_map(|segment| segment.params)
            .collect();
        let family = family::of(model);
        let mut fitting = Fitting {
            source: &self,
            family: family.as_ref(),
            specs: &specs,
            numbers: (specs.iter().map(|spec| spec.name.clone()))
                .zip(0..)
                .collect(),
            places: HashMap::new(),
            turned: HashSet::new(),
            misnamed: Vec::new(),
            notes: Vec::new(),
        };
        let refusals = fitting.refusals();
        let (places, turned, notes) = (fitting.places, fitting.turned, fitting.notes);
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let infos = places
            .values()
            .filter_map(|(file, name)| self.files[*file].info(name));
        let dtypes: BTreeSet<String> = infos.map(|info| format!("{:?}", info.dtype)).collect();
        let summary = InitSummary {
            path: self.path,
            n_files: self.files.len(),
            n_tensors: places.len(),
            dtypes: dtypes.into_iter().collect(),
        };
        Ok(Pretrained {
            files: self.files,
            places,
            turned,
            summary,
            vocab_size: model.vocab_size(),
            notes,
        })
    }
}

/// Files and a model on their way to each other.
struct Fitting<'a> {
    source: &'a Source,
    family: &'a dyn Family,
    specs: &'a [ParamSpec],
    /// Where each parameter stands in `specs`.
    numbers: HashMap<String, usize>,
    places: HashMap<String, (usize, String)>,
    turned: HashSet<String>,
    misnamed: Vec<Refusal>,
    notes: Vec<String>,
}

impl Fitting<'_> {
    fn refusals(&mut self) -> Vec<Refusal> {
        let mut refusals = self.other_model();
        if !refusals.is_empty() {
            return refusals;
        }
        let n_layer = self.layers();
        let is_shared = |name: &str| {
            layer_of(name).is_none_or(|layer| layer < n_layer.min(self.family.n_layer()))
        };
        let mut unknown = Vec::new();
        for (name, file) in &self.source.tensors {
            if self.take(name, *file) || self.may_be_left(name, *file) {
                continue;
            }
            if is_shared(name) {
                unknown.push((name, *file));
            }
        }
        let head = self
            .head()
            .and_then(|(head, file)| self.take_head(head, file));
        refusals.extend(self.other_depth(n_layer));
        refusals.extend(self.settings());
        refusals.extend(self.orient());
        self.own_head();
        let misnamed = std::mem::take(&mut self.misnamed);
        refusals.extend(capped(misnamed));
        refusals.extend(capped(
            self.specs
                .iter()
                .filter_map(|spec| self.of_other_kind(spec)),
        ));
        let missing = self
            .specs
            .iter()
            .filter(|spec| !self.places.contains_key(&spec.name));
        let missing = missing.filter(|spec| is_shared(&spec.name));
        refusals.extend(capped(missing.map(|spec| self.missing(spec))));
        refusals.extend(capped_of(unknown, |(name, file)| self.unknown(name, file)));
        refusals.extend(head);
        refusals
    }

    /// Of another family nothing fits, and nothing else is worth saying.
    fn other_model(&self) -> Vec<Refusal> {
        let stated = self
            .source
            .sizes
            .as_ref()
            .and_then(|sizes| sizes["model_type"].as_str());
        let ours = self.family.model_type();
        let other = stated.filter(|&stated| stated != ours).map(|stated| {
            let problem = format!(
                "the weights' config.json has model_type \"{stated}\", {} is \"{ours}\"",
                self.family.key()
            );
            misfit(problem, "give weights of the model that is trained")
        });
        other.into_iter().collect()
    }

    fn settings(&self) -> Vec<Refusal> {
        let sizes = self.source.sizes.as_ref();
        sizes.map_or_else(Vec::new, |sizes| self.family.differences(&Sizes(sizes)))
    }

    /// Layers in the files.
    fn layers(&self) -> usize {
        let layers = self
            .source
            .tensors
            .iter()
            .filter_map(|(name, _)| layer_of(name));
        layers.max().map_or(0, |last| last.saturating_add(1))
    }

    /// Said once, not for each tensor that is too many or missing.
    fn other_depth(&self, theirs: usize) -> Option<Refusal> {
        let ours = self.family.n_layer();
        (theirs > 0 && theirs != ours).then(|| Refusal {
            path: format!("{}.n_layer", self.family.key()),
            ..misfit(
                format!("is {ours}, the weights have {theirs} layers"),
                format!("set it to {theirs}"),
            )
        })
    }

    fn spec(&self, name: &str) -> Option<&ParamSpec> {
        let candidates = self.family.candidates(name).into_iter();
        let numbers = candidates.filter_map(|name| self.numbers.get(&name).copied());
        numbers.min().map(|number| &self.specs[number])
    }

    /// Whether the tensor is one of the model's.
    fn take(&mut self, name: &str, file: usize) -> bool {
        let Some(param) = self.spec(name).map(|spec| spec.name.clone()) else {
            return false;
        };
        if let Some((other, known)) = self.places.get(&param) {
            let problem = format!(
                "{} has {name}, and {} has {known} for the same parameter",
                self.source.files[file].name(),
                self.source.files[*other].name()
            );
            self.misnamed.push(misfit(problem, "leave one of them out"));
        } else {
            self.places.insert(param, (file, name.to_owned()));
        }
        true
    }

    /// Constants, biases of zero where the model has none, and a tied head, which is looked at when all are known.
    fn may_be_left(&self, name: &str, file: usize) -> bool {
        let is_tied_head = name == HEAD && self.vocabulary().is_some();
        is_tied_head
            || BUFFERS.iter().any(|end| name.ends_with(end))
            || self.is_idle_bias(name, file)
    }

    fn is_idle_bias(&self, name: &str, file: usize) -> bool {
        let data = self.source.files[file].tensor(name);
        let is_zero = || data.is_some_and(|tensor| tensor.data().iter().all(|&byte| byte == 0));
        self.lacks_bias(name) && is_zero()
    }

    /// Whether the model has the matrix of this name, and no bias with it.
    fn lacks_bias(&self, name: &str) -> bool {
        let matrix = name
            .strip_suffix(".bias")
            .map(|stem| format!("{stem}.weight"));
        matrix.is_some_and(|matrix| self.spec(&matrix).is_some())
    }

    /// The table that a tied head multiplies with.
    fn vocabulary(&self) -> Option<&ParamSpec> {
        let has_head = self.specs.iter().any(|spec| spec.name == HEAD);
        let table = self
            .specs
            .iter()
            .find(|spec| spec.sharding == Sharding::Vocab);
        table.filter(|_| !has_head)
    }

    fn head(&self) -> Option<(&'static str, usize)> {
        self.vocabulary()?;
        let held = self.source.tensors.iter().find(|(name, _)| name == HEAD)?;
        Some((HEAD, held.1))
    }

    /// A head that the model ties: the table itself where the files leave that out, else equal to it.
    fn take_head(&mut self, head: &str, file: usize) -> Option<Refusal> {
        let table = self.vocabulary()?.name.clone();
        let Some((other, name)) = self.places.get(&table) else {
            self.places.insert(table, (file, head.to_owned()));
            return None;
        };
        let ours = self.source.files[*other].tensor(name)?;
        let theirs = self.source.files[file].tensor(head)?;
        let is_same = (ours.dtype(), ours.shape(), ours.data())
            == (theirs.dtype(), theirs.shape(), theirs.data());
        (!is_same).then(|| {
            let problem = format!(
                "{} has a {head} that differs from {name}, and this model's head is tied",
                self.source.files[file].name()
            );
            misfit(problem, self.family.untied())
        })
    }

    fn unknown(&self, name: &str, file: usize) -> Refusal {
        let file = self.source.files[file].name();
        if self.lacks_bias(name) {
            let problem = format!("{file} has {name}, and this model has no biases");
            return misfit(problem, self.family.biased());
        }
        let names = self.specs.iter().map(|spec| spec.name.as_str());
        let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(name, known));
        let problem = format!("{file} has {name}, which is no tensor of this model");
        let remedy = match nearest {
            Some(nearest) if strsim::damerau_levenshtein(name, nearest) <= name.len() / 4 => {
                format!("is it {nearest}?")
            }
            _ => "take it out, or give weights of the model that is trained".to_owned(),
        };
        misfit(problem, remedy)
    }

    fn missing(&self, spec: &ParamSpec) -> Refusal {
        let problem = format!("{} has no {}", self.source.path.display(), spec.name);
        misfit(problem, self.family.absent(&spec.name))
    }

    /// What is wrong with the tensor that has the parameter's name.
    fn of_other_kind(&self, spec: &ParamSpec) -> Option<Refusal> {
        let (file, name) = self.places.get(&spec.name)?;
        let info = self.source.files[*file].info(name)?;
        let file = self.source.files[*file].name();
        if !DTYPES.contains(&info.dtype) {
            let problem = format!("{file} has {name} as {:?}", info.dtype);
            return Some(misfit(problem, "give F32, F16, BF16 or F64"));
        }
        let mut theirs = sizes(&info.shape);
        let ours = &spec.shape;
        if self.turned.contains(&spec.name) {
            theirs.reverse();
        }
        if theirs == *ours {
            return None;
        }
        let theirs = sizes(&info.shape);
        // Of matrices that lie both ways, `orient` has told.
        if is_linear(spec) && self.lies(spec, Way::Turned) {
            return None;
        }
        let only_rows = theirs.len() == ours.len() && theirs[1..] == ours[1..];
        let (rows, own_rows) = (theirs.first().copied().unwrap_or(0), ours[0]);
        if only_rows && spec.sharding == Sharding::Vocab {
            let problem =
                format!("{file} has {name} for a vocabulary of {rows}, this model's is {own_rows}");
            let remedy = format!(
                "set {}.vocab_size to {rows} and take the weights' tokenizer",
                self.family.key()
            );
            return Some(misfit(problem, remedy));
        }
        if only_rows && name.ends_with("wpe.weight") {
            let problem = format!(
                "{file} has {name} for {rows} positions, this model's seq_len is {own_rows}"
            );
            return Some(misfit(
                problem,
                format!("set {}.seq_len to {rows}", self.family.key()),
            ));
        }
        Some(misfit(
            format!("{file} has {name} of shape {theirs:?}, this model's is {ours:?}"),
            "give the sizes of the weights' own model",
        ))
    }

    /// Decides once for all linears how they are stored: by those that are not square, since a square one fits either
    /// way. The square ones follow.
    fn orient(&mut self) -> Option<Refusal> {
        let linears: Vec<&ParamSpec> = self.specs.iter().filter(|spec| is_linear(spec)).collect();
        let turned = linears.iter().find(|spec| self.lies(spec, Way::Turned));
        let straight = linears.iter().find(|spec| self.lies(spec, Way::Straight));
        match (turned, straight) {
            (None, _) => None,
            (Some(_), None) => {
                let names = linears.iter().map(|spec| spec.name.clone());
                self.turned = names.collect();
                self.notes.push(format!(
                    "{} stores matrices the other way round: all {} of its linear layers are transposed at load",
                    self.source.path.display(),
                    self.turned.len()
                ));
                None
            }
            (Some(turned), Some(straight)) => Some(self.contradiction(turned, straight)),
        }
    }

    /// Whether the tensor of a linear is stored one way and can't be stored the other.
    fn lies(&self, spec: &ParamSpec, way: Way) -> bool {
        let Some((file, name)) = self.places.get(&spec.name) else {
            return false;
        };
        let info = self.source.files[*file].info(name);
        let theirs = info.map(|info| sizes(&info.shape)).unwrap_or_default();
        let other: Vec<i64> = spec.shape.iter().rev().copied().collect();
        other != spec.shape
            && match way {
                Way::Straight => theirs == spec.shape,
                Way::Turned => theirs == other,
            }
    }

    fn contradiction(&self, turned: &ParamSpec, straight: &ParamSpec) -> Refusal {
        let told = |spec: &ParamSpec| {
            let place = self.places.get(&spec.name);
            place.map_or_else(String::new, |(file, name)| {
                let file = &self.source.files[*file];
                let shape = file.info(name).map(|info| sizes(&info.shape));
                let shape = shape.unwrap_or_default();
                format!("{name} of shape {shape:?} in {}", file.name())
            })
        };
        misfit(
            format!(
                "{} is stored the other way round, and {} is not: which way the square ones lie can't be told",
                told(turned),
                told(straight)
            ),
            "give weights whose matrices all lie one way",
        )
    }

    /// Says where the files have a head of their own although their config calls it tied.
    fn own_head(&mut self) {
        let theirs = self.source.sizes.as_ref();
        let is_tied = theirs.is_some_and(|sizes| sizes["tie_word_embeddings"] == true);
        let is_own = self.specs.iter().any(|spec| spec.name == HEAD);
        if let Some((file, name)) = self.places.get(HEAD)
            && is_tied
            && is_own
        {
            self.notes.push(format!(
                "the weights' config.json says that the head is tied, and {} has {name}: it is trained as a head of its own",
                self.source.files[*file].name()
            ));
        }
    }
}

/// The two ways in which a matrix can be stored.
#[derive(Clone, Copy)]
enum Way {
    Straight,
    Turned,
}

/// A matrix that activations are multiplied with; tables, whose rows are looked up, have one way to lie.
fn is_linear(spec: &ParamSpec) -> bool {
    let is_split = matches!(spec.sharding, Sharding::Split { .. });
    spec.shape.len() == 2 && (is_split || spec.name == HEAD)
}

fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&size| size as i64).collect()
}
