//! A run that goes on does so exactly, and never from something damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use capstan::{
    checkpoint::{self, CheckpointError, LoadError},
    engine::Finish,
    event::{Control, Event},
};
use libtest_mimic::{Failed, Trial};
use safetensors::SafeTensors;

use crate::in_process::{Bench, OnEvent, Setting, apart};

/// Six steps of AdamW with accumulation over two ranks; a checkpoint after the third.
const CHANGES: [&str; 5] = [
    "precision=fp32",
    "parallel.dp=2",
    "batch.micro=2",
    "checkpoint.every=3",
    "model.gpt.dropout=0.1",
];

/// What a test does to a saved state.
type Spoil = fn(&mut checkpoint::Manifest, &mut Vec<u8>);
type Damage = fn(&Path);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("resume::the_same_split_goes_on_bit_for_bit", same_split),
        Trial::test("resume::lanes_go_on_bit_for_bit", with_lanes),
        Trial::test("resume::another_split_goes_on_within_rounding", other_split),
        Trial::test(
            "resume::every_piece_of_the_state_matters",
            every_piece_matters,
        ),
        Trial::test(
            "resume::a_stop_saves_and_goes_on_bit_for_bit",
            stop_and_go_on,
        ),
        Trial::test(
            "resume::damage_is_found_and_the_one_before_is_used",
            damage_is_found,
        ),
        Trial::test("resume::all_damaged_is_an_error", all_damaged),
        Trial::test("resume::another_model_is_refused", other_model),
        Trial::test("resume::the_best_and_the_newest_are_kept", retention),
        Trial::test(
            "resume::no_number_is_ever_saved_that_is_none",
            nan_is_never_saved,
        ),
        Trial::test("resume::a_failed_save_leaves_nothing_behind", failed_save),
        full_disk_trial(),
    ]
}

/// Trains all six steps; returns the losses and the folder of checkpoints.
fn whole_run(bench: &Bench, name: &str) -> (Vec<f64>, PathBuf) {
    let folder = bench.path(name);
    let told = bench.run(
        &CHANGES,
        Setting {
            checkpoints: Some(folder.clone()),
            ..Setting::default()
        },
    );
    (told.losses(), folder)
}

fn step_3(folder: &Path) -> PathBuf {
    folder.join("step-00000003")
}

fn go_on(bench: &Bench, from: &Path, changes: &[&str]) -> Vec<f64> {
    let resume = checkpoint::open(from).expect("a good checkpoint");
    bench
        .run(
            changes,
            Setting {
                resume: Some(resume),
                ..Setting::default()
            },
        )
        .losses()
}

fn same_split() -> Result<(), Failed> {
    let bench = Bench::new();
    let (whole, folder) = whole_run(&bench, "a");
    assert_eq!(go_on(&bench, &step_3(&folder), &CHANGES), whole[3..]);
    Ok(())
}

fn with_lanes() -> Result<(), Failed> {
    let bench = Bench::new();
    let changes = [
        CHANGES[0],
        CHANGES[2],
        CHANGES[3],
        CHANGES[4],
        "threads_per_rank=2",
    ];
    let folder = bench.path("lanes");
    let told = bench.run(
        &changes,
        Setting {
            checkpoints: Some(folder.clone()),
            ..Setting::default()
        },
    );
    assert_eq!(
        go_on(&bench, &step_3(&folder), &changes),
        told.losses()[3..]
    );
    Ok(())
}

fn other_split() -> Result<(), Failed> {
    let bench = Bench::new();
    let (whole, folder) = whole_run(&bench, "a");
    for changes in [
        ["parallel.dp=1", "batch.micro=8"],
        ["parallel.dp=4", "batch.micro=1"],
    ] {
        let changes = [CHANGES[0], CHANGES[4], changes[0], changes[1]];
        let difference = apart(&go_on(&bench, &step_3(&folder), &changes), &whole[3..]);
        assert!(difference < 1e-5, "{changes:?}: {difference:e}");
    }
    Ok(())
}

