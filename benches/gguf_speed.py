"""Prefill (pp512) and decode (tg128) of a GGUF model: Lathe and llama.cpp, in alternating blocks.

    pip install llama-cpp-python==0.3.36   # CMAKE_ARGS="-DGGML_NATIVE=ON" builds it for this CPU
    python3 benches/gguf_speed.py target/release/lathe model.gguf [--blocks 5] [--threads 2] [--activations int8] [--cpu-time]

Prints each block, then the medians and their quotients. Only a quiet machine gives numbers that mean something: the load average
is printed beside each block. Elsewhere `--cpu-time` counts what one thread computes for, whoever else computes meanwhile.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

PROMPT, NEW = 512, 128


def prompt(length):
    """Token ids below the smallest vocabulary, no special ones."""
    return [(i * 7919) % 20000 + 100 for i in range(length)]


def lathe(args, tokens, count):
    """The report of one `lathe generate`."""
    command = [args.lathe, "generate", args.model, "--tokens", ",".join(map(str, tokens)), "-n", str(count),
               "--greedy", "--ignore-eos", "--activations", args.activations, "--threads", str(args.threads), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def computed():
    """Seconds that the processes started so far have computed for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured(args):
    """pp512 and tg128 of Lathe."""
    if not args.cpu_time:
        return lathe(args, prompt(PROMPT), 1)["prefill_tps"], lathe(args, prompt(1), NEW + 1)["decode_tps"]
    seconds = []
    for tokens, count in ((1, 1), (PROMPT, 1), (1, NEW + 1)):
        before = computed()
        lathe(args, prompt(tokens), count)
        seconds.append(computed() - before)
    return PROMPT / (seconds[1] - seconds[0]), NEW / (seconds[2] - seconds[0])


def peer(args):
    """pp512 and tg128 of llama.cpp, in a process of its own."""
    import llama_cpp

    clock = time.process_time if args.cpu_time else time.perf_counter

    model = llama_cpp.Llama(args.model, n_ctx=1024, n_batch=PROMPT, n_threads=args.threads,
                            n_threads_batch=args.threads, verbose=False)
    model.eval(prompt(16))
    model.reset()
    start = clock()
    model.eval(prompt(PROMPT))
    prefill = PROMPT / (clock() - start)
    model.reset()
    model.eval([1])
    start = clock()
    for token in prompt(NEW):
        model.eval([token])
    print(json.dumps({"pp512": prefill, "tg128": NEW / (clock() - start)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lathe")
    parser.add_argument("model")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--activations", default="int8")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
    if args.peer:
        return peer(args)
    lathe(args, prompt(4), 1)  # compiles into the cache
    rows = []
    for block in range(args.blocks):
        row = {"load": os.getloadavg()[0]}
        row["lathe pp512"], row["lathe tg128"] = measured(args)
        command = [sys.executable, __file__, args.lathe, args.model, "--threads", str(args.threads), "--peer"]
        command += ["--cpu-time"] if args.cpu_time else []
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        row.update({f"llama.cpp {name}": value for name, value in found.items()})
        rows.append(row)
        print(block, {name: round(value, 1) for name, value in row.items()}, flush=True)
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for name in ("pp512", "tg128"):
        ours, theirs = median[f"lathe {name}"], median[f"llama.cpp {name}"]
        print(f"{name}: lathe {ours:.0f}, llama.cpp {theirs:.0f} tokens/s, quotient {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
