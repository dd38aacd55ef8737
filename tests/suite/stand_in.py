#!/usr/bin/env python3
"""A worker without libtorch, for tests of the supervisor: speaks its protocol over fd 0, and misbehaves on request.

Environment: STAND_IN names the behaviour of each life, separated by commas (the last one repeats);
STAND_IN_STEPS and STAND_IN_DELAY give the number of steps and seconds a step.
"""

import json, os, select, signal, socket, sys, time

arguments = [part for argument in sys.argv for part in argument.split("=", 1)] + [""]
mode, run = arguments[1:3]
if mode == "doctor":
    none = {"bad": "none"}
    libraries = {"cuda": none, "has_cudnn": False, "nccl": none, "nvrtc": none}
    print(json.dumps({"libtorch": "none", "threads": 1, "cuda_devices": 0, **libraries}))
    sys.exit(0)
if mode == "eval":
    print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), file=sys.stderr)
    print(json.dumps({"event": "eval", "step": 4, "loss": 1.25, "targets": 64, "seconds": 0.1, "final": True}))
    sys.exit(0)
if mode == "sample":
    if arguments[arguments.index("--prompt") + 1] == "bad":
        print("the prompt is bad", file=sys.stderr)
        sys.exit(5)
    print(json.dumps({"event": "sample", "step": 4, "prompt": "Ab", "text": "c\x1b[2Jd"}))
    sys.exit(0)

options = dict(zip(arguments[3::2], arguments[4::2]))
lives = os.path.join(run, "lives")
with open(lives, "a") as file:
    names = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "CUBLAS_WORKSPACE_CONFIG")
    names += ("NCCL_CUMEM_HOST_ENABLE", "NCCL_MAX_P2P_NCHANNELS")
    file.write(json.dumps(options | {name: os.environ.get(name) for name in names}) + "\n")
life = sum(1 for _ in open(lives)) - 1
behaviours = os.environ.get("STAND_IN", "well").split(",")
behaviour = behaviours[min(life, len(behaviours) - 1)]
n_steps = int(os.environ.get("STAND_IN_STEPS", "4"))
delay = float(os.environ.get("STAND_IN_DELAY", "0.01"))
wire = socket.socket(fileno=os.dup(0))
controls = b""


def say(event, **fields):
    wire.sendall((json.dumps({"event": event, **fields}) + "\n").encode())


def heard(timeout):
    """The next order, or None."""
    global controls
    until = time.monotonic() + timeout
    while b"\n" not in controls:
        left = max(0.0, until - time.monotonic())
        if not select.select([wire], [], [], left)[0]:
            return None
        part = wire.recv(4096)
        if not part:
            sys.exit(1)
        controls += part
    line, controls = controls.split(b"\n", 1)
    return json.loads(line)


def checkpoint(step):
    folder = os.path.join(run, "checkpoints", f"step-{step:08}")
    os.makedirs(folder, exist_ok=True)
    say("checkpoint", step=step, path=f"checkpoints/step-{step:08}", bytes=1024, seconds=0.01, best=True)


def end(outcome, step):
    say("ended", outcome=outcome, step=step, reason="as asked")
    if behaviour == "hang-at-end":
        time.sleep(60)
    sys.exit(0)


def fault(step, cause, retry, kind="other"):
    say("fault", rank=1, step=step, operation="all_reduce", cause=cause, kind=kind, retry=retry)


