//! The front's end of the control socket.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{LaunchError, RunFolder};
use crate::event::{Control, ControlReply, ControlRequest};

/// How long either side waits for the other.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Longest line on the socket, in bytes.
pub const LONGEST_LINE: usize = 4096;

/// Gives an order to a run's supervisor and returns its answer.
///
/// # Errors
/// No supervisor listens, or it doesn't answer in time.
pub fn send(folder: &RunFolder, control: Control) -> Result<ControlReply, LaunchError> {
    let failed = |source: io::Error| LaunchError::Io {
        what: "the control socket",
        path: folder.control_socket(),
        source,
    };
    let (_open, path) = folder.short_socket_path().map_err(failed)?;
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LaunchError::NotRunning {
            name: folder.name(),
        },
        _ => failed(error),
    })?;
    exchange(stream, control).map_err(failed)
}

fn exchange(mut stream: UnixStream, control: Control) -> io::Result<ControlReply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&ControlRequest { control })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    stream.take(LONGEST_LINE as u64).read_to_end(&mut reply)?;
    if reply.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the supervisor serves too many others",
        ));
    }
    Ok(serde_json::from_slice(&reply)?)
}
