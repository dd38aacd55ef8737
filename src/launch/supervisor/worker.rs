//! One life of the worker process.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::SyncSender,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{
    Input,
    wire::{Line, LineCutter},
};
use crate::{
    event::{Control, Event},
    launch::{RunFolder, worker_program},
    plan::RunPlan,
};

/// Longest line that a worker may say, in bytes; a sampled text is the longest.
const LONGEST_EVENT: usize = 1 << 20;
/// How often a silent worker is looked after, in case another process holds its socket open.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// A worker that doesn't read its orders is not waited for.
const ORDER_PATIENCE: Duration = Duration::from_millis(100);
/// Characters of garbage that a warning quotes.
const QUOTE_BYTES: usize = 80;

/// What a worker is started to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub from: From,
    /// Why it does not start for the first time.
    pub cause: Option<String>,
    /// cuDNN's attention may have given NaN.
    pub without_cudnn_attention: bool,
}

/// Where a worker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Fresh,
    Checkpoint,
}

/// A running worker; its words arrive as inputs.
pub struct Worker {
    socket: UnixStream,
    pidfd: OwnedFd,
    /// When it has to be gone.
    deadline: Option<Instant>,
    /// It was not gone in time.
    overdue: bool,
}

impl Worker {
    /// Starts worker `number` of a life, which reaches the others through `hub`.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn spawn(
        program: &Path,
        folder: &RunFolder,
        plan: &RunPlan,
        task: &Task,
        (number, hub): (usize, Option<UnixStream>),
        inputs: SyncSender<Input>,
    ) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(LOOK_AFTER))?;
        socket.set_write_timeout(Some(ORDER_PATIENCE))?;
        let mut command = command(program, folder, plan, task, theirs)?;
        if let Some(hub) = hub {
            command
                .arg(format!("--worker={number}"))
                .stdout(OwnedFd::from(hub));
        }
        let mut child = command.spawn()?;
        // Else the hub's other end would stay open in this process.
        drop(command);
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                return Err(error.into());
            }
        };
        let words = socket.try_clone()?;
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || listen(number, words, child, &inputs))?;
        Ok(Self {
            socket,
            pidfd,
            deadline: None,
            overdue: false,
        })
    }

    /// Passes an order on; a worker that is gone or deaf misses it.
    pub fn tell(&mut self, control: Control) {
        if let Ok(mut line) = serde_json::to_vec(&control) {
            line.push(b'\n');
            let _ = self.socket.write_all(&line);
        }
    }

    /// It has to be gone within `time`; an earlier deadline stands.
    pub fn leave_within(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        self.deadline = Some(
            self.deadline
                .map_or(deadline, |earlier| earlier.min(deadline)),
        );
    }

    /// When [`Worker::kill_if_overdue`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.overdue)
    }

    /// Kills it where its deadline has passed.
    pub fn kill_if_overdue(&mut self) {
        if self
            .deadline()
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            self.overdue = true;
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Whether the supervisor had to kill it.
    pub const fn was_overdue(&self) -> bool {
        self.overdue
    }
}

fn command(
    program: &Path,
    folder: &RunFolder,
    plan: &RunPlan,
    task: &Task,
    socket: UnixStream,
) -> io::Result<Command> {
    let log = crate::base::own::open(&folder.worker_log(), crate::base::own::Purpose::Append)?;
    let from = match task.from {
        From::Fresh => "fresh",
        From::Checkpoint => "checkpoint",
    };
    let mut command = Command::new(program);
    command
        .arg("train")
        .arg(folder.root())
        .args(["--from", from])
        .envs(worker_program::environment())
        .envs(worker_program::environment_of(plan))
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(log.try_clone()?)
        .stderr(log);
    if let Some(cause) = &task.cause {
        command.arg(format!("--cause={cause}"));
    }
    if task.without_cudnn_attention {
        command.arg("--without-cudnn-attention");
    }
    Ok(command)
}

/// Hears the worker out, then waits for its end: everything it said comes before its exit.
fn listen(number: usize, mut socket: UnixStream, mut child: Child, inputs: &SyncSender<Input>) {
    let mut lines = LineCutter::new(LONGEST_EVENT);
    let mut part = vec![0; 64 << 10];
    let mut gone = false;
    loop {
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(n) => lines
                .cut(&part[..n])
                .into_iter()
                .for_each(|line| hear(number, line, inputs)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !gone => {
                gone = matches!(child.try_wait(), Ok(Some(_)) | Err(_));
            }
            Err(_) => break,
        }
    }
    if let Some(line) = lines.finish() {
        hear(number, line, inputs);
    }
    // The supervisor's loop outlives this thread, but for the moment of its own end.
    let _ = inputs.send(Input::HungUp(number));
    let _ = inputs.send(Input::Exited(number, child.wait()));
}

fn hear(number: usize, line: Line, inputs: &SyncSender<Input>) {
    let input = match line {
        Line::Whole(line) => match serde_json::from_slice::<Event>(&line) {
            Ok(event) => Input::Said(number, event),
            Err(error) => Input::Garbage(format!("{error} in: {}", quote(&line))),
        },
        Line::Oversize(beginning) => {
            Input::Garbage(format!("a line over 1 MiB: {}", quote(&beginning)))
        }
    };
    let _ = inputs.send(input);
}

fn quote(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(QUOTE_BYTES)];
    String::from_utf8_lossy(beginning)
        .escape_debug()
        .to_string()
}
