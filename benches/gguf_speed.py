"""Prefill (pp512) and decode (tg128) of a GGUF model: Lathe and llama.cpp, in alternating blocks.

    pip install llama-cpp-python==0.3.36   # CMAKE_ARGS="-DGGML_NATIVE=ON" builds it for this CPU
    python3 benches/gguf_speed.py target/release/lathe model.gguf [--blocks 5] [--threads 2] [--activations int8]

Prints each block, then the medians and their quotients. Only a quiet machine gives numbers that mean something: the load average
is printed beside each block.
"""

import argparse
import json
import os
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


def peer(args):
    """pp512 and tg128 of llama.cpp, in a process of its own."""
    import llama_cpp

    model = llama_cpp.Llama(args.model, n_ctx=1024, n_batch=PROMPT, n_threads=args.threads,
                            n_threads_batch=args.threads, verbose=False)
    model.eval(prompt(16))
    model.reset()
    start = time.perf_counter()
    model.eval(prompt(PROMPT))
    prefill = PROMPT / (time.perf_counter() - start)
    model.reset()
    model.eval([1])
    start = time.perf_counter()
    for token in prompt(NEW):
        model.eval([token])
    print(json.dumps({"pp512": prefill, "tg128": NEW / (time.perf_counter() - start)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lathe")
    parser.add_argument("model")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--activations", default="int8")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args)
    lathe(args, prompt(4), 1)  # compiles into the cache
    rows = []
    for block in range(args.blocks):
        row = {"load": os.getloadavg()[0]}
        row["lathe pp512"] = lathe(args, prompt(PROMPT), 1)["prefill_tps"]
        row["lathe tg128"] = lathe(args, prompt(1), NEW + 1)["decode_tps"]
        command = [sys.executable, __file__, args.lathe, args.model, "--threads", str(args.threads), "--peer"]
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
