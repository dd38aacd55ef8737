//! The control socket: one request, one reply, and no client can hold up the run.

use std::{
    fs::{self, Permissions},
    io::{self, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use super::Input;
use crate::{
    event::{ControlReply, ControlRequest},
    launch::{
        LaunchError, RunFolder,
        control::{LONGEST_LINE, PATIENCE},
    },
};

/// Clients served at the same time; more are turned away.
const MOST_CLIENTS: usize = 16;
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Listens as long as it lives, then removes the socket.
pub struct Server {
    socket: PathBuf,
}

impl Server {
    /// Binds the socket and serves it from a thread of its own; requests go to `inputs`.
    ///
    /// The caller holds the folder's lock: a socket that lies there already is a dead supervisor's.
    ///
    /// # Errors
    /// The socket can't be bound.
    pub fn bind(folder: &RunFolder, inputs: SyncSender<Input>) -> Result<Self, LaunchError> {
        let socket = folder.control_socket();
        let listener = listen(folder).map_err(LaunchError::io("the control socket", &socket))?;
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&listener, &inputs))
            .map_err(LaunchError::io("a thread for", &socket))?;
        Ok(Self { socket })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

fn listen(folder: &RunFolder) -> io::Result<UnixListener> {
    let socket = folder.control_socket();
    if let Err(error) = fs::remove_file(&socket)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let (_open, path) = folder.short_socket_path()?;
    let listener = UnixListener::bind(path)?;
    // Until here the folder's mode protects it.
    fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn serve(listener: &UnixListener, inputs: &SyncSender<Input>) {
    let clients = Arc::new(());
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors or memory: no reason to spin.
            thread::sleep(AFTER_ERROR);
            continue;
        };
        if Arc::strong_count(&clients) > MOST_CLIENTS {
            continue;
        }
        let (seat, inputs) = (Arc::clone(&clients), inputs.clone());
        // Without a thread the client is turned away, which closes its stream.
        let _ = thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || {
                let _seat = seat;
                let _ = attend(stream, &inputs);
            });
    }
}

fn attend(mut stream: UnixStream, inputs: &SyncSender<Input>) -> io::Result<()> {
    let reply = match read_request(&mut stream) {
        Ok(request) => ask(request, inputs),
        Err(message) => refuse(message),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&line)
}

fn ask(request: ControlRequest, inputs: &SyncSender<Input>) -> ControlReply {
    let (sender, answer) = mpsc::sync_channel(1);
    let sent = inputs.send(Input::Asked(request, sender)).is_ok();
    match answer.recv_timeout(PATIENCE) {
        Ok(reply) if sent => reply,
        _ => refuse("the supervisor is busy".to_owned()),
    }
}

/// Reads one line within [`PATIENCE`], however slowly its bytes drip.
fn read_request(stream: &mut UnixStream) -> Result<ControlRequest, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let mut part = [0; 512];
    while !line.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err("the request took too long".to_owned());
        }
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => line.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err("the request took too long".to_owned()),
        }
        if line.len() > LONGEST_LINE {
            return Err(format!("the request is longer than {LONGEST_LINE} bytes"));
        }
    }
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
}

const fn refuse(message: String) -> ControlReply {
    ControlReply {
        accepted: false,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Control, launch::control};

    /// A server whose supervisor accepts everything.
    fn serve_in(root: &std::path::Path) -> (RunFolder, Server) {
        let folder = RunFolder::new(root);
        let (sender, inputs) = mpsc::sync_channel(8);
        let server = Server::bind(&folder, sender).expect("bound");
        thread::spawn(move || {
            for input in inputs {
                let Input::Asked(request, reply) = input else {
                    continue;
                };
                let message = format!("{:?}", request.control);
                let _ = reply.send(ControlReply {
                    accepted: true,
                    message,
                });
            }
        });
        (folder, server)
    }

    fn say(folder: &RunFolder, bytes: &[u8]) -> String {
        let (_open, path) = folder.short_socket_path().expect("open");
        let mut stream = UnixStream::connect(path).expect("connected");
        // An oversize request may be refused before it is written to its end.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        reply
    }

    #[test]
    fn requests_are_answered_in_folders_with_long_paths() {
        let root = tempfile::tempdir().expect("a folder");
        let deep = root.path().join("x".repeat(120));
        fs::create_dir(&deep).expect("made");
        let (folder, server) = serve_in(&deep);
        let reply = control::send(&folder, Control::Pause).expect("answered");
        assert_eq!((reply.accepted, reply.message.as_str()), (true, "Pause"));
        let mode = fs::metadata(folder.control_socket())
            .expect("bound")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(server);
        assert!(matches!(
            control::send(&folder, Control::Pause),
            Err(LaunchError::NotRunning { .. })
        ));
    }

    #[test]
    fn garbage_and_oversize_requests_are_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let (folder, _server) = serve_in(root.path());
        let oversize = vec![b'x'; 2 * LONGEST_LINE];
        for garbage in [
            &b"\n"[..],
            b"",
            b"\xff\xfe\n",
            b"{}\n",
            b"{\"control\":\"dance\"}\n",
            &oversize,
        ] {
            let reply = say(&folder, garbage);
            assert!(
                reply.is_empty() || reply.contains("\"accepted\":false"),
                "{reply}"
            );
        }
        let reply = say(&folder, b"{\"control\":\"stop\"}\n");
        assert!(reply.contains("\"accepted\":true"), "{reply}");
    }

    #[test]
    fn a_silent_client_does_not_hold_up_the_others() {
        let root = tempfile::tempdir().expect("a folder");
        let (folder, _server) = serve_in(root.path());
        let (_open, path) = folder.short_socket_path().expect("open");
        let _silent = UnixStream::connect(path).expect("connected");
        let before = Instant::now();
        assert!(
            control::send(&folder, Control::Checkpoint)
                .expect("answered")
                .accepted
        );
        assert!(before.elapsed() < PATIENCE);
    }

    #[test]
    fn a_dead_supervisors_socket_is_replaced() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::new(root.path());
        drop(listen(&folder).expect("bound"));
        assert!(folder.control_socket().exists());
        let (folder, _server) = serve_in(root.path());
        assert!(
            control::send(&folder, Control::Stop)
                .expect("answered")
                .accepted
        );
    }
}
