//! What needs an NVIDIA GPU. Elsewhere these count as ignored, with the reason in their name.

use capstan::{
    dist::{Communicator, NcclComm, Reduction},
    engine::RankDevice,
    hw::{Device, Machine},
    torch::{
        nccl::{self, UniqueId},
        runtime,
        stream::Stream,
    },
};
use libtest_mimic::{Failed, Trial};
use tch::{Kind, Tensor};

pub fn trials() -> Vec<Trial> {
    let machine = Machine::probe();
    let why = machine
        .no_gpus_because
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let has_gpu = !machine.gpus.is_empty();
    vec![
        Trial::test(format!("gpu::nccl_world_of_one{why}"), nccl_world_of_one)
            .with_ignored_flag(!has_gpu),
        Trial::test(
            format!("gpu::streams_and_events_order_work{why}"),
            streams_and_events,
        )
        .with_ignored_flag(!has_gpu),
    ]
}

/// Sums, reductions and broadcasts of one rank leave its buffer as it is, in order with the compute stream.
fn nccl_world_of_one() -> Result<(), Failed> {
    let device = ready()?;
    nccl::probe()?;
    let stream = device.stream.ok_or("a GPU rank has a stream")?;
    let mut comm = NcclComm::join(UniqueId::new()?, 0, 1, stream, Stream::from_pool(0)?)?;
    let buffer = Tensor::full([1 << 20], 2.5, (Kind::Float, device.device));
    comm.start_all_reduce(&buffer, Reduction::Sum)?;
    comm.start_reduce(&buffer, 0)?;
    comm.start_broadcast(&buffer, 0)?;
    comm.start_reduce_scatter(&buffer)?;
    comm.start_all_gather(&buffer)?;
    comm.wait()?;
    assert_eq!(
        buffer.f_sum(Kind::Double)?.f_double_value(&[])?,
        2.5 * f64::from(1 << 20)
    );
    Ok(())
}

fn streams_and_events() -> Result<(), Failed> {
    use capstan::torch::stream::{Event, Timing};
    let device = ready()?;
    let stream = device.stream.ok_or("a GPU rank has a stream")?;
    let (from, to) = (Event::new(Timing::On)?, Event::new(Timing::On)?);
    stream.record(&from)?;
    let a = Tensor::f_ones([2048, 2048], (Kind::Float, device.device))?;
    let product = a.f_matmul(&a)?;
    stream.record(&to)?;
    to.synchronize()?;
    assert!(from.seconds_to(&to)? > 0.0);
    assert_eq!(product.f_double_value(&[7, 9])?, 2048.0);
    Ok(())
}

fn ready() -> Result<RankDevice, Failed> {
    runtime::load_cuda(None)?;
    Ok(RankDevice::enter(Device::Cuda(0), 1)?)
}
