//! Weights that can't be used: each refused before anything starts, with what, where and what to try.

use std::{collections::BTreeMap, fs, path::Path};

use capstan::arch::{ModelShape, gpt::GptShape};
use libtest_mimic::{Failed, Trial};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::support::{Said, Workplace, check};

/// A way to spoil a good folder, how it is refused, and what of the config goes with it.
struct Case {
    name: &'static str,
    spoil: fn(&mut Folder),
    set: &'static [&'static str],
    code: i32,
    /// What stands on stderr, line by line, the folder's path as `DIR`.
    says: &'static [&'static str],
}

const OTHER_MODEL: &str = "give weights of the model that is trained";

const CASES: &[Case] = &[
    Case {
        name: "a wrong shape",
        spoil: |folder| folder.reshape("h.1.attn.c_attn.weight", &[48, 100]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has h.1.attn.c_attn.weight of shape [48, 100], this model's is [48, 144]; give the sizes of the weights' own model",
        ],
    },
    Case {
        name: "a matrix the other way round among others",
        spoil: |folder| folder.reshape("h.0.mlp.c_fc.weight", &[192, 48]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: h.0.mlp.c_fc.weight of shape [192, 48] in model.safetensors is stored the other way round, and h.0.attn.c_attn.weight of shape [48, 144] in model.safetensors is not: which way the square ones lie can't be told; give weights whose matrices all lie one way",
        ],
    },
    Case {
        name: "a missing tensor",
        spoil: |folder| folder.drop("ln_f.weight"),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: DIR has no ln_f.weight; give weights of the model that is trained",
        ],
    },
    Case {
        name: "an unknown tensor",
        spoil: |folder| folder.add("score.weight", Dtype::F32, &[2, 48]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has score.weight, which is no tensor of this model; take it out, or give weights of the model that is trained",
        ],
    },
    Case {
        name: "a misspelt tensor",
        spoil: |folder| folder.rename("h.2.ln_1.weight", "h.2.ln1.weight"),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: DIR has no h.2.ln_1.weight; give weights of the model that is trained",
            "init.pretrained: model.safetensors has h.2.ln1.weight, which is no tensor of this model; is it h.2.ln_1.weight?",
        ],
    },
    Case {
        name: "two tensors for one parameter",
        spoil: |folder| folder.add("transformer.wpe.weight", Dtype::F32, &[64, 48]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has wpe.weight, and model.safetensors has transformer.wpe.weight for the same parameter; leave one of them out",
        ],
    },
    Case {
        name: "integers",
        spoil: |folder| folder.add("ln_f.bias", Dtype::I32, &[48]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has ln_f.bias as I32; give F32, F16, BF16 or F64",
        ],
    },
    Case {
        name: "another vocabulary",
        spoil: |folder| folder.reshape("wte.weight", &[300, 48]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has wte.weight for a vocabulary of 300, this model's is 256; set model.gpt.vocab_size to 300 and take the weights' tokenizer",
        ],
    },
    Case {
        name: "a vocabulary below the padded table",
        spoil: |_| {},
        set: &["model.gpt.vocab_size=320"],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has wte.weight for a vocabulary of 256, this model's is 320; set model.gpt.vocab_size to 256 and take the weights' tokenizer",
        ],
    },
    Case {
        name: "another context",
        spoil: |_| {},
        set: &["model.gpt.seq_len=32"],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has wpe.weight for 64 positions, this model's seq_len is 32; set model.gpt.seq_len to 64",
        ],
    },
    Case {
        name: "another depth",
        spoil: |_| {},
        set: &["model.gpt.n_layer=2"],
        code: 2,
        says: &["model.gpt.n_layer: is 2, the weights have 3 layers; set it to 3"],
    },
    Case {
        name: "other heads",
        spoil: |_| {},
        set: &["model.gpt.n_head=6"],
        code: 2,
        says: &["model.gpt.n_head: is 6, the weights' config.json has 3; set it to 3"],
    },
    Case {
        name: "another activation",
        spoil: |folder| folder.sizes("activation_function", json!("relu")),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: the weights' config.json has activation_function \"relu\", capstan computes \"gelu_new\"; these weights can't be used",
        ],
    },
    Case {
        name: "another family",
        spoil: |folder| folder.sizes("model_type", json!("bert")),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: the weights' config.json has model_type \"bert\", model.gpt is \"gpt2\"; give weights of the model that is trained",
        ],
    },
    Case {
        name: "an untied head",
        spoil: |folder| folder.add("lm_head.weight", Dtype::F32, &[256, 48]),
        set: &[],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has a lm_head.weight that differs from wte.weight, and this model's head is tied; give weights with a tied head",
        ],
    },
    Case {
        name: "biases for a model without",
        spoil: |folder| folder.drop_zero_biases("h.0.attn.c_attn.bias"),
        set: &["model.gpt.bias=false"],
        code: 2,
        says: &[
            "init.pretrained: model.safetensors has h.0.attn.c_attn.bias, and this model has no biases; set model.gpt.bias to true",
        ],
    },
    Case {
        name: "a truncated file",
        spoil: |folder| folder.cut = Some(1000),
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/model.safetensors is cut short: it has 403336 bytes, its header states 404336; fetch the file again",
        ],
    },
    Case {
        name: "a header cut short",
        spoil: |folder| folder.cut = Some(403_000),
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/model.safetensors is cut short in its header: it has 1336 bytes; fetch the file again",
        ],
    },
    Case {
        name: "an index that names missing files",
        spoil: |folder| folder.parts = Some(&["a.safetensors", "b.safetensors", "c.safetensors"]),
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/b.safetensors is missing (model.safetensors.index.json names it); fetch the file again",
            "init.pretrained: DIR/c.safetensors is missing (model.safetensors.index.json names it); fetch the file again",
        ],
    },
    Case {
        name: "an index that leads elsewhere",
        spoil: |folder| folder.parts = Some(&["a.safetensors", "../b.safetensors"]),
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/model.safetensors.index.json names a file \"../b.safetensors\", which can't lie beside it; fetch the file again",
        ],
    },
    Case {
        name: "an index that is wrong about a tensor",
        spoil: |folder| {
            folder.parts = Some(&["a.safetensors"]);
            folder.indexed.push("h.9.ln_1.weight");
        },
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/model.safetensors.index.json says that a.safetensors holds h.9.ln_1.weight, and it does not; fetch the file again",
        ],
    },
    Case {
        name: "an index that is no JSON",
        spoil: |folder| {
            folder
                .others
                .push(("model.safetensors.index.json", "{ \"weight_map\": "))
        },
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/model.safetensors.index.json can't be read: EOF while parsing a value at line 1 column 16; fetch the file again",
        ],
    },
    Case {
        name: "a folder of pickles",
        spoil: |folder| folder.others.push(("pytorch_model.bin", "PK")),
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR holds neither model.safetensors nor model.safetensors.index.json; convert pytorch_model.bin with transformers' save_pretrained: capstan reads no pickles",
        ],
    },
    Case {
        name: "a pointer to the file",
        spoil: |folder| {
            folder.others.push((
                "model.safetensors",
                "version https://git-lfs.github.com/spec/v1\n",
            ))
        },
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/model.safetensors is a Git LFS pointer, not the weights themselves (git lfs pull fetches them); fetch the file again",
        ],
    },
    Case {
        name: "sizes that are no JSON",
        spoil: |folder| folder.sizes_text = Some("{"),
        set: &[],
        code: 5,
        says: &[
            "init.pretrained: DIR/config.json can't be read: EOF while parsing an object at line 1 column 1; fetch the file again",
        ],
    },
    Case {
        name: "no folder",
        spoil: |_| {},
        set: &["init.pretrained=/nowhere/weights"],
        code: 5,
        says: &[
            "init.pretrained: /nowhere/weights is missing; give a folder with model.safetensors, or a safetensors file",
        ],
    },
    Case {
        name: "several at once",
        spoil: |folder| {
            folder.reshape("h.1.attn.c_attn.weight", &[48, 100]);
            folder.rename("wpe.weight", "positions");
            folder.sizes("n_head", json!(12));
        },
        set: &[],
        code: 2,
        says: &[
            "model.gpt.n_head: is 3, the weights' config.json has 12; set it to 12",
            "init.pretrained: model.safetensors has h.1.attn.c_attn.weight of shape [48, 100], this model's is [48, 144]; give the sizes of the weights' own model",
            "init.pretrained: DIR has no wpe.weight; give weights of the model that is trained",
            "init.pretrained: model.safetensors has positions, which is no tensor of this model; take it out, or give weights of the model that is trained",
        ],
    },
    Case {
        name: "a bad config beside a bad file",
        spoil: |folder| folder.cut = Some(1000),
        set: &["optimizer.adamw.lr=-1"],
        code: 2,
        says: &[
            "optimizer.adamw.lr: is -1; give a number of at least 0, such as 0.001",
            "init.pretrained: DIR/model.safetensors is cut short: it has 403336 bytes, its header states 404336; fetch the file again",
        ],
    },
];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = CASES
        .iter()
        .map(|case| {
            let name = format!("refused_weights::{}", case.name);
            Trial::test(name, move || refused(case))
        })
        .collect();
    trials.push(Trial::test(
        "refused_weights::the_folder_is_good_before",
        unspoilt,
    ));
    trials.push(Trial::test(
        "refused_weights::many_of_a_kind_are_counted",
        many,
    ));
    trials
}

