#!/usr/bin/env python3
"""The authors' PyTorch code as one side of `lethe bench train --against`.

    lethe bench train --preset fair --method expire-span --authors \
        --against "python3 tools/peer/transformer_sequential.py --code CHECKOUT --threads 2"

CHECKOUT is a clone of github.com/facebookresearch/transformer-sequential (CC BY-NC 4.0), which stays where it is: this
file only calls it. What it measures is the authors' own `train_batch`: forward, loss, backward, clipping, Adam, the span
clamp, with a full memory, on random tokens. Settings come from the other side (apps/cli/src/commands/bench/turns.ts has
the protocol); those that the code cannot follow are refused.
"""

import argparse
import json
import os
import resource
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--code", required=True, help="checkout of transformer-sequential")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--wait",
        choices=("passive", "active"),
        default="passive",
        help="what its threads do while they wait for each other (OMP_WAIT_POLICY): active ones spin, which where "
        "anything else runs makes steps many times as slow",
    )
    return parser.parse_args()


def say(**reply):
    print(json.dumps(reply), flush=True)


def refuse(what):
    sys.exit(f"the authors' code cannot follow {what}")


VOCABULARY = 256
WARM_UP_STEPS = 2
METHODS = ("fixed-span", "expire-span", "adaptive-span", "compressive")
# What these may be without changing what the code does.
NEUTRAL = {"preset": "fair", "optimizer": "adam", "sinks": 0, "layer-drop": 0, "weight-decay": 0, "momentum": 0}


