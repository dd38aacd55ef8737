//! The socket to the supervisor.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use crate::{
    base::parent::end_with_parent,
    event::{Control, Event},
    torch::process::exit_now,
};

/// Exit code of a worker whose supervisor is gone.
const ORPHANED: i32 = 1;

/// Events up, controls down.
pub struct Link {
    socket: UnixStream,
    worker: usize,
    pub controls: Receiver<Control>,
}

impl Link {
    /// Takes file descriptor 0 and asks the kernel to end this process with its supervisor.
    ///
    /// # Errors
    /// Descriptor 0 is no socket.
    pub fn open(worker: usize) -> io::Result<Self> {
        // The socket's end tells of a supervisor that was gone before.
        end_with_parent(None)?;
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        socket.peer_addr()?;
        let lines = BufReader::new(socket.try_clone()?).lines();
        let (sender, controls) = channel();
        thread::Builder::new()
            .name("controls".to_owned())
            .spawn(move || {
                for line in lines.map_while(Result::ok) {
                    if let Ok(control) = serde_json::from_str(&line) {
                        // The run's end takes the receiver first.
                        let _ = sender.send(control);
                    }
                }
                exit_now(ORPHANED)
            })?;
        Ok(Self {
            socket,
            worker,
            controls,
        })
    }

    /// Sends an event; without a supervisor there is nothing left to do. What all workers would say is said by
    /// the first alone.
    pub fn emit(&mut self, event: &Event) {
        let is_own = matches!(
            event,
            Event::Fault { .. } | Event::Warning { rank: Some(_), .. }
        );
        if self.worker > 0 && !is_own {
            return;
        }
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        if self.socket.write_all(&line).is_err() {
            exit_now(ORPHANED)
        }
    }
}

/// Takes the socket to the hub from standard output, which is standard error's from then on.
///
/// # Errors
/// Standard output is no socket.
pub fn take_hub() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    socket.peer_addr()?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(socket)
}