/// A folder in the making: a tiny GPT's tensors under Hugging Face's names, all zero, and its sizes.
struct Folder {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    sizes: serde_json::Value,
    sizes_text: Option<&'static str>,
    /// Bytes to leave out at the end.
    cut: Option<usize>,
    /// Names of parts in the index, of which only the first is written.
    parts: Option<&'static [&'static str]>,
    /// Further names in the index.
    indexed: Vec<&'static str>,
    /// Files instead of the weights.
    others: Vec<(&'static str, &'static str)>,
}

impl Folder {
    fn good() -> Self {
        let shape = ModelShape::Gpt(GptShape {
            n_layer: 3,
            n_head: 3,
            d_model: 48,
            seq_len: 64,
            vocab_size: 256,
            bias: true,
            dropout: 0.0,
        });
        let mut folder = Self {
            tensors: BTreeMap::new(),
            sizes: json!({ "model_type": "gpt2", "n_layer": 3, "n_head": 3, "n_embd": 48 }),
            sizes_text: None,
            cut: None,
            parts: None,
            indexed: Vec::new(),
            others: Vec::new(),
        };
        for param in shape.segments().iter().flat_map(|segment| &segment.params) {
            let shape: Vec<usize> = param.shape.iter().map(|&size| size as usize).collect();
            folder.add(&param.name, Dtype::F32, &shape);
        }
        folder
            .tensors
            .values_mut()
            .for_each(|(_, _, data)| data.fill(0));
        folder
    }