/// Each change to what was saved must show in the losses that follow.
fn every_piece_matters() -> Result<(), Failed> {
    let bench = Bench::new();
    let (whole, folder) = whole_run(&bench, "a");
    let pieces: [(&str, Spoil); 3] = [
        ("exp_avg.", |_, optimizer| {
            zero(optimizer, "exp_avg.h.0.mlp.c_fc.weight")
        }),
        ("exp_avg_sq.", |_, optimizer| {
            zero(optimizer, "exp_avg_sq.h.0.mlp.c_fc.weight")
        }),
        ("step", |manifest, _| manifest.step = 2),
    ];
    for (piece, spoil) in pieces {
        let spoiled = bench.path(piece);
        copy(&step_3(&folder), &spoiled);
        let mut manifest = checkpoint::open(&spoiled).expect("a good copy").manifest;
        let mut optimizer = fs::read(spoiled.join("optimizer.safetensors"))?;
        spoil(&mut manifest, &mut optimizer);
        seal(&spoiled, manifest, &optimizer);
        let losses = go_on(&bench, &spoiled, &CHANGES);
        assert_ne!(
            losses[..3.min(losses.len())],
            whole[3..],
            "{piece} left out goes unnoticed"
        );
    }
    Ok(())
}

fn stop_and_go_on() -> Result<(), Failed> {
    let bench = Bench::new();
    let (whole, _) = whole_run(&bench, "a");
    let folder = bench.path("stopped");
    let setting = Setting {
        checkpoints: Some(folder.clone()),
        controls: vec![Control::Stop],
        ..Setting::default()
    };
    let stopped = bench.run(&CHANGES, setting);
    let Finish::Stopped {
        step,
        unsaved: None,
    } = *stopped.finish()
    else {
        return Err(format!("{:?}", stopped.finish()).into());
    };
    let n_before = stopped.losses().len();
    assert!(
        step as usize == n_before && n_before < 6,
        "stopped after step {step}"
    );
    let loaded = bench.newest(&folder);
    assert_eq!(loaded.manifest.step, step);
    let after = bench
        .run(
            &CHANGES,
            Setting {
                resume: Some(loaded),
                ..Setting::default()
            },
        )
        .losses();
    assert_eq!([stopped.losses(), after].concat(), whole);
    Ok(())
}

fn damage_is_found() -> Result<(), Failed> {
    let bench = Bench::new();
    let (_, folder) = whole_run(&bench, "a");
    let newest = folder.join("step-00000006");
    let damages: [(&str, Damage); 8] = [
        ("a flipped bit in the weights", |folder| {
            flip(&folder.join("model.safetensors"), 5_000)
        }),
        ("a flipped bit in the header", |folder| {
            flip(&folder.join("model.safetensors"), 20)
        }),
        ("a flipped bit in the optimizer's state", |folder| {
            flip(&folder.join("optimizer.safetensors"), 9_000)
        }),
        ("a flipped bit in the manifest", |folder| {
            flip(&folder.join("manifest.json"), 300)
        }),
        ("a truncated file", |folder| {
            truncate(&folder.join("model.safetensors"))
        }),
        ("a truncated manifest", |folder| {
            truncate(&folder.join("manifest.json"))
        }),
        ("a missing file", |folder| {
            fs::remove_file(folder.join("optimizer.safetensors")).expect("removed")
        }),
        ("swapped files", |folder| {
            let (a, b) = (
                folder.join("model.safetensors"),
                folder.join("optimizer.safetensors"),
            );
            fs::rename(&a, folder.join("c"))
                .and_then(|()| fs::rename(&b, &a))
                .expect("renamed");
            fs::rename(folder.join("c"), b).expect("renamed");
        }),
    ];
    for (what, damage) in damages {
        let copy_of = bench.path(what);
        copy(&folder, &copy_of);
        damage(&copy_of.join(newest.file_name().expect("a name")));
        let found = checkpoint::newest_valid(&copy_of)?;
        assert_eq!(
            found.loaded.map(|loaded| loaded.manifest.step),
            Some(3),
            "{what}"
        );
        assert_eq!(found.rejections.len(), 1, "{what}");
    }
    Ok(())
}

