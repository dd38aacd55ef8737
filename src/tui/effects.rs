//! What the update function asked for, done on threads, so that no key waits for a disk or a run.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender, SyncSender},
    },
    thread,
};

use super::{
    app::{Effect, Msg},
    checks::Checker,
    draft::{Draft, Problem},
    picker::Asked,
    recording, sources,
    tail::tail,
    written,
};
use crate::{
    base::text::printable,
    event::{Control, Event},
    launch::{RunFolder, control, in_full, names::Wanted, runs, start},
};

/// Does effects; its threads end when it does.
pub struct Doer {
    runs_dir: PathBuf,
    to: SyncSender<Msg>,
    stop_tail: Arc<AtomicBool>,
    stop_details: Arc<AtomicBool>,
    checks: Sender<Work>,
    looks: Sender<Asked>,
}

/// Work for the thread that knows data and machine.
enum Work {
    Check(Box<Draft>),
    Launch(Box<Draft>),
}

impl Doer {
    /// Starts to look at the runs folder; what is found goes `to` the loop.
    pub fn new(runs_dir: &Path, is_recording: bool, to: SyncSender<Msg>) -> Self {
        if !is_recording {
            let (folder, news) = (runs_dir.to_owned(), to.clone());
            thread::spawn(move || sources::scan(&folder, &news));
        }
        let (checks, work) = mpsc::channel();
        let (folder, news) = (runs_dir.to_owned(), to.clone());
        thread::spawn(move || check_all(&folder, &work, &news));
        let (looks, asked) = mpsc::channel();
        let news = to.clone();
        thread::spawn(move || look_at_all(&asked, &news));
        Self {
            runs_dir: runs_dir.to_owned(),
            to,
            stop_tail: Arc::default(),
            stop_details: Arc::default(),
            checks,
            looks,
        }
    }

    /// Starts an effect; those of the terminal itself are the loop's.
    pub fn start(&mut self, effect: Effect) {
        let to = self.to.clone();
        let runs_dir = self.runs_dir.clone();
        match effect {
            Effect::Play => {
                thread::spawn(move || recording::play(&to));
            }
            Effect::Watch(folder, watch) => self.watch(folder, watch),
            Effect::Check(draft) => {
                let _ = self.checks.send(Work::Check(draft));
            }
            Effect::Launch(draft) => {
                let _ = self.checks.send(Work::Launch(draft));
            }
            Effect::Control(folder, order) => {
                self.spawn(move || Msg::Said(send(&folder, order)));
            }
            Effect::Resume(folder) => self.spawn(move || {
                let name = runs::shortly(&runs_dir, &folder);
                Msg::Started(match runs::resume(&folder, &name) {
                    Ok(supervisor) => {
                        reap(supervisor);
                        Ok((folder, None))
                    }
                    Err(error) => Err(in_full(&error)),
                })
            }),
            Effect::Delete(folder) => self.spawn(move || {
                let deleted = runs::delete(&folder);
                Msg::Said(match deleted {
                    Ok(()) => Ok(format!("deleted {}", folder.root().display())),
                    Err(error) => Err(in_full(&error)),
                })
            }),
            Effect::Details { folder, against } => self.details(folder, against),
            Effect::Sample { folder, is_running } => {
                self.spawn(move || match sample(&folder, is_running) {
                    Ok(text) => Msg::Text {
                        title: format!("Sample of {}", folder.name()),
                        text,
                    },
                    Err(text) => Msg::Said(Err(text)),
                });
            }
            Effect::Look(asked) => {
                let _ = self.looks.send(asked);
            }
            Effect::Complete(typed) => self.spawn(move || {
                let (whole, names) = sources::completed(&typed);
                Msg::Completed {
                    typed,
                    whole,
                    names,
                }
            }),
            Effect::Reopen { folder, name } => self.spawn(move || Msg::Opened {
                from: None,
                text: sources::renamed(&folder, name),
            }),
            Effect::OpenFile(path) => self.spawn(move || written::read(path)),
            Effect::Write {
                path,
                root,
                replaces,
            } => self.spawn(move || written::write(path, root, replaces)),
            Effect::Suspend
            | Effect::Leave
            | Effect::Redraw
            | Effect::Copy(_)
            | Effect::Mouse(_)
            | Effect::Edit(_) => drop(to),
        }
    }

    fn spawn(&self, work: impl FnOnce() -> Msg + Send + 'static) {
        let to = self.to.clone();
        thread::spawn(move || {
            // Nobody listens where the UI has left.
            let _ = to.send(work());
        });
    }