    fn add(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        let n_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let tensor = (dtype, shape.to_vec(), vec![1; n_bytes]);
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn reshape(&mut self, name: &str, shape: &[usize]) {
        self.add(name, Dtype::F32, shape);
    }

    fn drop(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    fn rename(&mut self, name: &str, new: &str) {
        if let Some(tensor) = self.tensors.remove(name) {
            self.tensors.insert(new.to_owned(), tensor);
        }
    }

    /// All biases are zero but one.
    fn drop_zero_biases(&mut self, but: &str) {
        if let Some((_, _, data)) = self.tensors.get_mut(but) {
            data[0] = 1;
        }
    }

    fn sizes(&mut self, key: &str, value: serde_json::Value) {
        self.sizes[key] = value;
    }

    fn write(&self, folder: &Path) -> Result<(), Failed> {
        fs::create_dir(folder)?;
        let sizes = self.sizes.to_string();
        fs::write(
            folder.join("config.json"),
            self.sizes_text.unwrap_or(&sizes),
        )?;
        for (name, text) in &self.others {
            fs::write(folder.join(name), text)?;
        }
        if !self.others.is_empty() {
            return Ok(());
        }
        let first = self.parts.map_or("model.safetensors", |parts| parts[0]);
        let path = folder.join(first);
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            Ok((name, TensorView::new(*dtype, shape.clone(), data)?))
        });
        safetensors::serialize_to_file(views.collect::<Result<Vec<_>, Failed>>()?, None, &path)?;
        if let Some(cut) = self.cut {
            let whole = fs::read(&path)?;
            fs::write(&path, &whole[..whole.len() - cut])?;
        }
        if let Some(parts) = self.parts {
            let names = self
                .tensors
                .keys()
                .map(String::as_str)
                .chain(self.indexed.iter().copied());
            let mut weight_map: BTreeMap<String, &str> =
                names.map(|name| (name.to_owned(), parts[0])).collect();
            weight_map.extend(parts[1..].iter().map(|part| (format!("of {part}"), *part)));
            let index = json!({ "metadata": {}, "weight_map": weight_map });
            fs::write(
                folder.join("model.safetensors.index.json"),
                index.to_string(),
            )?;
        }
        Ok(())
    }
}

fn train(place: &Workplace, folder: &Folder, set: &[&str]) -> Result<(Said, String), Failed> {
    let path = place.config.with_file_name("weights");
    folder.write(&path)?;
    let init = "init.pretrained=weights".to_owned();
    let mut command = place.train_command(&["--plain", "--set", &init]);
    for change in set {
        command.args(["--set", change]);
    }
    command.current_dir(path.parent().unwrap_or(&path));
    Ok((Said::from(command.output()?), path.display().to_string()))
}

fn refused(case: &Case) -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let mut folder = Folder::good();
    (case.spoil)(&mut folder);
    let (said, path) = train(&place, &folder, case.set)?;
    let said = said.ended_with(case.code)?;
    let lines: Vec<String> = said
        .err
        .lines()
        .map(|line| line.replace(&path, "DIR"))
        .collect();
    let expected: Vec<String> = case
        .says
        .iter()
        .map(|line| format!("error: {line}"))
        .collect();
    check(
        lines == expected,
        format!("{lines:#?}, expected {expected:#?}"),
    )?;
    let started = fs::read_dir(place.runs()).is_ok_and(|mut runs| runs.next().is_some());
    check(!started, "nothing has started")
}

/// Unspoilt, it is taken.
fn unspoilt() -> Result<(), Failed> {
    for set in [&[][..], &["model.gpt.bias=false"]] {
        let place = Workplace::new("well")?;
        let (said, _) = train(&place, &Folder::good(), &[set, &["log.every=1"]].concat())?;
        said.ended_with(0)?.says(&["tensors from "])?;
    }
    Ok(())
}

/// A model of another width is wrong in every tensor: the first ones stand for the others.
fn many() -> Result<(), Failed> {
    let place = Workplace::new("well")?;
    let (said, _) = train(&place, &Folder::good(), &["model.gpt.d_model=96"])?;
    let said = said.ended_with(2)?.says(&["(and 32 more like this)"])?;
    check(said.err.lines().count() == 8, said.err)?;
    check(!said.out.contains(OTHER_MODEL), said.out)
}