def authors_arguments(settings, device):
    """Their command line's defaults, then what both sides are told."""
    from models import compressive, expire_span, feedback, staircase, transformer_seq
    from modules import adaptive_span

    for name, wanted in NEUTRAL.items():
        if settings.get(name, wanted) != wanted:
            refuse(f"--{name} {settings[name]}")
    for name in ("budget", "dynamic", "memory-loss"):
        if settings.get(name):
            refuse(f"--{name}")
    method = settings["method"]
    if method not in METHODS:
        refuse(f"--method {method}")
    if method in ("expire-span", "compressive") and not settings.get("authors"):
        refuse(f"--method {method} without --authors, which makes ours the same computation")

    parser = argparse.ArgumentParser()
    for part in (transformer_seq, adaptive_span, compressive, expire_span, feedback, staircase):
        part.add_args(parser)
    args = parser.parse_args([])
    span = settings["span"]
    args.hid_sz = settings["width"]
    args.inner_hid_sz = settings["feed-forward"]
    args.nlayers = settings["layers"]
    args.nheads = settings["heads"]
    args.head_dim = args.hid_sz // args.nheads
    args.mem_sz = settings["block"]
    args.batch_sz = settings["batch"]
    args.attn_lim = span
    args.dropout = settings.get("dropout", 0)
    args.vocab_sz = VOCABULARY
    args.device = device
    args.lr = settings["learning-rate"]
    args.grad_clip = settings["clip"]
    args.lr_warmup = 0
    args.lr_decay = False
    args.update_freq = 1
    args.data_omit_label_idx = None
    args.feedback = args.staircase = False
    args.compress = method == "compressive"
    args.expire_span = method == "expire-span"
    args.adapt_span = method == "adaptive-span"
    ramp = settings.get("ramp", 32)
    if args.adapt_span:
        args.adapt_span_cache = True
        args.adapt_span_len = ramp
        args.adapt_span_loss = settings.get("span-penalty", 2e-6)
        args.adapt_span_init = settings.get("initial-span", 0) / span
    if args.expire_span:
        args.expire_span_ramp = ramp
        args.expire_span_loss = settings.get("span-penalty", 1e-6)
        args.expire_span_init_percentage = settings.get("initial-span", 0.1 * span) / span
        args.expire_span_noisy = bool(settings.get("shorten"))
    if args.compress:
        args.compress_rate = settings.get("rate", 4)
        args.compress_size = args.compress_rate * settings.get("compressed", -(-span // args.compress_rate))
    return args


def peak_of(torch, step, device):
    """Bytes held between steps and at most during one, from the allocator's own record; None where it has none."""
    import gc

    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return held, torch.cuda.max_memory_allocated()
    gc.collect()
    storages = {}
    for value in gc.get_objects():
        if isinstance(value, torch.Tensor):
            for tensor in (value, value.grad if value.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    held = sum(storages.values())
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    try:
        changes = [
            (event.start_ns(), event.nbytes())
            for event in record.profiler.kineto_results.events()
            if event.name() == "[memory]"
        ]
    except AttributeError:  # not a public interface
        return held, None
    level = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        level += change
        peak = max(peak, level)
    return held, held + peak


def parts_of(torch, step, device):
    """Where the time of a step goes, by operation."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    with profile(activities=activities) as record:
        step()
    own = (lambda e: e.self_device_time_total) if cuda else (lambda e: e.self_cpu_time_total)
    parts = [
        {"name": event.key, "calls": event.count, "ms": own(event) / 1000} for event in record.key_averages()
    ]
    return sorted(parts, key=lambda part: -part["ms"])


def main():
    given = arguments()
    sys.path.insert(0, given.code)
    # Read when PyTorch is loaded.
    os.environ.update(OMP_WAIT_POLICY=given.wait, OMP_NUM_THREADS=str(given.threads))
    settings = json.loads(sys.stdin.readline())["settings"]

    import torch
    import trainer
    from models import compressive, expire_span, transformer_seq

    torch.set_num_threads(given.threads)
    torch.manual_seed(settings.get("seed", 0))
    device = torch.device(given.device)
    args = authors_arguments(settings, device)
    build = (
        expire_span.ExpireSpan
        if args.expire_span
        else compressive.CompressiveTransformer
        if args.compress
        else transformer_seq.TransformerSeq
    )

    class Whole(torch.nn.Module):
        """In the place of their DistributedDataParallel, which needs several GPUs' NCCL."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs):
            return self.module(*inputs)

    model = Whole(build(args).to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    model.train()
    optimizer.zero_grad()
    state = {"cache": model.module.init_hid_cache(args.batch_sz)}
    slots_seen = []

    def tokens():
        return torch.randint(VOCABULARY, (args.batch_sz, args.mem_sz), device=device)

    def slots():
        """Steps that a layer remembers, and what is compressed beside them: mean over layers."""
        counted = state["cache"] if args.compress else state["cache"][: args.nlayers]
        return sum(cache.size(1) for cache in counted) / args.nlayers

    # Until the memory no longer grows, as the other side does.
    longest = args.attn_lim + (args.compress_size if args.compress else 0)
    read = still = 0
    with torch.no_grad():
        while read < longest and still < 2:
            before = slots()
            _, state["cache"], _ = model(tokens(), state["cache"], None)
            still = 0 if slots() > before else still + 1
            read += args.mem_sz

    def step():
        inputs, targets = tokens(), tokens()
        began = time.perf_counter()
        state["cache"] = trainer.train_batch(
            args, model, optimizer, None, inputs, targets, state["cache"], {}, corpus=object()
        )
        if device.type == "cuda":
            torch.cuda.synchronize()
        milliseconds = 1000 * (time.perf_counter() - began)
        slots_seen.append(slots())
        return milliseconds

    for _ in range(WARM_UP_STEPS):
        step()
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads ({given.wait})"
    say(ready=f"facebookresearch/transformer-sequential, PyTorch {torch.__version__}, {where}")

    for line in sys.stdin:
        request = json.loads(line)
        if "take" in request:
            say(ms=[step() for _ in range(request["take"])])
        if "finish" in request:
            # Before anything is observed: that takes memory of its own.
            resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            mean_slots = sum(slots_seen) / len(slots_seen)
            held, peak = peak_of(torch, step, device)
            figures = {
                "memory_slots": mean_slots,
                "held_tensor_bytes": held,
                "peak_tensor_bytes": peak,
                "peak_rss_bytes": resident,
                "parts": parts_of(torch, step, device),
            }
            if device.type == "cuda":
                figures["gpu_bytes"] = torch.cuda.max_memory_reserved()
            say(figures={name: value for name, value in figures.items() if value is not None})
            return


main()