def misbehave(step):
    if behaviour.startswith("signal-"):
        print("terminate called: bad thing", file=sys.stderr, flush=True)
        os.kill(os.getpid(), int(behaviour.removeprefix("signal-")))
    elif behaviour.startswith("exit-"):
        print("last words", file=sys.stderr, flush=True)
        sys.exit(int(behaviour.removeprefix("exit-")))
    elif behaviour in ("fault", "fault-for-good", "fault-and-hang"):
        retry = behaviour != "fault-for-good"
        fault(step, "NaN in the gradient", retry)
        time.sleep(60 if behaviour == "fault-and-hang" else 0)
        sys.exit(1)
    elif behaviour == "not-finite":
        fault(step, "the loss is no finite number", False, "not_finite")
        sys.exit(1)
    elif behaviour == "out-of-memory":
        fault(step, "CUDA out of memory", True, "out_of_memory")
        sys.exit(1)
    elif behaviour == "garbage":
        wire.sendall(b"\xff\xfe not json\n" + b"x" * (2 << 20) + b"\n[1]\n")
    elif behaviour == "hang-up":
        wire.shutdown(socket.SHUT_RDWR)
        os.close(0)
        wire.close()
        time.sleep(60)
    elif behaviour == "child-keeps-socket":
        if os.fork() == 0:
            os.setsid()
            time.sleep(4)
            os._exit(0)
        sys.exit(9)


# Of several workers, each reached by its number: the others wait, as ranks do.
number = next((int(option[9:]) for option in sys.argv if option.startswith("--worker=")), 0)
if number > 0:
    if behaviour == "second-dies":
        # The first has something to say of it, before this one is gone.
        wire.shutdown(socket.SHUT_RDWR)
        os.close(0)
        wire.close()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "second-faults":
        time.sleep(0.3)
        say("fault", rank=1, step=1, operation="forward", cause="no more memory", retry=False)
        time.sleep(0.5)
        sys.exit(1)
    time.sleep(0.2 if behaviour == "well" else 60)
    sys.exit(0)
if behaviour == "second-dies":
    time.sleep(0.15)
    say("fault", rank=0, step=1, operation="all_reduce", cause="a peer is gone", retry=False)
    sys.exit(1)
if behaviour == "second-faults":
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGABRT)

start = 0
if options["--from"] == "checkpoint":
    start = max(int(name[5:]) for name in os.listdir(os.path.join(run, "checkpoints")))
if "--cause" in options:
    say("restart", from_step=start, cause=options["--cause"], without_cudnn_attention="--without-cudnn-attention" in sys.argv)
if behaviour == "early":
    sys.exit(2)
if behaviour == "out-of-memory-at-once":
    fault(1, "CUDA out of memory", True, "out_of_memory")
    sys.exit(1)
print("the stand-in starts", flush=True)
step = start
while step < n_steps:
    order = heard(delay)
    while order == "pause" or order == "checkpoint":
        if order == "checkpoint":
            checkpoint(step)
            order = heard(0)
            continue
        say("paused", step=step)
        while (order := heard(60)) not in ("continue", "stop", "kill"):
            pass
        if order == "continue":
            say("continued", step=step)
    if order == "sample" and behaviour == "die-on-sample":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "sample":
        say("sample", step=step, prompt="Ab", text="c")
    if order == "kill":
        if behaviour == "deaf":
            time.sleep(60)
        end("killed", step)
    if order == "stop" and behaviour not in ("deaf", "ignore-stop"):
        checkpoint(step)
        end("stopped", step)
    step += 1
    say("step", step=step, loss=5.0 / step, lr=0.001, grad_norm=1.0, tokens=step * 64, step_time_s=delay,
        tokens_per_sec=64 / max(delay, 1e-3), phases=dict(data=0, forward=0, backward=0, comm=0, optimizer=0, other=0))
    if step == 2:
        say("eval", step=2, loss=2.5, targets=64, seconds=0.1, final=False)
        checkpoint(2)
    if behaviour == "advance":
        checkpoint(step)
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 3 and behaviour == "save-and-die":
        os.makedirs(os.path.join(run, "checkpoints", "step-00000003"), exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 3:
        misbehave(step)
say("eval", step=step, loss=1.25, targets=64, seconds=0.1, final=True)
checkpoint(step)
say("sample", step=step, prompt="\n", text="To be\x1b[31m or not\n")
end("completed", step)