    fn watch(&mut self, folder: RunFolder, watch: u64) {
        self.stop_tail.store(true, Ordering::Relaxed);
        self.stop_tail = Arc::default();
        let (stop, to) = (Arc::clone(&self.stop_tail), self.to.clone());
        thread::spawn(move || tail(&folder, watch, &stop, &to));
    }

    /// Only the newest question is answered: a long log takes seconds.
    fn details(&mut self, folder: RunFolder, against: Option<RunFolder>) {
        self.stop_details.store(true, Ordering::Relaxed);
        self.stop_details = Arc::default();
        let (stop, to) = (Arc::clone(&self.stop_details), self.to.clone());
        thread::spawn(move || {
            if let Some(details) = sources::details(&folder, against.as_ref(), &stop) {
                let _ = to.send(Msg::Details(Box::new(details)));
            }
        });
    }
}

fn check_all(runs_dir: &Path, work: &mpsc::Receiver<Work>, to: &SyncSender<Msg>) {
    let news = to.clone();
    let mut checker = Checker::new(runs_dir.to_owned(), move |text| {
        // Nobody listens where the UI has left.
        let _ = news.send(Msg::Checking(text));
    });
    while let Ok(mut next) = work.recv() {
        // Only the newest of several drafts matters; a launch behind them is of its own.
        let mut launched = None;
        while let (Work::Check(_), None) = (&next, &launched) {
            match work.try_recv() {
                Ok(Work::Launch(draft)) => launched = Some(draft),
                Ok(newer) => next = newer,
                Err(_) => break,
            }
        }
        let mut todo = vec![next];
        todo.extend(launched.map(Work::Launch));
        for work in todo {
            let said = match work {
                Work::Check(draft) => Msg::Checked(Box::new(checker.check(&draft))),
                Work::Launch(draft) => {
                    let started = launch(runs_dir, &mut checker, &draft);
                    Msg::Started(started.map(|folder| (folder, Some(draft.root))))
                }
            };
            if to.send(said).is_err() {
                return;
            }
        }
    }
}

/// Looks at one thing after the other; what is no longer the newest question is left out.
fn look_at_all(asked: &mpsc::Receiver<Asked>, to: &SyncSender<Msg>) {
    while let Ok(first) = asked.recv() {
        let newest = asked.try_iter().last().unwrap_or(first);
        let seen = Msg::Looked(Box::new(sources::look(newest)));
        if to.send(seen).is_err() {
            return;
        }
    }
}

fn launch(runs_dir: &Path, checker: &mut Checker, draft: &Draft) -> Result<RunFolder, String> {
    let first = |problems: Vec<Problem>| {
        let told: Vec<String> = problems
            .into_iter()
            .map(|(path, problem)| format!("{path}: {problem}"))
            .collect();
        told.join("; ")
    };
    let config = draft.config().map_err(first)?;
    let plan = checker.plan(&config).map_err(first)?;
    let wanted = Wanted::Base(config.name.clone());
    let begun = start::begin(runs_dir, &wanted, &config, &plan);
    let (folder, supervisor) = begun.map_err(|error| in_full(&error))?;
    reap(supervisor);
    Ok(folder)
}

/// Waits for a supervisor that was started here, so that it does not stay as a zombie.
fn reap(mut supervisor: Child) {
    thread::spawn(move || supervisor.wait());
}

fn send(folder: &RunFolder, order: Control) -> Result<String, String> {
    match control::send(folder, order) {
        Ok(reply) if reply.accepted => Ok(format!("{}: {}", folder.name(), reply.message)),
        Ok(reply) => Err(format!("{}: {}", folder.name(), reply.message)),
        Err(error) => Err(in_full(&error)),
    }
}

/// Text from a run, as `capstan sample` says it.
fn sample(folder: &RunFolder, is_running: bool) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .arg("sample")
        .arg(folder.root())
        .arg("--json")
        .args(is_running.then_some("--now"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let sampled = text
        .lines()
        .find_map(|line| match serde_json::from_str(line) {
            Ok(Event::Sample { prompt, text, .. }) => Some(printable(&format!("{prompt}{text}"))),
            _ => None,
        });
    sampled.ok_or_else(|| {
        let words = printable(&String::from_utf8_lossy(&output.stderr));
        let words = words.trim().lines().last().unwrap_or_default().to_owned();
        words.strip_prefix("error: ").unwrap_or(&words).to_owned()
    })
}