fn all_damaged() -> Result<(), Failed> {
    let bench = Bench::new();
    let (_, folder) = whole_run(&bench, "a");
    for (_, path) in checkpoint::steps(&folder)? {
        flip(&path.join("model.safetensors"), 4_000);
    }
    let error = checkpoint::newest_valid(&folder)
        .err()
        .expect("nothing can be used");
    assert!(
        matches!(&error, LoadError::AllRejected { rejections, .. } if rejections.len() == 2),
        "{error}"
    );
    Ok(())
}

fn other_model() -> Result<(), Failed> {
    let bench = Bench::new();
    let (_, folder) = whole_run(&bench, "a");
    let facts = |changes: &[&str]| {
        let config = bench.config(changes);
        let names = capstan::optim::state_names(&config.optimizer);
        checkpoint::RunFacts::of(&bench.plan(&config).0, config.seed, names)
    };
    let saved = bench.newest(&folder).manifest.run;
    assert_eq!(saved.obstacle(&facts(&CHANGES)), None);
    assert!(
        saved
            .obstacle(&facts(&["model.gpt.n_layer=3"]))
            .is_some_and(|why| why.contains("model"))
    );
    assert!(
        saved
            .obstacle(&facts(&["optimizer.sgd.lr=0.1"]))
            .is_some_and(|why| why.contains("optimizer"))
    );
    assert!(saved.differences(&facts(&CHANGES)).is_empty());
    assert!(!saved.differences(&facts(&["seed=5"])).is_empty());
    Ok(())
}

fn retention() -> Result<(), Failed> {
    let bench = Bench::new();
    let folder = bench.path("kept");
    // The rate rises until training diverges, so that the best evaluation is an early one.
    let changes = [
        "stop.steps=12",
        "checkpoint.every=1",
        "eval.every=1",
        "precision=fp32",
        "optimizer.adamw.lr=0.3",
    ];
    let told = bench.run(
        &changes,
        Setting {
            checkpoints: Some(folder.clone()),
            ..Setting::default()
        },
    );
    told.losses();
    let evals = told.events.iter().filter_map(|event| match event {
        Event::Eval {
            step,
            loss,
            is_final: false,
            ..
        } => Some((*step, *loss)),
        _ => None,
    });
    let best = evals
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .expect("evaluations")
        .0;
    let mut expected = vec![best, 11, 12];
    expected.dedup();
    let kept: Vec<u64> = checkpoint::steps(&folder)?
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(kept, expected);
    let mut told_of = Vec::new();
    for event in &told.events {
        if let Event::Checkpoint { step, deleted, .. } = event {
            told_of.retain(|step| !deleted.contains(step));
            told_of.push(*step);
        }
    }
    assert_eq!(told_of, expected, "what is deleted is told");
    Ok(())
}

fn nan_is_never_saved() -> Result<(), Failed> {
    let bench = Bench::new();
    let folder = bench.path("nan");
    let setting = Setting {
        checkpoints: Some(folder.clone()),
        inject: Some("1:4:nan-grad"),
        ..Setting::default()
    };
    let changes = [CHANGES[0], CHANGES[1], "checkpoint.every=1"];
    let told = bench.run(&changes, setting);
    assert!(
        matches!(told.ending, capstan::engine::Ending::Faulted(_)),
        "the fault fired"
    );
    for (step, path) in checkpoint::steps(&folder)? {
        let loaded = checkpoint::open(&path).expect("a good checkpoint");
        assert!(step < 4, "step {step} was saved");
        let model = loaded.tensors("model.safetensors")?;
        let values = model.tensor("wte.weight")?;
        assert!(
            values
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .all(|&x| f32::from_le_bytes(x).is_finite())
        );
    }
    Ok(())
}

