//! Messages between the workers of one run, relayed by the supervisor: every worker has one socket to the hub.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use super::{
    fault::{Fault, FaultCell, FaultKind},
    mailbox::Mailbox,
    rendezvous::Poisoned,
};

/// What stands before each message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// On the way to the hub the receiver, on the way from it the sender.
    worker: u32,
    channel: u32,
    n_bytes: u64,
}

impl Header {
    const SIZE: usize = 16;

    fn write(self, socket: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.worker.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.channel.to_le_bytes());
        bytes[8..].copy_from_slice(&self.n_bytes.to_le_bytes());
        socket.write_all(&bytes)
    }

    fn read(socket: &mut impl Read) -> io::Result<Self> {
        let (mut worker, mut channel, mut n_bytes) = ([0; 4], [0; 4], [0; 8]);
        socket.read_exact(&mut worker)?;
        socket.read_exact(&mut channel)?;
        socket.read_exact(&mut n_bytes)?;
        Ok(Self {
            worker: u32::from_le_bytes(worker),
            channel: u32::from_le_bytes(channel),
            n_bytes: u64::from_le_bytes(n_bytes),
        })
    }
}

/// Reads one message; the stream may have ended.
fn read_message(socket: &mut UnixStream) -> io::Result<(Header, Vec<u8>)> {
    let header = Header::read(socket)?;
    let mut bytes = Vec::new();
    socket.take(header.n_bytes).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == header.n_bytes {
        true => Ok((header, bytes)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn write_message(socket: &mut UnixStream, header: Header, bytes: &[u8]) -> io::Result<()> {
    header.write(socket)?;
    socket.write_all(bytes)
}

/// Relays between the workers at the other ends of `sockets`, in order of their numbers, until they hang up.
///
/// Messages wait here for a worker that does not read, so that it holds up nobody else; those to a worker that is
/// gone are dropped. Whoever watches the workers ends the others.
///
/// # Errors
/// A socket can't be doubled, or no thread is to be had.
pub fn relay(sockets: &[UnixStream]) -> io::Result<()> {
    let mut queues = Vec::new();
    for socket in sockets {
        let mut socket = socket.try_clone()?;
        let (sender, queue) = mpsc::channel::<(Header, Vec<u8>)>();
        queues.push(sender);
        spawn("hub-out", move || {
            for (header, bytes) in queue {
                if write_message(&mut socket, header, &bytes).is_err() {
                    return;
                }
            }
        })?;
    }
    for (number, socket) in sockets.iter().enumerate() {
        let (mut socket, queues) = (socket.try_clone()?, queues.clone());
        spawn("hub-in", move || {
            while let Ok((header, bytes)) = read_message(&mut socket) {
                let from = Header {
                    worker: number as u32,
                    ..header
                };
                if let Some(queue) = queues.get(header.worker as usize) {
                    let _ = queue.send((from, bytes));
                }
            }
        })?;
    }
    Ok(())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(|_| ())
}

/// One worker's end.
#[derive(Debug)]
pub struct Spoke {
    worker: usize,
    n_workers: usize,
    socket: Mutex<UnixStream>,
    boxes: Boxes,
}

/// Messages that wait to be read, by sender and channel.
#[derive(Clone, Debug)]
struct Boxes {
    fault: Arc<FaultCell>,
    all: Arc<Mutex<HashMap<(usize, u32), Messages>>>,
}

type Messages = Arc<Mailbox<Vec<u8>>>;

impl Boxes {
    fn of(&self, from: usize, channel: u32) -> Messages {
        let mut all = locked(&self.all);
        let mailbox = all.entry((from, channel));
        Arc::clone(mailbox.or_insert_with(|| Arc::new(Mailbox::new(&self.fault))))
    }
}

impl Spoke {
    /// Listens from now on; whoever waits for a message notices faults.
    ///
    /// # Errors
    /// The socket can't be doubled, or no thread is to be had.
    pub fn open(
        socket: UnixStream,
        worker: usize,
        n_workers: usize,
        fault: &Arc<FaultCell>,
    ) -> io::Result<Self> {
        let boxes = Boxes {
            fault: Arc::clone(fault),
            all: Arc::default(),
        };
        let (mut incoming, arrived) = (socket.try_clone()?, boxes.clone());
        let body = move || {
            while let Ok((header, bytes)) = read_message(&mut incoming) {
                let mailbox = arrived.of(header.worker as usize, header.channel);
                mailbox.send(bytes);
            }
        };
        spawn("spoke", body)?;
        Ok(Self {
            worker,
            n_workers,
            socket: Mutex::new(socket),
            boxes,
        })
    }

    /// This worker's number.
    pub const fn worker(&self) -> usize {
        self.worker
    }

    /// Workers of the run.
    pub const fn n_workers(&self) -> usize {
        self.n_workers
    }

    /// Sends a message, to any worker; those of one channel arrive in order.
    ///
    /// # Errors
    /// The hub is gone: a fault, recorded.
    pub fn send(&self, to: usize, channel: u32, bytes: &[u8]) -> Result<(), Poisoned> {
        if to == self.worker {
            self.boxes.of(to, channel).send(bytes.to_vec());
            return Ok(());
        }
        let header = Header {
            worker: to as u32,
            channel,
            n_bytes: bytes.len() as u64,
        };
        write_message(&mut locked(&self.socket), header, bytes).map_err(|error| {
            self.boxes.fault.poison(Fault {
                rank: self.worker,
                step: 0,
                operation: "speaking to other workers".to_owned(),
                cause: error.to_string().into(),
                kind: FaultKind::Other,
                retry: true,
            });
            Poisoned
        })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// A rank failed meanwhile.
    pub fn recv(&self, from: usize, channel: u32) -> Result<Vec<u8>, Poisoned> {
        self.boxes.of(from, channel).recv()
    }

    /// Takes the next message, where one has arrived.
    pub fn try_recv(&self, from: usize, channel: u32) -> Option<Vec<u8>> {
        self.boxes.of(from, channel).try_recv()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The ends of workers whose hub runs in this process.
    pub fn spokes(n_workers: usize, fault: &Arc<FaultCell>) -> Vec<Spoke> {
        let pairs: Vec<_> = (0..n_workers)
            .map(|_| UnixStream::pair().expect("a pair"))
            .collect();
        let (hub, ends): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        relay(&hub).expect("threads");
        let open = |(worker, end)| Spoke::open(end, worker, n_workers, fault).expect("a thread");
        ends.into_iter().enumerate().map(open).collect()
    }

    #[test]
    fn messages_arrive_in_order_by_sender_and_channel() {
        let fault = Arc::new(FaultCell::default());
        let spokes = spokes(3, &fault);
        let long = vec![7; 3 << 20];
        for (channel, bytes) in [(1, b"a".as_slice()), (2, &long), (1, b"b"), (1, b"")] {
            spokes[0].send(2, channel, bytes).expect("sent");
            spokes[1].send(2, channel, b"other").expect("sent");
        }
        spokes[2].send(2, 1, b"own").expect("sent");
        assert_eq!(spokes[2].recv(0, 2), Ok(long));
        for expected in [b"a".as_slice(), b"b", b""] {
            assert_eq!(spokes[2].recv(0, 1).as_deref(), Ok(expected));
        }
        assert_eq!(spokes[2].recv(2, 1).as_deref(), Ok(b"own".as_slice()));
        assert_eq!(spokes[2].try_recv(0, 1), None);
        assert!(spokes[2].try_recv(1, 1).is_some());
    }

    #[test]
    fn a_worker_that_does_not_read_holds_up_nobody() {
        let fault = Arc::new(FaultCell::default());
        let pairs: Vec<_> = (0..3)
            .map(|_| UnixStream::pair().expect("a pair"))
            .collect();
        let (hub, mut ends): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        relay(&hub).expect("threads");
        let last = ends.pop().expect("an end");
        let open = |(worker, end)| Spoke::open(end, worker, 3, &fault).expect("a thread");
        let spokes: Vec<Spoke> = ends.into_iter().enumerate().map(open).collect();
        for number in 0..1_000u32 {
            spokes[0]
                .send(2, 0, &[number as u8; 1_000])
                .expect("it waits in the hub");
        }
        spokes[0].send(1, 0, b"heard").expect("sent");
        assert_eq!(spokes[1].recv(0, 0).as_deref(), Ok(b"heard".as_slice()));
        // Nothing is lost of what waited.
        let late = Spoke::open(last, 2, 3, &fault).expect("a thread");
        for number in 0..1_000u32 {
            assert_eq!(late.recv(0, 0), Ok(vec![number as u8; 1_000]));
        }
    }

    #[test]
    fn a_worker_that_is_gone_is_no_obstacle_and_a_fault_frees_the_waiting() {
        let fault = Arc::new(FaultCell::default());
        let mut spokes = spokes(3, &fault);
        drop(spokes.remove(1).socket);
        spokes[0].send(1, 0, b"lost").expect("the hub drops it");
        spokes[0].send(2, 0, b"kept").expect("sent");
        assert_eq!(spokes[1].recv(0, 0).as_deref(), Ok(b"kept".as_slice()));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| spokes[0].recv(2, 9));
            fault.poison(Fault {
                rank: 1,
                step: 1,
                operation: String::new(),
                cause: "a test".into(),
                kind: FaultKind::Other,
                retry: false,
            });
            assert_eq!(waiting.join().expect("no panic"), Err(Poisoned));
        });
    }
}
