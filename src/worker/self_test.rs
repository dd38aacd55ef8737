//! What takes an NVIDIA GPU and no training to see: streams and events order work, NCCL joins and works in place.
//!
//! A process of its own, since libtorch has to load CUDA before anything else.

use std::io::{self, Write};

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::job;
use crate::{
    dist::{Communicator, NcclComm, Reduction},
    engine::RankDevice,
    hw::Device,
    torch::{
        NumberOps,
        nccl::{self, UniqueId},
        runtime,
        stream::{Event, Stream, Timing},
    },
};

/// Exit codes as in the README.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const MISSING: i32 = 4;

/// Fails with what it found.
type Test = fn(RankDevice) -> Result<()>;

/// What is tested, with its name.
const TESTS: [(&str, Test); 3] = [
    ("events tell the time of work", events_tell_time),
    ("streams and events order work", events_order_work),
    ("NCCL works in a world of one", nccl_world_of_one),
];

/// Tests the first GPU, and prints a line for each test; returns the process's exit code.
pub fn main() -> i32 {
    let device = match ready() {
        Ok(device) => device,
        Err(error) => {
            eprintln!("error: {error:#}");
            return MISSING;
        }
    };
    let mut code = DONE;
    for (name, test) in TESTS {
        let line = match test(device) {
            Ok(()) => format!("ok: {name}"),
            Err(error) => {
                code = FAILED;
                format!("FAILED: {name}: {error:#}")
            }
        };
        // Whoever reads it judges by the exit code too.
        let _ = writeln!(io::stdout().lock(), "{line}");
    }
    code
}

fn ready() -> Result<RankDevice> {
    runtime::load_cuda().context("libtorch's CUDA half can't be loaded")?;
    ensure!(tch::Cuda::device_count() > 0, "CUDA sees no GPU");
    job::ready_this_thread()?;
    Ok(RankDevice::enter(Device::Cuda(0), 1)?)
}

fn compute_stream(device: RankDevice) -> Result<Stream> {
    device.stream.context("a GPU rank has a stream")
}

/// Work that takes a GPU a while; each element of the result is the number of rows.
fn product(device: RankDevice) -> Result<Tensor> {
    let ones = Tensor::f_ones([2048, 2048], (Kind::Float, device.device))?;
    Ok(ones.f_matmul(&ones)?)
}

fn events_tell_time(device: RankDevice) -> Result<()> {
    let stream = compute_stream(device)?;
    let (from, to) = (Event::new(Timing::On)?, Event::new(Timing::On)?);
    stream.record(&from)?;
    let product = product(device)?;
    stream.record(&to)?;
    to.synchronize()?;
    let seconds = from.seconds_to(&to)?;
    ensure!(seconds > 0.0, "a product took {seconds} s");
    let element = product.f_double_value(&[7, 9])?;
    ensure!(element == 2048.0, "an element of the product is {element}");
    Ok(())
}

/// What another stream reads after an event is what was written before it, although the host waits for neither.
fn events_order_work(device: RankDevice) -> Result<()> {
    let (compute, other) = (compute_stream(device)?, Stream::from_pool(0)?);
    let (written, read) = (Event::new(Timing::Off)?, Event::new(Timing::Off)?);
    let mut buffer = Tensor::f_zeros([2048, 2048], (Kind::Float, device.device))?;
    runtime::synchronize(0)?;
    let product = product(device)?;
    buffer.f_copy_(&product)?;
    compute.record(&written)?;
    other.wait_for(&written)?;
    other.make_current()?;
    let copy = buffer.f_neg();
    other.record(&read)?;
    compute.make_current()?;
    compute.wait_for(&read)?;
    let _ = buffer.f_zero_()?;
    let copy = copy?;
    let (least, most) = (copy.f_min()?, copy.f_max()?);
    let found = [least.f_double_value(&[])?, most.f_double_value(&[])?];
    ensure!(found == [-2048.0, -2048.0], "the copy holds {found:?}");
    Ok(())
}

/// Sums, reductions and broadcasts of one rank leave its buffer as it is, in order with the compute stream.
fn nccl_world_of_one(device: RankDevice) -> Result<()> {
    let version = nccl::load()?;
    let stream = compute_stream(device)?;
    let mut comm = NcclComm::join(UniqueId::new()?, 0, 1, stream, Stream::from_pool(0)?)?;
    let buffer = Tensor::try_full(&[1 << 20], 2.5, (Kind::Float, device.device))?;
    comm.start_all_reduce(&buffer, Reduction::Sum)?;
    comm.start_reduce(&buffer, 0)?;
    comm.start_broadcast(&buffer, 0)?;
    comm.start_reduce_scatter(&buffer)?;
    comm.start_all_gather(&buffer)?;
    comm.wait()?;
    let sum = buffer.f_sum(Kind::Double)?.f_double_value(&[])?;
    ensure!(
        sum == 2.5 * f64::from(1 << 20),
        "NCCL {version} left a sum of {sum}"
    );
    Ok(())
}