fn failed_save() -> Result<(), Failed> {
    let bench = Bench::new();
    let (_, folder) = whole_run(&bench, "a");
    let before = checkpoint::steps(&folder)?;
    let manifest = checkpoint::open(&step_3(&folder))
        .expect("a good checkpoint")
        .manifest;
    // The second file can't be created: it has the first one's name.
    let file = || checkpoint::SnapshotFile {
        name: "model.safetensors",
        tensors: Vec::new(),
    };
    let snapshot = checkpoint::Snapshot {
        files: vec![file(), file()],
    };
    let failed =
        checkpoint::publish(&folder, &snapshot, manifest).expect_err("the file is there already");
    assert!(matches!(failed, CheckpointError::Io { .. }), "{failed}");
    assert_eq!(checkpoint::steps(&folder)?, before);
    assert_eq!(
        fs::read_dir(&folder)?.count(),
        before.len(),
        "nothing half-written is left"
    );
    Ok(())
}

/// Needs a small file system of its own, which only root can mount.
fn full_disk_trial() -> Trial {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = |arguments: &[&str]| {
        let status = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let can_mount = mount(&["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs"]);
    if can_mount {
        mount(&["umount"]);
    }
    let why = if can_mount {
        ""
    } else {
        " (needs the right to mount)"
    };
    Trial::test(
        format!("resume::a_full_disk_pauses_the_run{why}"),
        move || full_disk(folder.path()),
    )
    .with_ignored_flag(!can_mount)
}

/// Promise P13: the disk is full at the first save; space comes; no step is lost.
fn full_disk(folder: &Path) -> Result<(), Failed> {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=10m", "tmpfs"])
        .arg(folder)
        .status()?;
    assert!(mounted.success());
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![0u8; 8 << 20])?;
    let bench = Bench::new();
    let make_room: OnEvent = Box::new(move |event| {
        if matches!(event, Event::Paused { .. }) {
            fs::remove_file(&ballast).expect("removed");
        }
    });
    let checkpoints = folder.join("checkpoints");
    let setting = Setting {
        checkpoints: Some(checkpoints.clone()),
        on_event: Some(make_room),
        ..Setting::default()
    };
    let told = bench.run(&CHANGES, setting);
    let steps = checkpoint::steps(&checkpoints)?;
    let unmounted = Command::new("umount").arg(folder).status()?;
    assert!(unmounted.success());
    assert_eq!(told.losses(), whole_run(&bench, "a").0);
    let named = |is: fn(&Event) -> bool| told.events.iter().filter(|event| is(event)).count();
    assert_eq!(named(|event| matches!(event, Event::Paused { step: 3 })), 1);
    assert_eq!(
        named(|event| matches!(event, Event::Continued { step: 3 })),
        1
    );
    assert_eq!(steps.len(), 2);
    Ok(())
}

/// Replaces a tensor's values by zeros.
fn zero(file: &mut [u8], name: &str) {
    let (start, len) = {
        let read = SafeTensors::deserialize(file).expect("well-formed");
        let data = read.tensor(name).expect("there").data();
        (data.as_ptr() as usize - file.as_ptr() as usize, data.len())
    };
    file[start..start + len].fill(0);
}

/// Writes a changed optimizer file and a manifest whose checksums fit it.
fn seal(folder: &Path, mut manifest: checkpoint::Manifest, optimizer: &[u8]) {
    fs::write(folder.join("optimizer.safetensors"), optimizer).expect("written");
    let sum = manifest
        .files
        .get_mut("optimizer.safetensors")
        .expect("listed");
    sum.crc32c = optimizer.chunks(4 << 20).map(crc32c::crc32c).collect();
    fs::write(
        folder.join("manifest.json"),
        manifest.to_text().expect("JSON"),
    )
    .expect("written");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("readable").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn flip(file: &Path, byte: usize) {
    let mut bytes = fs::read(file).expect("readable");
    bytes[byte] ^= 1;
    fs::write(file, bytes).expect("written");
}

fn truncate(file: &Path) {
    let bytes = fs::read(file).expect("readable");
    fs::write(file, &bytes[..bytes.len() / 2]).expect("written");
}
